"""Weights that others saved: equal shapes of unequal networks, names and containers of all kinds, and damage."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from precompute.base.errors import UserError
from trainer.config.run import RunConfig
from trainer.model.encoders import TokenGrid, load_any, maps, pooled
from trainer.model.resnets import build_encoder, feature_maps, grid_of
from trainer.model.weights import load_encoder
from trainer.record.export import save_encoder


@pytest.fixture(scope="module")
def narrow() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return build_encoder("resnet10w16").state_dict()


@pytest.fixture(scope="module")
def resnet18() -> dict[str, Tensor]:
    torch.manual_seed(1)
    return build_encoder("resnet18").state_dict()


def test_a_stem_for_small_pictures_needs_its_name(tmp_path: Path) -> None:
    """A ResNet-18 as CIFAR's pictures are given to, and our narrow one, have the same shapes and other strides."""
    import torchvision

    own = torchvision.models.resnet18()
    own.conv1, own.maxpool, own.fc = nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.Identity(), nn.Identity()  # type: ignore[assignment]
    path = tmp_path / "simclr.pth"
    torch.save({"state_dict": {f"backbone.{k}": v for k, v in own.state_dict().items()}}, path)
    with pytest.raises(UserError, match=r"do not tell its strides: --arch resnet18w64 or resnet18_cifar.*stride 1"):
        load_encoder(path)
    encoder, arch, _ = load_encoder(path, "resnet18_cifar")
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(feature_maps(encoder.eval(), images)[4].mean((2, 3)), own.eval()(images))
        other = load_encoder(path, "resnet18w64")[0].eval()
        assert (feature_maps(other, images)[4].mean((2, 3)) - own(images)).abs().max() > 0.01
    assert arch == "resnet18_cifar"
    assert grid_of(encoder, 32) == feature_maps(encoder, images)[4].shape[-1] == 4
    assert load_any(path, "resnet18_cifar", None)[2] == 32


@pytest.mark.parametrize("arch", ["resnet50_cifar", "resnet34_cifar", "resnet10w16"])
def test_no_foreign_file_of_a_3x3_stem_is_guessed(arch: str, tmp_path: Path) -> None:
    torch.save(build_encoder(arch).state_dict(), tmp_path / "w.pth")
    with pytest.raises(UserError, match=f"do not tell its strides.*{arch}"):
        load_encoder(tmp_path / "w.pth")
    assert load_encoder(tmp_path / "w.pth", arch)[1] == arch


def test_our_own_files_say_what_they_are(narrow: dict[str, Tensor], tmp_path: Path) -> None:
    config = RunConfig.of(arch="resnet18w64")
    path = save_encoder(build_encoder("resnet18w64"), tmp_path, config)
    assert load_encoder(path)[1] == "resnet18w64"
    with pytest.raises(UserError, match="it says that it is a resnet18w64, not --arch resnet18_cifar"):
        load_encoder(path, "resnet18_cifar")
    save_file(narrow, tmp_path / "x.safetensors", {"arch": "resnet10w16"})
    assert load_encoder(tmp_path / "x.safetensors")[1] == "resnet10w16"


