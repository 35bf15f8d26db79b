#!/usr/bin/env bash
# What: whether kornia moves one and the same box alike when it is given as bbox_xyxy and as bbox_xywh.
# Versions: kornia 0.9.0, torch 2.11.0 (CPU), numpy 2.4.6. Date: 2026-11-29.
# A good guess: corners and sides are two ways to write a box; after a flip or a resize both say where the mask lies.
# Seen: the box 10-30 x 20-40 of a 64x64 picture, beside a mask of just these pixels. RandomHorizontalFlip takes the
# mask to columns 34-54 and xywh too, but xyxy to 33-53. A vertical flip and a turn by 180 degrees are off in the same
# way. Resize to 128x128 takes the mask to 20-60, xyxy to 20.16-60.48 and xywh to 20.16-59.46. So corners are taken as
# inclusive, which the text of AugmentationSequential says of boxes of either kind, and sides as exclusive. Where flips
# are drawn with p=0.5, every second box of corners is a pixel off.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q --disable-pip-version-check kornia==0.9.0 torch==2.11.0 numpy==2.4.6
cat > "$work/try.py" <<'PY'
import kornia
import kornia.augmentation as K
import torch

picture, mask = torch.rand(1, 3, 64, 64), torch.zeros(1, 1, 64, 64)
mask[..., 20:40, 10:30] = 1
xyxy, xywh = torch.tensor([[[10.0, 20, 30, 40]]]), torch.tensor([[[10.0, 20, 20, 20]]])


def moved(transform):
    """First and last+1 column of the mask, then x0 and x1 of the box in both formats, then the same in y."""
    _, m, a = K.AugmentationSequential(transform, data_keys=["input", "mask", "bbox_xyxy"])(picture, mask, xyxy)
    _, b = K.AugmentationSequential(transform, data_keys=["input", "bbox_xywh"])(picture, xywh)
    rows = []
    for axis in (0, 1):
        on = (m[0, 0] > 0.5).any(dim=axis).nonzero().flatten().tolist()
        low, side = b[0, 0, axis].item(), b[0, 0, axis + 2].item()
        rows.append([on[0], on[-1] + 1, a[0, 0, axis].item(), a[0, 0, axis + 2].item(), low, low + side])
    return [[round(value, 2) for value in row] for row in rows]


print("kornia", kornia.__version__, "torch", torch.__version__)
cases = {
    "none": K.RandomHorizontalFlip(p=0.0),
    "horizontal flip": K.RandomHorizontalFlip(p=1.0),
    "vertical flip": K.RandomVerticalFlip(p=1.0),
    "180 degrees": K.RandomRotation((180.0, 180.0), p=1.0),
    "resize to 128": K.Resize((128, 128)),
}
seen = {name: moved(transform) for name, transform in cases.items()}
for name, (x, y) in seen.items():
    print(f"  {name}: x mask {x[:2]} xyxy {x[2:4]} xywh {x[4:]}; y mask {y[:2]} xyxy {y[2:4]} xywh {y[4:]}")
assert seen["none"][0] == [10, 30] * 3, "the behaviour has changed"
for name, axis in (("horizontal flip", 0), ("180 degrees", 0), ("180 degrees", 1), ("vertical flip", 1)):
    low = (34, 24)[axis]
    assert seen[name][axis] == [low, low + 20, low - 1, low + 19, low, low + 20], "the behaviour has changed"
assert seen["resize to 128"][0] == [20, 60, 20.16, 60.48, 20.16, 59.46], "the behaviour has changed"
PY
"$work/venv/bin/python" "$work/try.py"
