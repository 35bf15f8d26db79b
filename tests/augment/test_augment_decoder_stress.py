"""On CUDA: no picture is overwritten while kernels of torch still read it, however many of them are queued."""

import os

import pytest
import torch
from test_augment_backends import birds  # noqa: F401 - a fixture

from augment.stream.imageset import ImageSet


@pytest.fixture
def photographs(request: pytest.FixtureRequest) -> ImageSet:
    """Those that benchmarks.suite names, since a GPU machine may have no others; else the real birds of the tests."""
    if boxes := os.environ.get("GPU_TESTS_BOXES"):
        return ImageSet.open(boxes, os.environ["GPU_TESTS_ROOT"])
    return request.getfixturevalue("birds")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_no_pixel_is_corrupted_while_kernels_are_queued(photographs: ImageSet):
    """DALI knows nothing of torch's streams: what it decodes next must not land where a queued kernel still reads."""
    pytest.importorskip("nvidia.dali")
    from augment.backends.dali import Decoder

    device = torch.device("cuda")
    decoder = Decoder(device, workers=4, batch=16)
    batches = [[photographs.read(i) for i in range(start, start + 16)] for start in range(0, 96, 16)]
    expected = []
    for files in batches:
        pictures = decoder.decode(files)
        torch.cuda.synchronize()
        expected.append([picture.clone() for picture in pictures])
        decoder.keep(pictures)
    weights = torch.randn(4096, 4096, device=device)
    wrong = torch.zeros((), dtype=torch.int64, device=device)
    for turn in range(300):
        which = turn % len(batches)
        pictures = decoder.decode(batches[which])
        for _ in range(turn % 8):  # the comparison waits behind these, while the host goes on to the next decode
            weights = torch.tanh(weights @ weights)
        for picture, clean in zip(pictures, expected[which], strict=True):
            wrong += (picture != clean).sum()
        decoder.keep(pictures)
        del pictures
    assert wrong.item() == 0
    decoder.close()