@pytest.mark.parametrize(
    ("arch", "where"),
    [
        ("resnetblur18", "arch in the file"),
        ("resnetblur18", "config.json beside"),
        ("resnetblur18", "settings"),
        ("resnetblur50", "name of the file"),
        ("resnetaa50", "name of the file"),
    ],
)
def test_blurred_resnets_are_not_taken_for_plain_ones(arch: str, where: str, tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    state = timm.create_model(arch).state_dict()
    path = tmp_path / (f"{arch}_a1.pth" if where == "name of the file" else "model.pth")
    torch.save({
        "arch in the file": {"arch": arch, "state_dict": state},
        "settings": {"args": {"model": f"{arch}.bt_in1k"}, "state_dict": state},
    }.get(where, state), path)  # fmt: skip
    if where == "config.json beside":
        (tmp_path / "config.json").write_text(json.dumps({"architecture": arch}))
    plain = f"resnet{arch[-2:]}"
    with pytest.raises(UserError, match=f"its shapes are those of {plain}, but .*(blur|aa).*--arch {plain}"):
        load_encoder(path)
    assert load_encoder(path, plain)[1] == plain


def test_what_shapes_alone_say_is_said(resnet18: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save(resnet18, tmp_path / "w.pth")
    assert "resnet18 by its shapes, which blurred or dilated ones share" in load_encoder(tmp_path / "w.pth")[2]
    assert "by its shapes" not in load_encoder(tmp_path / "w.pth", "resnet18")[2]
    torch.save({"arch": "resnet18", "state_dict": resnet18}, tmp_path / "w.pth")
    assert "by its shapes" not in load_encoder(tmp_path / "w.pth")[2]


WAYS: dict[str, Callable[[dict], object]] = {
    "backbone": lambda s: {"backbone": s, "optimizer": {"state": {"0": torch.ones(3)}}},
    "encoder": lambda s: {"encoder": s, "epoch": 3},
    "resnet": lambda s: {"resnet": s},
    "net": lambda s: {"net": s, "acc": 93.1},
    "network": lambda s: {"network": {"trunk": s}},
    "module": lambda s: {"module": s},
    "ema": lambda s: {"ema_state_dict": s},
    "ema beside": lambda s: {"ema_state_dict": {k: torch.zeros_like(v) for k, v in s.items()}, "net": s},
    "a name in model": lambda s: {"model": "resnet18", "weights": s},
    "deep": lambda s: {"state": {"student_model": {"module": {"base": s}}}},
    "itself": lambda s: (d := {"state_dict": s}) | {"again": d},
    "NumPy": lambda s: {"state_dict": {k: v.numpy() for k, v in s.items()}, "best": np.float64(0.7)},
    "NumPy, turned": lambda s: {k: np.asarray(v.numpy(), ">f8" if v.is_floating_point() else ">i8", order="F")
                                for k, v in s.items()},
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_weights_are_found_wherever_they_lie(way: str, resnet18: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save(WAYS[way](resnet18), tmp_path / "w.pth")
    encoder, arch, _ = load_encoder(tmp_path / "w.pth")
    assert arch == "resnet18"
    for name, value in encoder.state_dict().items():
        torch.testing.assert_close(value, resnet18[name], rtol=0, atol=0)


def test_the_kind_of_a_file_is_in_its_bytes(narrow: dict[str, Tensor], tmp_path: Path) -> None:
    save_file(narrow, tmp_path / "w.pth")
    arrays: dict = {k: v.numpy() for k, v in narrow.items()}
    np.savez(tmp_path / "w.npz", **arrays)
    torch.save(narrow, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    for name in ("w.pth", "w.npz", "old.pth"):
        encoder, _, _ = load_encoder(tmp_path / name, "resnet10w16")
        assert all(torch.equal(v, narrow[k]) for k, v in encoder.state_dict().items())


def test_files_of_other_kinds_are_named(narrow: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    model = build_encoder("resnet10w16").eval()
    with warnings.catch_warnings():  # TorchScript is deprecated
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(nn.Conv2d(3, 4, 3), torch.zeros(1, 3, 8, 8)), path)
    with pytest.raises(UserError, match=r"TorchScript.*torch.jit.load\(FILE\).state_dict\(\)") as caught:
        load_encoder(path)
    assert "weights_only" not in str(caught.value)
    for data, said in (
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        (b"<!DOCTYPE html><html>Not found</html>", "HTML page"),
        (b"\x89HDF\r\n\x1a\n" + bytes(50), "HDF5"),
        (b"", "an empty file"),
        (bytes(4000), "all zero"),
    ):
        path.write_bytes(data)
        with pytest.raises(UserError, match=f"w.pth: .*{said}"):
            load_encoder(path)
    torch.save(model.state_dict(), path)
    whole = path.read_bytes()
    for cut in (10, 1000, len(whole) // 2, len(whole) - 20):
        path.write_bytes(whole[:cut])
        with pytest.raises(UserError, match=r"cut|damaged|no weights file"):
            load_encoder(path)
    at = len(whole) // 2
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 64]) + whole[at + 1 :])
    with pytest.raises(UserError, match="damaged"):
        load_encoder(path)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda v: v.to_sparse(), r"sparse: layer1.*to_dense"),
        (lambda v: v.to("meta"), "only shapes, no values"),
        (lambda v: v.to(torch.int8), "of type int8"),
        (lambda v: v.to(torch.float8_e4m3fn), "of type float8_e4m3fn"),
        (lambda v: v.to(torch.complex64), "of type complex64"),
        (lambda v: torch.zeros(1).expand(v.shape), "shown many times"),
        (lambda v: v * float("inf"), "not finite"),
        (lambda v: v.double() * 1e300, "not finite"),
        (lambda v: v[0, 0, 0, 0], "of another shape"),
    ],
)
def test_tensors_that_are_no_plain_numbers(
    make: Callable, said: str, narrow: dict[str, Tensor], tmp_path: Path
) -> None:
    torch.save(narrow | {"layer1.0.conv1.weight": make(narrow["layer1.0.conv1.weight"])}, tmp_path / "w.pth")
    with pytest.raises(UserError, match=rf"w.pth.*(?s:{said}|no ResNet)"):
        load_encoder(tmp_path / "w.pth", "resnet10w16")


