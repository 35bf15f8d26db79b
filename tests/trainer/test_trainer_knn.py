"""kNN against lightly's, on features of real photographs."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from trainer_photos import MEAN, STD, read_cub

from trainer.evaluation.knn import knn_accuracy, knn_predict
from trainer.model.resnets import build_encoder, feature_maps


@pytest.fixture(scope="module")
def features(shared_data: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Features [48, 64] and labels [48] of real birds."""
    import numpy as np

    images, _, labels = read_cub(shared_data / "CUB_200_2011", 48)
    x = torch.stack([torch.from_numpy(np.array(i.resize((64, 64)))) for i in images])
    encoder = build_encoder("resnet10w8").eval()
    with torch.no_grad():
        z = feature_maps(encoder, ((x.float() / 255 - MEAN) / STD).permute(0, 3, 1, 2))[4].mean((2, 3))
    return z, torch.tensor(labels)


@pytest.mark.parametrize("k", [1, 5, 20])
def test_equals_lightly(features: tuple[torch.Tensor, torch.Tensor], k: int) -> None:
    lightly_knn = pytest.importorskip("lightly.utils.benchmarking.knn").knn_predict

    z, labels = features
    z = F.normalize(z - z.mean(0), dim=1)
    bank, queries = z[::2], z[1::2]
    classes = int(labels.max()) + 1
    theirs = lightly_knn(queries, bank.T.contiguous(), labels[::2], classes, knn_k=k, knn_t=0.1)
    ours = knn_predict(queries, bank, labels[::2], classes, k=k, temperature=0.1)
    assert torch.equal(ours.argmax(1), theirs[:, 0])


def test_finds_itself_and_copes_with_a_small_bank(features: tuple[torch.Tensor, torch.Tensor]) -> None:
    z, labels = features
    z = z - z.mean(0)
    assert knn_accuracy(z, labels, z, labels, k=1) == 1.0
    assert 0 <= knn_accuracy(z[:4], labels[:4], z[4:7], labels[4:7], k=200) <= 1
    with pytest.raises(ValueError, match="at least one"):
        knn_accuracy(z[:0], labels[:0], z, labels)
