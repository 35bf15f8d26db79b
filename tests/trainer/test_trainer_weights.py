"""Weights of every usual container load, the right copy is taken, and what does not fit says so."""

from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import load_file, save_file

from precompute.base.errors import UserError
from trainer.config.run import RunConfig
from trainer.methods.byol import Byol
from trainer.model.networks import Heads, build_model
from trainer.model.resnets import build_encoder
from trainer.model.weights import load_encoder
from trainer.record.export import save_encoder

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def resnet18() -> dict[str, torch.Tensor]:
    torch.manual_seed(3)
    return torchvision.models.resnet18().state_dict()


def containers(state: dict[str, torch.Tensor]) -> dict[str, object]:
    other = {k: torch.zeros_like(v) for k, v in state.items()}
    return {
        "torchvision": state,
        "openmixup": {"state_dict": {"backbone." + k: v for k, v in state.items()}, "meta": {"epoch": 3}},
        "moco": {"state_dict": {**{"module.encoder_k." + k: v for k, v in other.items()},
                                **{"module.encoder_q." + k: v for k, v in state.items()}}},
        "byol": {"model": {**{"target_net.0." + k: v for k, v in other.items()},
                           **{"online_net.0." + k: v for k, v in state.items()}}},
        "ours": {"method": {**{"online.encoder." + k: v for k, v in state.items()},
                            **{"target.encoder." + k: v for k, v in other.items()}}},
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["torchvision", "openmixup", "moco", "byol", "ours"])
def test_every_container_gives_the_online_encoder(kind: str, resnet18: dict, tmp_path: Path) -> None:
    torch.save(containers(resnet18)[kind], tmp_path / "w.pth")
    encoder, arch, remark = load_encoder(tmp_path / "w.pth")
    assert arch == "resnet18"
    assert all(torch.equal(v, resnet18[k]) for k, v in encoder.state_dict().items())
    assert "fc.weight" in remark  # said to be left over


@pytest.mark.parametrize("kind", ["lightly", "vissl", "bare sequence"])
def test_names_of_other_libraries(kind: str, resnet18: dict, tmp_path: Path) -> None:
    """lightly's examples keep a ResNet's children in a Sequential; VISSL nests deeply and calls them feature blocks."""
    net = torchvision.models.resnet18()
    net.load_state_dict(resnet18)
    sequence = torch.nn.Sequential(*list(net.children())[:-1])
    slow = torch.nn.Sequential(*list(torchvision.models.resnet18().children())[:-1])
    trunk = {f"_feature_blocks.{k}": v for k, v in resnet18.items() if not k.startswith("fc.")}
    head = {"projection_head.layers.0.weight": torch.zeros(8, 512)}
    saved = {
        "lightly": {"state_dict": head | torch.nn.ModuleDict(
            {"backbone_momentum": slow, "backbone": sequence}).state_dict(), "epoch": 3},
        "vissl": {"classy_state_dict": {"base_model": {"model": {"trunk": trunk, "heads": head}}}, "phase_idx": 1},
        "bare sequence": sequence.state_dict(),
    }  # fmt: skip
    torch.save(saved[kind], tmp_path / "w.ckpt")
    encoder, arch, remark = load_encoder(tmp_path / "w.ckpt")
    assert arch == "resnet18"
    assert all(torch.equal(v, resnet18[k]) for k, v in encoder.state_dict().items())
    assert ("backbone_momentum" in remark) == (kind == "lightly")  # said to be left over


@pytest.mark.parametrize(
    "arch", ["resnet34", "resnet50", "wide_resnet50_2", "resnext50_32x4d", "resnet10w16", "resnet18w8"]
)
def test_architecture_is_found_from_shapes(arch: str, tmp_path: Path) -> None:
    state = build_encoder(arch).state_dict()
    metadata = {"arch": arch} if "w" in arch[6:] else None  # a narrow one's strides are not in its shapes
    save_file({k: v.contiguous() for k, v in state.items()}, tmp_path / "w.safetensors", metadata)
    encoder, found, _ = load_encoder(tmp_path / "w.safetensors")
    assert found == arch
    assert torch.equal(encoder.conv1.weight, state["conv1.weight"])