def test_a_file_that_holds_itself_ends(narrow: dict[str, Tensor], tmp_path: Path) -> None:
    held: dict = {"epoch": 1}
    held["state_dict"] = held
    torch.save(held, tmp_path / "w.pth")
    with pytest.raises(UserError, match="no weights in it"):
        load_encoder(tmp_path / "w.pth")
    held.update(narrow)
    torch.save(held, tmp_path / "w.pth")
    assert load_encoder(tmp_path / "w.pth", "resnet10w16")[1] == "resnet10w16"
    torch.save(narrow | {"bn1.running_var": -narrow["bn1.running_var"]}, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"negative variances: bn1\.running_var"):
        load_encoder(tmp_path / "w.pth", "resnet10w16")


@pytest.mark.parametrize("registers", [0, 4])
def test_dinov2_as_its_makers_saved_it(registers: int, tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    name = f"vit_small_patch14_{'reg4_' if registers else ''}dinov2"
    own = timm.create_model(name, num_classes=0, img_size=70).eval()
    state = own.state_dict()
    if registers:  # the makers' positions have a first one, for the class token
        state["register_tokens"] = state.pop("reg_token")
        state["pos_embed"] = torch.cat([torch.zeros_like(state["cls_token"]), state["pos_embed"]], 1)
    torch.save(state | {"mask_token": torch.zeros(1, 384)}, tmp_path / "dinov2.pth")
    encoder, arch, _, _ = load_any(tmp_path / "dinov2.pth", None, 70)
    assert isinstance(encoder, TokenGrid)
    assert arch == name
    images = torch.randn(1, 3, 70, 70)
    with torch.no_grad():
        torch.testing.assert_close(pooled(encoder.eval(), images), own(images))
        assert maps(encoder, images).shape == (1, 384, 5, 5)


def test_moco_v3s_small_vit_is_not_taken_for_timms(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    state = timm.create_model("vit_small_patch16_224", depth=1).state_dict()
    torch.save({"state_dict": {f"module.base_encoder.{k}": v for k, v in state.items()}}, tmp_path / "moco.pth")
    with pytest.raises(UserError, match="12 heads"):
        load_any(tmp_path / "moco.pth", None, None)
