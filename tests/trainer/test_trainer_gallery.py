"""The gallery: its maps against slow references, and a sheet from real photographs."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from precompute.base.sheet import GREEN
from trainer.evaluate import program
from trainer.evaluation.gallery import score_maps
from trainer.model.encoders import maps
from trainer.model.resnets import build_encoder


def test_maps_equal_their_formulas() -> None:
    torch.manual_seed(0)
    encoder = build_encoder("resnet10w8").eval().requires_grad_(False)
    images = torch.rand(3, 3, 64, 64)
    found = score_maps(encoder, images)
    f, mirrored = maps(encoder, images).double(), maps(encoder, images.flip(3)).double().mean((2, 3))
    for n in range(3):
        z, key, cells = f[n].mean((1, 2)), mirrored[n], f[n].shape[1] * f[n].shape[2]
        # d cos(z, k) / dz by hand; each cell has its share of the mean.
        alpha = (key / (z.norm() * key.norm()) - (z @ key) * z / (z.norm() ** 3 * key.norm())) / cells
        cam = torch.einsum("chw,c->hw", f[n], alpha).clamp_min(0)
        assert torch.allclose(found["Grad-CAM"][n].double(), cam, rtol=1e-3, atol=1e-8)
        for y, x in ((0, 0), (1, 0)):
            cosine = f[n, :, y, x] @ key / (f[n, :, y, x].norm() * key.norm())
            assert found["similarity"][n, y, x].item() == pytest.approx(cosine.item(), abs=1e-5)
            assert found["energy"][n, y, x].item() == pytest.approx(f[n, :, y, x].norm().item(), rel=1e-5)


def test_a_sheet_of_real_birds(
    shared_data: Path, cub_boxes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, boxes, sheet = shared_data / "CUB_200_2011", cub_boxes, tmp_path / "sheet.png"
    flags = ["--arch", "resnet10w8", "--boxes", str(boxes), "--root", str(root), "--size", "32",
             "--protocol", "localise", "--device", "cpu", "--gallery", str(sheet)]  # fmt: skip
    assert program(["random", *flags]) == 0
    told = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("gallery:"))
    assert all(name in told for name in ("Grad-CAM", "similarity", "energy", "centre prior"))
    picture = np.asarray(Image.open(sheet).convert("RGB")).astype(int)
    assert min(picture.shape[:2]) > 300
    assert (picture == GREEN).all(-1).sum() > 1000  # frames
    assert picture.std() > 30