def test_timm_resnets_share_the_names(tmp_path: Path) -> None:
    import timm

    model = timm.create_model("resnet18", pretrained=False)
    torch.save(model.state_dict(), tmp_path / "timm.pth")
    encoder, arch, _ = load_encoder(tmp_path / "timm.pth")
    assert arch == "resnet18"
    assert torch.equal(encoder.layer4[1].bn2.weight, model.layer4[1].bn2.weight)  # type: ignore[union-attr]


def test_what_does_not_fit_says_so(resnet18: dict, tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    with pytest.raises(UserError, match="no such weights file"):
        load_encoder(path)
    with pytest.raises(UserError, match="is a folder; name the file of weights in it"):
        load_encoder(tmp_path)
    torch.save(build_encoder("resnet10w4"), path)  # a whole model
    with pytest.raises(UserError, match=r"\.state_dict\(\) instead"):
        load_encoder(path)
    path.write_text("hello")
    with pytest.raises(UserError, match="cannot be read as torch weights"):
        load_encoder(path)
    torch.save({"a": torch.zeros(3)}, path)
    with pytest.raises(UserError, match=r"no ResNet or ViT in it.*It holds a"):
        load_encoder(path)
    torch.save(resnet18, path)
    with pytest.raises(UserError, match=r"does not fit --arch resnet50: missing layer1.0.bn3"):
        load_encoder(path, "resnet50")
    torch.save({k: v for k, v in resnet18.items() if "layer3.1" not in k}, path)
    with pytest.raises(UserError, match=r"no ResNet that is known here \(resnet101.*--arch says what differs"):
        load_encoder(path)
    with pytest.raises(UserError, match=r"missing layer3.1.bn1.bias"):
        load_encoder(path, "resnet18")


def test_half_of_a_network_or_a_broken_one_is_refused(resnet18: dict, tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save(build_encoder("resnet34").state_dict(), path)
    with pytest.raises(
        UserError, match=r"does not fit --arch resnet18: unknown layer1.2.bn1.bias.* more. It holds a resnet34$"
    ):
        load_encoder(path, "resnet18")  # each of whose tensors is there
    torch.save(resnet18 | {"bn1.weight": resnet18["bn1.weight"] * float("nan")}, path)
    with pytest.raises(UserError, match=r"not finite: bn1.weight"):
        load_encoder(path)
    torch.save({"conv1.0.weight": torch.zeros(8, 3, 3, 3), "layer1.0.conv1.weight": torch.zeros(8)}, path)
    with pytest.raises(UserError, match=r"stem of several convolutions.*not taken"):
        load_encoder(path)
    torch.save({"network": {"epoch": 3}}, path)
    with pytest.raises(UserError, match=r"no weights in it.*It holds network"):
        load_encoder(path)
    torch.save({"backbone.patch_embed.proj.weight": torch.zeros(8, 3, 16, 16)}, path)
    with pytest.raises(UserError, match="no ResNet in it, but a ViT"):
        load_encoder(path)


def test_a_run_of_ours_loads_its_checkpoint(tmp_path: Path) -> None:
    method = Byol(build_model("resnet10w8", Heads(dim=16, hidden=32, conv_hidden=24)))
    torch.save({"schema": 1, "method": method.state_dict()}, tmp_path / "checkpoint.pt")
    encoder, arch, _ = load_encoder(tmp_path / "checkpoint.pt")
    assert arch == "resnet10w8"
    assert torch.equal(encoder.conv1.weight, method.online.encoder.conv1.weight)


def test_an_export_loads_through_torch_hub_and_timm(tmp_path: Path) -> None:
    import timm

    encoder = build_encoder("resnet18").eval()
    path = save_encoder(encoder, tmp_path, RunConfig.of())
    images = torch.randn(2, 3, 64, 64)
    hub = torch.hub.load(str(ROOT), "encoder", source="local", weights=str(path))
    theirs = timm.create_model("resnet18", num_classes=0)
    theirs.load_state_dict(load_file(path), strict=True)
    with torch.no_grad():
        torch.testing.assert_close(hub(images), encoder(images))
        torch.testing.assert_close(theirs.eval()(images), encoder(images))


def test_a_file_of_another_kind_is_named_without_advice_to_run_it(tmp_path: Path) -> None:
    path = tmp_path / "notes.md"
    path.write_text("# notes\n")
    with pytest.raises(UserError, match="no weights file") as caught:
        load_encoder(path)
    assert "weights_only" not in str(caught.value)
