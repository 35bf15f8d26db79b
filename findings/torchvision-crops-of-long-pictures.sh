#!/usr/bin/env bash
# What: how random RandomResizedCrop's crops of a long picture are, in torchvision and in kornia.
# Versions: torchvision 0.26.0, kornia 0.9.0, torch 2.11.0 (CPU), numpy 2.4.6. Seen with torchvision 0.29.2 as well.
# Date: 2026-11-29.
# A good guess: 1,000 draws give hundreds of crops, as of a photograph of 500x333; a long side has more places, not
# fewer.
# Seen: torchvision tries ten times, then takes the central crop of the allowed aspect, without a draw. With scale (0.2,
# 1) (as in many self-supervised recipes) 13 % of the crops of a 300x100 picture are that one, 46 % of a 400x100 one,
# 98 % of a 600x100 one; with (0.5, 1) all are, from 3:1 on, so that both views are one crop. Kornia 0.9.0, same scale,
# gives no crop of 600x100 more than 1 % of its draws. A plane's box is easily this long: crops inside of boxes meet it.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q --disable-pip-version-check torchvision==0.26.0 kornia==0.9.0 torch==2.11.0 numpy==2.4.6
cat > "$work/try.py" <<'PY'
from collections import Counter

import kornia
import torch
import torchvision
from kornia.augmentation import RandomResizedCrop as OfKornia
from torchvision.transforms.v2 import RandomResizedCrop


def commonest(crops):
    return Counter(crops).most_common(1)[0]


def of_torchvision(width, height, scale):
    torch.manual_seed(0)
    transform, picture = RandomResizedCrop(224, scale), torch.empty(3, height, width)
    crops = (transform.make_params([picture]) for _ in range(1000))
    return commonest((c["left"], c["top"], c["width"], c["height"]) for c in crops)


print("torchvision", torchvision.__version__, "- the commonest of 1,000 crops (x, y, w, h):")
seen = {}
for width, height in ((500, 333), (300, 100), (400, 100), (600, 100)):
    for scale in ((0.2, 1.0), (0.5, 1.0)):
        crop, seen[width, scale[0]] = of_torchvision(width, height, scale)
        print(f"  {width}x{height}, scale {scale}: {crop}, {seen[width, scale[0]]} times")
torch.manual_seed(0)
crops = OfKornia((8, 8), scale=(0.2, 1.0), p=1.0)
crops(torch.zeros(1000, 1, 100, 600))
crop, times = commonest(tuple(corners[[0, 2]].flatten().int().tolist()) for corners in crops._params["src"])
print("  kornia", kornia.__version__, f"600x100, scale (0.2, 1.0): corners {crop}, {times} times")
assert seen[500, 0.2] < 20 and 90 < seen[300, 0.2] < 180 and 400 < seen[400, 0.2] < 540, "the behaviour has changed"
assert seen[600, 0.2] > 950 and seen[300, 0.5] == seen[400, 0.5] == seen[600, 0.5] == 1000, "the behaviour has changed"
assert times < 20, "the behaviour has changed"
PY
"$work/venv/bin/python" "$work/try.py"
