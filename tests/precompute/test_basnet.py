"""BASNet's checkpoint: names, shapes and sizes as published; loaded strictly. No trained weights are at hand here."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchvision.models.resnet import BasicBlock

from precompute.base.errors import UserError
from precompute.saliency import make_detector
from precompute.saliency.basnet import layers, load, published_shapes


class Published(nn.Module):
    """The checkpoint's modules straight from the paper, batch normalisation and all: the oracle of the folded one."""

    def __init__(self) -> None:
        super().__init__()
        from torchvision.models import resnet34

        trunk = resnet34(weights=None)
        self.inconv, self.inbn = nn.Conv2d(3, 64, 3, padding=1), nn.BatchNorm2d(64)
        for k in range(1, 5):
            self.add_module(f"encoder{k}", trunk.get_submodule(f"layer{k}"))
        for stage in (5, 6):
            for k in (1, 2, 3):
                self.add_module(f"resb{stage}_{k}", BasicBlock(512, 512))
        for part in "1m2":
            self._add(self, f"convbg_{part}", f"bnbg_{part}", 512, 512, 2)
        for stage, (width, out) in enumerate(((64, 64), (128, 64), (256, 128), (512, 256), (512, 512), (512, 512)), 1):
            deep = 2 if stage == 6 else 1
            self._add(self, f"conv{stage}d_1", f"bn{stage}d_1", 2 * width, width, 1)
            self._add(self, f"conv{stage}d_m", f"bn{stage}d_m", width, width, deep)
            self._add(self, f"conv{stage}d_2", f"bn{stage}d_2", width, out, deep)
            self.add_module(f"outconv{stage}", nn.Conv2d(out, 1, 3, padding=1))
        self.outconvb = nn.Conv2d(512, 1, 3, padding=1)
        self.refunet = nn.Module()
        self.refunet.conv0, self.refunet.conv_d0 = nn.Conv2d(1, 64, 3, padding=1), nn.Conv2d(64, 1, 3, padding=1)
        for k in range(1, 6):
            self._add(self.refunet, f"conv{k}", f"bn{k}", 64, 64, 1)
        for k in range(1, 5):
            self._add(self.refunet, f"conv_d{k}", f"bn_d{k}", 128, 64, 1)

    @staticmethod
    def _add(where: nn.Module, conv: str, norm: str, inputs: int, outputs: int, dilation: int) -> None:
        where.add_module(conv, nn.Conv2d(inputs, outputs, 3, padding=dilation, dilation=dilation))
        where.add_module(norm, nn.BatchNorm2d(outputs))

    def _three(self, x: torch.Tensor, stage: str) -> torch.Tensor:
        for part in "1m2":
            conv, norm = self.get_submodule(f"conv{stage}_{part}"), self.get_submodule(f"bn{stage}_{part}")
            x = torch.relu(norm(conv(x)))
        return x

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        def twice(x: torch.Tensor) -> torch.Tensor:
            return F.interpolate(x, scale_factor=2, mode="bilinear")

        x = torch.relu(self.inbn(self.inconv(x)))
        seen = []
        for k in range(1, 5):
            x = self.get_submodule(f"encoder{k}")(x)
            seen.append(x)
        for stage in (5, 6):
            x = F.max_pool2d(x, 2)
            for k in (1, 2, 3):
                x = self.get_submodule(f"resb{stage}_{k}")(x)
            seen.append(x)
        x = self._three(torch.cat((self._three(x, "bg"), seen.pop()), 1), "6d")
        for stage in (5, 4, 3, 2, 1):
            x = self._three(torch.cat((twice(x), seen.pop()), 1), f"{stage}d")
        coarse = self.outconv1(x)
        r, x = self.refunet, self.refunet.conv0(coarse)
        for k in (1, 2, 3, 4, 5):
            x = torch.relu(r.get_submodule(f"bn{k}")(r.get_submodule(f"conv{k}")(x)))
            if k < 5:
                seen.append(x)
                x = F.max_pool2d(x, 2)
        for k in (4, 3, 2, 1):
            x = r.get_submodule(f"conv_d{k}")(torch.cat((twice(x), seen.pop()), 1))
            x = torch.relu(r.get_submodule(f"bn_d{k}")(x))
        return torch.sigmoid(coarse + r.conv_d0(x))


@pytest.fixture(scope="module")
def published():
    torch.manual_seed(0)
    network = Published()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values in (module.weight, module.running_var):
                nn.init.uniform_(values, 0.5, 1.5)
            for values in (module.bias, module.running_mean):
                nn.init.normal_(values, std=0.1)
    return network.eval()


@pytest.fixture(scope="module")
def weights(published, tmp_path_factory):
    """A file as of 2019: the old container, the counters of batches with it."""
    path = tmp_path_factory.mktemp("basnet") / "basnet.pth"
    torch.save(published.state_dict(), path, _use_new_zipfile_serialization=False)
    return path


def test_names_and_shapes_are_the_published_ones(published):
    state = {k: tuple(v.shape) for k, v in published.state_dict().items() if not k.endswith("num_batches_tracked")}
    assert published_shapes() == state
    assert sum(p.numel() for p in published.parameters()) == pytest.approx(87.06e6, rel=1e-3)
    assert len({layer.name for layer in layers()}) == len(list(layers()))


def test_the_folded_network_is_the_published_one(published, weights):
    network = load(str(weights))
    picture = torch.randn(1, 3, 96, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected, found = published(picture), network(picture)
    assert expected.std() > 1e-3
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_as_a_detector(weights):
    detector = make_detector("basnet", weights=str(weights))
    assert detector.describe()["detector"] == "basnet"
    assert len(detector.describe()["weights_sha256"]) == 64
    pictures = torch.from_numpy(np.random.default_rng(0).integers(0, 200, (2, 256, 256, 3)).astype(np.uint8))
    pictures[1] = 0  # a black picture has no brightest value to divide by
    with torch.inference_mode():
        maps = detector(pictures)
        alone = detector(pictures[:1])
    assert maps.shape == (2, 256, 256)
    assert maps.isfinite().all()
    torch.testing.assert_close(maps[:1], alone, rtol=1e-4, atol=1e-5)


def test_loading_is_strict(published, tmp_path):
    path = tmp_path / "x.pth"
    state = published.state_dict()
    faults = {
        "no refunet.conv_d0.bias": {k: v for k, v in state.items() if k != "refunet.conv_d0.bias"},
        "no inconv.weight, and .* more": {"a": torch.zeros(1)},
        "more.weight unknown": state | {"more.weight": torch.zeros(1)},
        r"outconv6.weight is \[2\], not \[1, 512, 3, 3\]": state | {"outconv6.weight": torch.zeros(2)},
    }
    for reason, content in faults.items():
        torch.save(content, path)
        with pytest.raises(UserError, match=f"x.pth: its weights are not BASNet's: {reason}"):
            load(str(path))
    with pytest.raises(UserError, match=r"read from \.pth only"):
        load("x.onnx")
