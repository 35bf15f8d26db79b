"""ViTs of timm's and torchvision's key names give the features that the libraries' own models give."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torchvision.models import get_model

from precompute.base.errors import UsageError, UserError
from trainer.model.encoders import TokenGrid, load_any, maps, pooled, untrained, width


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DINO-style file of timm's smallest ViT: a teacher beside a student, with a classifier."""
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    state = timm.create_model("vit_tiny_patch16_224", num_classes=5).state_dict()
    path = tmp_path_factory.mktemp("vit") / "tiny.pth"
    torch.save({"state_dict": {f"backbone.{k}": v for k, v in state.items()}}, path)
    return path


def test_timm_vit_gives_timms_features(tiny: Path) -> None:
    import timm

    encoder, arch, size, remark = load_any(tiny, None, None)
    assert isinstance(encoder, TokenGrid)
    assert (arch, size, width(encoder)) == ("vit_tiny_patch16_224", 224, 192)
    assert "all 150 tensors" in remark
    assert "not used: backbone.head.bias, backbone.head.weight" in remark
    own = timm.create_model(arch, num_classes=0).eval()
    state = torch.load(tiny, weights_only=True)["state_dict"]
    own.load_state_dict({k.removeprefix("backbone."): v for k, v in state.items() if "head." not in k})
    images = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(pooled(encoder.eval(), images), own(images))
        grid, tokens = maps(encoder, images), own.forward_features(images)
    assert grid.shape == (2, 192, 14, 14)
    torch.testing.assert_close(grid[:, :, 3, 5], tokens[:, 1 + 3 * 14 + 5])


def test_other_sizes_interpolate_the_positions(tiny: Path) -> None:
    encoder, _, size, _ = load_any(tiny, None, 64)
    assert size == 64
    assert maps(encoder, torch.randn(1, 3, 64, 64)).shape == (1, 192, 4, 4)
    with pytest.raises(UserError, match="--size 50: must be a multiple of the ViT's patch of 16"):
        load_any(tiny, None, 50)


def test_what_does_not_fit_names_itself(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not fit vit_small_patch16_224: of another shape"):
        load_any(tiny, "vit_small_patch16_224", None)
    state = torch.load(tiny, weights_only=True)["state_dict"]
    del state["backbone.blocks.3.norm1.weight"]
    torch.save(state, tmp_path / "cut.pth")
    with pytest.raises(UserError, match=r"missing blocks.3.norm1.weight"):
        load_any(tmp_path / "cut.pth", None, None)
    with pytest.raises(UserError, match="no ResNet"):
        load_any(tiny, "resnet18", None)


def test_weights_that_are_no_numbers_are_named(tiny: Path, tmp_path: Path) -> None:
    state = torch.load(tiny, weights_only=True)["state_dict"]
    state["backbone.blocks.3.norm1.weight"][5] = float("nan")
    torch.save(state, tmp_path / "nan.pth")
    with pytest.raises(UserError, match=r"not finite: blocks.3.norm1.weight"):
        load_any(tmp_path / "nan.pth", None, None)


def test_distilled_deit_has_two_tokens_before_the_patches(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    own = timm.create_model("deit_tiny_distilled_patch16_224").eval()
    torch.save({"model": own.state_dict()}, tmp_path / "deit.pth")
    encoder, arch, _, _ = load_any(tmp_path / "deit.pth", None, None)
    assert arch == "deit_tiny_distilled_patch16_224"
    images = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        tokens = own.forward_features(images)
        torch.testing.assert_close(maps(encoder.eval(), images)[:, :, 0, 1], tokens[:, 3])


def test_siglip_without_arch_asks_for_it(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    own = timm.create_model("vit_base_patch16_siglip_224", depth=1)
    torch.save(own.state_dict(), tmp_path / "siglip.pth")
    with pytest.raises(UserError, match=r"siglip.pth.*--arch"):
        load_any(tmp_path / "siglip.pth", None, None)


@pytest.mark.parametrize(
    ("arch", "size", "side", "shape"),
    [
        ("vit_tiny_patch16_224", None, 224, (1, 192, 14, 14)),
        ("vit_tiny_patch16_224", 64, 64, (1, 192, 4, 4)),
        ("resnet18", 64, 64, (1, 512, 2, 2)),
        ("resnet10w4", None, 64, (1, 32, 8, 8)),
    ],
)
def test_untrained_networks(arch: str, size: int | None, side: int, shape: tuple[int, ...]) -> None:
    pytest.importorskip("timm")
    encoder, found = untrained(arch, size)
    assert found == side
    assert maps(encoder, torch.zeros(1, 3, side, side)).shape == shape
    assert width(encoder) == shape[1]


def test_untrained_networks_nobody_knows_are_usage_errors() -> None:
    pytest.importorskip("timm")
    with pytest.raises(UsageError, match="--arch vit_huge_patch3: neither torchvision nor timm"):
        untrained("vit_huge_patch3", None)
    with pytest.raises(UsageError, match=r"--arch alexnet: unknown. Valid: .*resnet18"):
        untrained("alexnet", None)
    for arch in ("vit_b_16", "vit_tiny_patch16_224"):
        with pytest.raises(UserError, match="--size 50: must be a multiple of the ViT's patch of 16"):
            untrained(arch, 50)


@pytest.mark.slow  # a third of a gigabyte of weights
def test_torchvision_vit_gives_torchvisions_features(tmp_path: Path) -> None:
    own = get_model("vit_b_16", weights=None).eval()
    torch.save(own.state_dict(), tmp_path / "b16.pth")
    encoder, arch, _, _ = load_any(tmp_path / "b16.pth", None, None)
    assert arch == "vit_b_16"
    own.heads = torch.nn.Identity()  # type: ignore[assignment]
    images = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(pooled(encoder.eval(), images), own(images))
    assert maps(load_any(tmp_path / "b16.pth", None, 64)[0], images[:, :, :64, :64]).shape == (1, 768, 4, 4)


def test_evaluate_takes_a_vit(tiny: Path, demo_boxes: Path, demo_root: Path, run_here: Callable) -> None:
    done = run_here(
        "trainer.evaluate", tiny, "--boxes", demo_boxes, "--root", demo_root, "--size", 64, "--device", "cpu",
        "--protocol", "knn", "localise", "linear", "--linear-epochs", 1, "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["arch"] == "vit_tiny_patch16_224"
    assert found["knn"]["images"] == found["linear"]["images"] == 48
    assert 0.3 < found["localise"]["probe"]["auc"] <= 1
