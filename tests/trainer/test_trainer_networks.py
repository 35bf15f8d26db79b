"""Encoders keep torchvision's names and maps; freezing freezes weights and BN statistics; initialisation is seeded."""

import pytest
import torch
import torchvision
from trainer_photos import PhotoBatch

from precompute.base.errors import UserError
from trainer.model.networks import Heads, build_model, freeze_stages
from trainer.model.resnets import architectures, build_encoder, feature_maps, feature_widths, grid_of


@pytest.mark.parametrize("arch", ["resnet18", "resnet50"])
def test_exported_names_load_into_torchvision(arch: str) -> None:
    encoder = build_encoder(arch)
    result = torchvision.models.get_model(arch).load_state_dict(encoder.state_dict(), strict=False)
    assert result.missing_keys == ["fc.weight", "fc.bias"]
    assert result.unexpected_keys == []


def test_feature_maps_equal_torchvisions_forward(photos: PhotoBatch) -> None:
    encoder = build_encoder("resnet18").eval()
    with torch.no_grad():
        pooled = feature_maps(encoder, photos.views[0])[4].mean((2, 3))
        torch.testing.assert_close(pooled, encoder(photos.views[0]))
    assert feature_widths(encoder) == {3: 256, 4: 512}
    assert grid_of(encoder, 224) == 7
    assert grid_of(encoder, 224, stage=3) == 14


def test_narrow_resnet_has_torchvisions_names_and_a_fine_grid() -> None:
    narrow, full = build_encoder("resnet18w16"), build_encoder("resnet18")
    extra = {"layer1.0.downsample", "layer4.0.downsample"}
    names = {n for n in narrow.state_dict() if not any(n.startswith(e) for e in extra)}
    assert names <= set(full.state_dict())
    assert feature_widths(narrow) == {3: 64, 4: 128}
    assert grid_of(narrow, 64) == 8


@pytest.mark.parametrize("arch", ["resnet18", "resnet50", "resnet10w8"])
@pytest.mark.parametrize("size", [32, 63, 65, 97, 224])
def test_grids_and_widths_are_those_of_the_maps(arch: str, size: int) -> None:
    encoder = build_encoder(arch).to("meta").eval()
    for stage, maps in feature_maps(encoder, torch.empty(1, 3, size, size, device="meta")).items():
        grid = grid_of(encoder, size, stage)
        assert maps.shape == (1, feature_widths(encoder)[stage], grid, grid)


def test_unknown_architecture_lists_the_known() -> None:
    with pytest.raises(UserError, match=r"resnet19.*resnet18.*resnet10w16"):
        build_encoder("resnet19")
    assert {"resnet18", "resnet50", "wide_resnet50_2"} <= set(architectures())


def test_stages_3_and_4_are_projected(photos: PhotoBatch) -> None:
    model = build_model("resnet10w8", Heads(dim=16, hidden=32, conv_hidden=24, stages=(3, 4)))
    out = model(photos.views[0])
    assert {s: tuple(m.shape) for s, m in out.maps.items()} == {3: (8, 16, 8, 8), 4: (8, 16, 8, 8)}
    assert out.predicted_maps[3].shape == out.maps[3].shape
    assert out.projection.shape == (8, 16)


def test_frozen_stages_keep_weights_and_bn_statistics(photos: PhotoBatch) -> None:
    model = build_model("resnet10w8", Heads(dim=16, hidden=32, conv_hidden=24))
    freeze_stages(model, 2)
    before = {k: v.clone() for k, v in model.encoder.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    out = model(photos.views[0])
    (out.projection.square().sum() + out.predicted_maps[4].sum()).backward()
    optimizer.step()
    changed = {k.split(".")[0] for k, v in model.encoder.state_dict().items() if not torch.equal(v, before[k])}
    assert changed == {"layer3", "layer4"}


def test_initialisation_depends_on_the_seed_alone() -> None:
    state = torch.get_rng_state()
    a, b, c = (build_model("resnet10w8", Heads(16, 32, 24), seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(a.encoder.conv1.weight, b.encoder.conv1.weight)
    assert not torch.equal(a.encoder.conv1.weight, c.encoder.conv1.weight)
    assert a.encoder.layer1[0].conv1.weight.is_contiguous(memory_format=torch.channels_last)
