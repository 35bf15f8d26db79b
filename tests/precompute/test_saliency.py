"""Detectors: batches change nothing, slow references agree, weights load from .onnx and .pth, real boxes are good."""

import heapq
import sys

import numpy as np
import pytest
import torch

from precompute.base import pixels
from precompute.base.boxfile import BoxCache
from precompute.base.boxmath import agreement
from precompute.base.errors import UserError
from precompute.datasets import read_dataset
from precompute.datasets.listing import clip_box
from precompute.saliency import DETECTORS, make_detector
from precompute.saliency.barrier import barriers
from precompute.saliency.colour import rgb_to_lab
from precompute.saliency.geodesic import from_the_edge, neighbour_steps
from precompute.saliency.u2net import Network, load
from precompute.saliency.weights import read_onnx
from precompute.scan import detect_maps
from precompute.search.forms import Form, find_boxes, quantise

WEIGHTLESS = [name for name, entry in DETECTORS.items() if not entry.needs_weights]


@pytest.fixture(scope="module")
def birds(shared_data):
    """Every third real CUB picture's bytes, and its true box in [0, 1]."""
    listing = read_dataset("cub", shared_data / "CUB_200_2011")
    files, truths = [], []
    for i in range(0, len(listing), 3):
        data = (listing.root / listing.paths[i]).read_bytes()
        info = pixels.probe(data)
        box = listing.box(i)
        assert box is not None
        files.append(data)
        truths.append(clip_box(box, info.width, info.height)[0])
    return files, np.array(truths)


def small(files, side: int) -> np.ndarray:
    return np.stack([pixels.thumbnail(data, side)[1] for data in files])


def mean_iou(detector, files, truths) -> dict:
    maps = np.concatenate(
        [
            detect_maps(detector, small(files[i : i + detector.batch], detector.side), 64, "cpu")
            for i in range(0, len(files), detector.batch)
        ]
    )
    found = find_boxes(quantise(maps), Form("tempered", detector.gamma))
    boxes = found / 64
    boxes[found[:, 2] == 0] = (0, 0, 1, 1)
    return agreement(boxes, truths)


@pytest.mark.parametrize("name", WEIGHTLESS)
def test_maps_do_not_depend_on_the_batch(name, birds):
    detector = make_detector(name)
    pictures = torch.from_numpy(small(birds[0][:5], detector.side))
    with torch.inference_mode():
        together = detector(pictures)
        assert together.dtype == torch.float32
        assert torch.isfinite(together).all()
        for i in range(len(pictures)):
            alone = detector(pictures[i : i + 1])[0]
            torch.testing.assert_close(alone, together[i], rtol=1e-5, atol=1e-5 * float(together[i].abs().max()))


@pytest.mark.parametrize("name", WEIGHTLESS)
def test_flat_pictures_give_finite_maps(name):
    detector = make_detector(name)
    flat = torch.full((2, detector.side, detector.side, 3), 128, dtype=torch.uint8)
    flat[1] = 0
    with torch.inference_mode():
        assert torch.isfinite(detector(flat)).all()


def test_lab_of_known_colours():
    colours = torch.tensor([[255, 255, 255], [0, 0, 0], [255, 0, 0], [0, 0, 255]], dtype=torch.uint8)
    expected = [[100, 0, 0], [0, 0, 0], [53.24, 80.09, 67.2], [32.3, 79.19, -107.86]]
    torch.testing.assert_close(rgb_to_lab(colours), torch.tensor(expected), rtol=0, atol=0.05)


def test_geodesic_is_dijkstra(birds):
    lab = rgb_to_lab(torch.from_numpy(small(birds[0][:2], 24)))
    fast = from_the_edge(lab)
    across, down = neighbour_steps(lab)
    for b in range(2):
        reached = np.full((24, 24), np.inf)
        queue = [(0.0, y, x) for y in range(24) for x in range(24) if y in (0, 23) or x in (0, 23)]
        while queue:
            cost, y, x = heapq.heappop(queue)
            if cost >= reached[y, x]:
                continue
            reached[y, x] = cost
            for ny, nx, step in (
                (y, x + 1, across[b, y, x] if x < 23 else None),
                (y, x - 1, across[b, y, x - 1] if x > 0 else None),
                (y + 1, x, down[b, y, x] if y < 23 else None),
                (y - 1, x, down[b, y - 1, x] if y > 0 else None),
            ):
                if step is not None:
                    heapq.heappush(queue, (cost + float(step), ny, nx))
        np.testing.assert_allclose(fast[b].numpy(), reached, rtol=1e-4, atol=1e-3)


def test_barriers_are_ranges_of_real_ways():
    """No sweep can find less than the true minimum; on a ramp and a walled island the true ones are known."""
    picture = torch.zeros(1, 9, 9)
    picture[0, 2:7, 2:7] = 50
    picture[0, 4, 4] = 20
    found = barriers(picture)[0]
    assert found[0].abs().max() == 0
    assert found[3, 3] == 50
    assert found[4, 4] == 50  # from 0 over the wall of 50 down to 20
    ramp = torch.arange(9.0).expand(1, 9, 9)
    assert barriers(ramp)[0].abs().max() == 0  # straight up or down nothing changes


def test_default_beats_the_centred_box_on_birds(birds):
    facts = mean_iou(make_detector("geodesic-colour"), *birds)
    assert facts["mean_iou"] > 0.59
    assert facts["mean_iou"] > facts["centred_mean_iou"] + 0.05
    assert mean_iou(make_detector("geodesic"), *birds)["mean_iou"] > 0.57


