#!/usr/bin/env bash
# What: boxes of whole numbers (as data sets give them) in torchvision.transforms.v2.
# Versions: torchvision 0.26.0, torch 2.11.0 (CPU), numpy 2.4.6. Seen with torchvision 0.29.2 as well. Date: 2026-11-29.
# A good guess: BoundingBoxes of int64 are moved as those of float32 and then rounded, so that errors are half a pixel
# and have no direction; a change of format and back gives the same box.
# Seen: the dtype stays int64 and each step truncates. XYXY to CXCYWH and back moves 747 of 1,000 boxes by a pixel,
# always up or left, and a second trip moves 744 again. Five resizes from 300 to 211 pixels and back carry corners 6.8
# pixels up and left in the mean, and those of float32 boxes nowhere. Nothing warns. Make boxes float32 before the first
# transform.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q --disable-pip-version-check torchvision==0.26.0 torch==2.11.0 numpy==2.4.6
cat > "$work/try.py" <<'PY'
import torch
import torchvision
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F

generator = torch.Generator().manual_seed(0)
corner, sides = (torch.randint(low, high, (1000, 2), generator=generator) for low, high in ((0, 200), (5, 100)))
start = torch.cat([corner, corner + sides], 1)
print("torchvision", torchvision.__version__, "torch", torch.__version__)
trips, drift = {}, {}
for dtype in (torch.int64, torch.float32):
    boxes = tv_tensors.BoundingBoxes(start.to(dtype), format="XYXY", canvas_size=(300, 300))
    trips[dtype] = []
    for _ in range(2):
        there = F.convert_bounding_box_format(boxes, new_format="CXCYWH")
        back = F.convert_bounding_box_format(there, new_format="XYXY")
        trips[dtype].append(int((back != boxes).any(1).sum()))
        assert (back <= boxes).all() and (boxes - back).max() <= 1
        boxes = back
    boxes = tv_tensors.BoundingBoxes(start.to(dtype), format="XYXY", canvas_size=(300, 300))
    for _ in range(5):
        boxes = F.resize(F.resize(boxes, [211, 211]), [300, 300])
    assert boxes.dtype == dtype
    drift[dtype] = round((boxes.double() - start).mean().item(), 3) + 0.0
    print(f"  {dtype}: moved by a first and a second trip to CXCYWH: {trips[dtype]} of 1,000; "
          f"mean shift of corners after five resizes down and up: {drift[dtype]:.1f} pixels")
assert min(trips[torch.int64]) > 500 and max(trips[torch.float32]) == 0, "the behaviour has changed"
assert drift[torch.int64] < -2 and abs(drift[torch.float32]) < 0.01, "the behaviour has changed"
PY
"$work/venv/bin/python" "$work/try.py"
