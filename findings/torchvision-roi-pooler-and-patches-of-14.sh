#!/usr/bin/env bash
# What: which part of a picture torchvision's MultiScaleRoIAlign pools from the map of a ViT with patches of 14 pixels
# (DINOv2, CLIP L/14), and from other maps.
# Versions: torchvision 0.26.0, torch 2.11.0 (CPU), numpy 2.4.6. Date: 2026-11-30.
# A good guess: it is given the map and the picture's size, so it knows that a map of 37x37 of a picture of 518x518 has
# a scale of 1/14, and pools what roi_align pools with that number; torchvision's tutorial puts it behind any backbone
# with one map.
# Seen: the scale is rounded to a power of 2, here to 1/16. A box's features come from 7/8 of its way from the upper
# left corner, and from a region 7/8 as large: of boxes of 10-40 % of a picture of 518 the centre is off by 47 pixels in
# the mean, the IoU of box and pooled region is 0.32, and below 0.5 for 93 % of the boxes. Patches of 12 and 10 get
# 1/16 and 1/8 (IoU 0.08 and 0.14). For patches of 8, 16 and 32, and so for ResNets, all is right, so a test with these
# shows nothing; the shape of what comes out is as ever. Nothing is said: the page has the scale inferred "via the
# heuristics specified in eq. 1" of the FPN paper, which chooses a level; only a comment in the source tells what is
# assumed. Call roi_align with spatial_scale=1/14.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q --disable-pip-version-check torchvision==0.26.0 torch==2.11.0 numpy==2.4.6
cat > "$work/try.py" <<'PY'
import warnings

import torch
import torchvision
from torchvision.ops import MultiScaleRoIAlign, box_iou, roi_align

warnings.simplefilter("error")
torch.manual_seed(0)
torch.set_num_threads(1)


def regions(pooled):
    """The region that a 2x2 pooling saw, from pooled coordinates: its bins' centres lie at 1/4 and 3/4 of it."""
    top, left = pooled[:, 0, 0, 0], pooled[:, 1, 0, 0]
    bottom, right = pooled[:, 0, 1, 1], pooled[:, 1, 1, 1]
    height, width = bottom - top, right - left
    return torch.stack([left - width / 2, top - height / 2, right + width / 2, bottom + height / 2], 1)


print("torchvision", torchvision.__version__, "torch", torch.__version__)
for side, patch in ((512, 16), (512, 8), (512, 32), (518, 14), (224, 14), (384, 12), (520, 10)):
    # Each cell of the map holds the place of its centre in the picture, so what is pooled tells where it came from.
    centres = (torch.arange(side // patch) + 0.5) * patch
    cells = torch.stack(torch.meshgrid(centres, centres, indexing="ij"))[None]
    middle = side * (0.3 + 0.4 * torch.rand(2000, 2))  # away from the border, where the map of places ends
    half = side * (0.05 + 0.15 * torch.rand(2000, 2))
    boxes = torch.cat([middle - half, middle + half], 1)
    pooler = MultiScaleRoIAlign(["0"], output_size=2, sampling_ratio=2)
    got = {"MultiScaleRoIAlign": pooler({"0": cells}, [boxes], [(side, side)]),
           "roi_align, aligned": roi_align(cells, [boxes], 2, 1 / patch, 2, aligned=True)}
    # MultiScaleRoIAlign has the old half-cell shift, which is another matter: take it off.
    got["MultiScaleRoIAlign"] = got["MultiScaleRoIAlign"] - patch / 2
    for name, pooled in got.items():
        seen = regions(pooled)
        overlap = box_iou(boxes, seen).diagonal()
        off = ((boxes[:, :2] + boxes[:, 2:]) / 2 - (seen[:, :2] + seen[:, 2:]) / 2).norm(dim=1).mean().item()
        scale = f"1/{1 / pooler.scales[0]:.0f}" if name[0] == "M" else f"1/{patch}"
        print(f"  picture {side}, patches of {patch}, {name}: scale {scale}, centre off by {off:.1f} pixels, IoU with "
              f"the box {overlap.mean():.3f}, below 0.5 in {(overlap < 0.5).float().mean():.2f} of the boxes")
        assert (overlap.mean() > 0.99) == (patch in (8, 16, 32) or name[0] == "r"), "the behaviour has changed"
        assert patch != 14 or name[0] == "r" or off > side * 0.07, "the behaviour has changed"
PY
"$work/venv/bin/python" "$work/try.py"
