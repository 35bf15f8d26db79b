#!/usr/bin/env bash
# What: whether the boxes of torchvision.ops.masks_to_boxes fit torchvision's other uses of boxes.
# Versions: torchvision 0.26.0, torch 2.11.0 (CPU), numpy 2.4.6. Seen with torchvision 0.29.2 as well. Date: 2026-11-29.
# A good guess: a box of masks_to_boxes covers its mask: its area is at least the mask's, its IoU with itself is 1, and
# a flip moves box and mask alike.
# Seen: x2 and y2 are the last pixels inside, while box_area, box_iou, tv_tensors and crops take them as the ends. A
# full rectangle of 20x10 pixels has a box of area 171, cropping by it drops a row and a column, and after a horizontal
# flip it is a column beside the box of the flipped mask. A mask one pixel wide (a beak, a leg) has area 0 and an IoU of
# NaN with itself, which max() and mean() hand on. Add 1 to x2 and y2.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q --disable-pip-version-check torchvision==0.26.0 torch==2.11.0 numpy==2.4.6
cat > "$work/try.py" <<'PY'
import torch
import torchvision
from torchvision import tv_tensors
from torchvision.ops import box_area, box_iou, masks_to_boxes
from torchvision.transforms.v2 import functional as F

masks = torch.zeros(2, 40, 60, dtype=torch.bool)
masks[0, 10:20, 5:25] = True
masks[1, 10:20, 30] = True
boxes = masks_to_boxes(masks)
whole, thin = boxes.int().tolist()
print("torchvision", torchvision.__version__, "torch", torch.__version__)
print("  mask rows 10-20, columns 5-25, area 200: box", whole, "area", box_area(boxes)[0].item())
crop = masks[0, whole[1] : whole[3], whole[0] : whole[2]]
print("  the crop by it:", tuple(crop.shape), "with", int(crop.sum()), "of 200 pixels of the mask")
assert whole == [5, 10, 24, 19] and box_area(boxes)[0] == 171 and crop.sum() == 171, "the behaviour has changed"

of_flipped = masks_to_boxes(F.horizontal_flip(masks))[0].tolist()
flipped = F.horizontal_flip(tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=(40, 60)))[0].tolist()
print("  flipped: box of the mask", of_flipped, "- flipped box", flipped)
assert [a - b for a, b in zip(flipped, of_flipped, strict=True)] == [1, 0, 1, 0], "the behaviour has changed"

itself = box_iou(boxes, boxes)
print("  mask of one column: box", thin, "area", box_area(boxes)[1].item(), "IoU with itself", itself[1, 1].item(),
      "- the best of its IoUs with both:", itself[1].max().item())
assert box_area(boxes)[1] == 0 and itself[1, 1].isnan() and itself[1].max().isnan(), "the behaviour has changed"

ends = boxes + torch.tensor([0, 0, 1, 1])
assert box_area(ends).tolist() == [200, 10] and box_iou(ends, ends).diag().tolist() == [1, 1]
PY
"$work/venv/bin/python" "$work/try.py"