def test_u2netp_on_birds(birds, shared_data):
    files, truths = birds
    detector = make_detector("u2net", weights=str(shared_data / "weights" / "u2netp.onnx"))
    assert detector.describe()["detector"] == "u2netp"
    assert len(detector.describe()["weights_sha256"]) == 64
    assert mean_iou(detector, files[::18], truths[::18])["mean_iou"] > 0.75


def test_onnx_and_pth_give_the_same_network(shared_data, tmp_path):
    """A published checkpoint's names, with batch normalisation, against the folded graph."""
    onnx = str(shared_data / "weights" / "u2netp.onnx")
    network, name = load(onnx)
    assert name == "u2netp"
    rng = torch.Generator().manual_seed(0)
    state = {}
    for key, conv in network.convolutions():
        assert conv.bias is not None
        if not key.startswith("stage"):
            state[f"{key}.weight"], state[f"{key}.bias"] = conv.weight, conv.bias
            continue
        width = len(conv.bias)
        gain, mean = torch.rand(width, generator=rng) + 0.5, torch.randn(width, generator=rng)
        variance, shift = torch.rand(width, generator=rng) + 0.5, torch.randn(width, generator=rng)
        scale = gain / torch.sqrt(variance + 1e-5)
        state[f"{key}.conv_s1.weight"] = conv.weight / scale.view(-1, 1, 1, 1)
        state[f"{key}.conv_s1.bias"] = (conv.bias - shift) / scale + mean
        names = {"weight": gain, "bias": shift, "running_mean": mean, "running_var": variance}
        state |= {f"{key}.bn_s1.{k}": v for k, v in names.items()}
        state[f"{key}.bn_s1.num_batches_tracked"] = torch.tensor(3)
    torch.save({f"module.{k}": v for k, v in state.items()}, tmp_path / "u2netp.pth")
    other, _ = load(str(tmp_path / "u2netp.pth"))
    picture = torch.rand(1, 3, 64, 64, generator=rng)
    with torch.inference_mode():
        torch.testing.assert_close(other(picture), network(picture), rtol=1e-3, atol=1e-4)


def test_the_full_network_has_the_published_size():
    assert sum(p.numel() for p in Network(small=False).parameters()) == pytest.approx(44.0e6, rel=0.005)
    assert sum(p.numel() for p in Network(small=True).parameters()) == pytest.approx(1.13e6, rel=0.005)


def test_wrong_weights_are_named(tmp_path, shared_data):
    data = (shared_data / "weights" / "u2netp.onnx").read_bytes()
    for name, content in (
        ("cut.onnx", data[:5000]),
        ("noise.onnx", b"\xff" * 64),
        ("text.pth", b"hello"),
        ("empty.onnx", b""),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=name) as refused:
            load(str(tmp_path / name))
        assert "weights_only" not in str(refused.value)  # torch's advice: run whatever is in the file
    torch.save({"a": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match="neither"):
        load(str(tmp_path / "other.pth"))
    with pytest.raises(UserError, match="needs --weights FILE"):
        make_detector("u2net")
    with pytest.raises(UserError, match="known: geodesic-colour"):
        make_detector("best")
    assert len(read_onnx(shared_data / "weights" / "u2netp.onnx")) == 119


def test_a_missing_onnx_package_is_named(shared_data, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(UserError, match=r"u2netp\.onnx: .*pip install 'saliencyswap\[onnx\]'"):
        read_onnx(shared_data / "weights" / "u2netp.onnx")


def test_weights_that_nothing_would_take_are_refused():
    from precompute.boxes import BoxSettings

    for source in ("gt", "geodesic"):
        with pytest.raises(ValueError, match=f"weights='w.pth': must be left out: --source {source} has none; u2net"):
            BoxSettings(source=source, weights="w.pth")
    assert BoxSettings(weights="w.pth").source == "auto"


class Middle:
    """A detector from elsewhere: bright in the middle."""

    side, batch, gamma = 8, 4, 0.05

    def __init__(self, device: str) -> None:
        self.device = device

    def describe(self) -> dict:
        return {"detector": "middle", "version": 1}

    def __call__(self, images):
        maps = torch.zeros(images.shape[:3])
        maps[:, 2:6, 2:6] = 1
        return maps


class NoDetector(Middle):
    describe = side = property()  # type: ignore[assignment] - neither can be read


def test_a_detector_from_elsewhere(run_here, demo_root, tmp_path):
    run = ("precompute.boxes", "--dataset", "demo", "--root", demo_root, "--out", tmp_path / "x.h5", "--source")
    done = run_here(*run, f"{__name__}:Middle")
    assert done.returncode == 0, done.stderr
    cache = BoxCache.open(tmp_path / "x.h5")
    assert cache.source_names[2] == f"{__name__}:Middle"
    np.testing.assert_allclose(cache.boxes, np.tile([[0.25, 0.25, 0.75, 0.75]], (96, 1)), atol=1 / 16)
    assert cache.provenance["config"]["detector"] == {"detector": "middle", "version": 1}
    for name, status, reason in (
        (f"{__name__}:NoDetector", 1, "has no side, describe"),
        (f"{__name__}:Nobody", 1, "module:Class of something that can be imported (module"),
        ("json:JSONDecoder", 1, "--source json:JSONDecoder: must be a class that is called with device= ("),
        ("no_such_module:X", 1, "No module named 'no_such_module'"),
        ("best", 2, "must be one of auto, gt, maps, geodesic-colour"),
    ):
        done = run_here(*run, name)
        assert (done.returncode, reason in done.stderr) == (status, True), done.stderr
