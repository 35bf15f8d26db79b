"""Weights of detectors that are no plain numbers, or whose maps are none, are named before a box is made of them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from precompute.base.errors import UserError
from precompute.saliency import basnet
from precompute.saliency.u2net import Network, load, published_shapes
from precompute.saliency.weights import read_onnx
from precompute.scan import detect_maps


@pytest.fixture(scope="module")
def u2netp() -> dict[str, torch.Tensor]:
    return {name: torch.full(shape, 0.01) for name, shape in published_shapes(Network(small=True)).items()}


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda a: np.where(a == a.max(), np.nan, a), "not finite"),
        (lambda a: np.where(a == a.max(), np.inf, a), "not finite"),
        (lambda a: np.float32(3), r"is no convolution \(weight \[\]"),
        (lambda a: a[0], "is no convolution"),
        (lambda a: a[:-1], "is no convolution"),
    ],
)
def test_a_damaged_onnx_graph(make: Callable, said: str, shared_data: Path, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    model = onnx.load(shared_data / "weights" / "u2netp.onnx")
    name = next(node.input[1] for node in model.graph.node if node.op_type == "Conv")
    tensor = next(t for t in model.graph.initializer if t.name == name)
    array: Any = make(onnx.numpy_helper.to_array(tensor))
    tensor.CopyFrom(onnx.numpy_helper.from_array(np.asarray(array, np.float32), name))
    path = tmp_path / "w.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(UserError, match=rf"w\.onnx: .*{said}"):
        load(str(path))
    whole = (shared_data / "weights" / "u2netp.onnx").read_bytes()
    for end in (len(whole) // 2, len(whole) - 5):
        path.write_bytes(whole[:end])
        with pytest.raises(UserError, match=r"w\.onnx"):
            read_onnx(path)


@pytest.mark.parametrize(
    ("name", "make", "said"),
    [
        ("stage1.rebnconvin.conv_s1.weight", lambda v: v * float("nan"), "not finite: stage1.rebnconvin.conv_s1"),
        ("stage3.rebnconv1.bn_s1.running_var", lambda v: -v, "negative variances: stage3"),
        ("side1.bias", lambda v: v.to("meta"), "only shapes, no values"),
        ("outconv.weight", lambda v: v.to_sparse(), "sparse: outconv.weight"),
        ("outconv.weight", lambda v: v.to(torch.int8), "of type int8"),
        ("outconv.bias", lambda v: v[0], "neither U²-Net's nor U²-Netp's"),
        ("stage1.rebnconvin.bn_s1.weight", lambda v: v[:1], "neither U²-Net's nor U²-Netp's"),
    ],
)
def test_a_damaged_checkpoint(name: str, make: Callable, said: str, u2netp: dict, tmp_path: Path) -> None:
    torch.save(u2netp | {name: make(u2netp[name])}, tmp_path / "w.pth")
    with pytest.raises(UserError, match=rf"w\.pth: .*{said}"):
        load(str(tmp_path / "w.pth"))


def test_checkpoints_load_from_wherever_they_lie(u2netp: dict, tmp_path: Path) -> None:
    torch.save({"net": {f"module.{k}": v for k, v in u2netp.items()}, "optimizer": {}}, tmp_path / "w.pth")
    network, kind = load(str(tmp_path / "w.pth"))
    assert kind == "u2netp"
    assert all(value.isfinite().all() for value in network.state_dict().values())


def test_basnets_nan_is_named(tmp_path: Path) -> None:
    state = {name: torch.full(shape, 0.1) for name, shape in basnet.published_shapes().items()}
    state["refunet.conv0.weight"][3, 0, 1, 1] = float("nan")
    torch.save(state, tmp_path / "basnet.pth")
    with pytest.raises(UserError, match=r"basnet\.pth: not finite: refunet\.conv0\.weight"):
        basnet.load(str(tmp_path / "basnet.pth"))


class Broken:
    """A detector from elsewhere whose maps hold one NaN."""

    side, batch, gamma = 32, 4, 0.02

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        maps = images[..., 0].float()
        maps[1, 3, 4] = float("nan")
        return maps

    def describe(self) -> dict[str, Any]:
        return {"detector": "broken"}


def test_maps_that_are_no_numbers_are_no_boxes() -> None:
    with pytest.raises(UserError, match="broken: its maps hold NaN or infinity"):
        detect_maps(Broken(), np.zeros((2, 32, 32, 3), np.uint8), 32, "cpu")
