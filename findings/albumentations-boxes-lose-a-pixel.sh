#!/usr/bin/env bash
# What: whether whole-number boxes come back from albumentations as they were, where nothing is done to them.
# Versions: albumentations 2.0.8, numpy 2.4.6, opencv-python-headless 5.0.0.93. Date: 2026-11-29.
# A good guess: with NoOp the boxes are the same, or differ in the last bit of a double; int() of a corner is the
# corner.
# Seen: boxes go through float32 as shares of the picture and come back as float64. In a picture of 500x333 no box of
# 1,000 comes back equal, and int() moves 93 % of them by a pixel, as 101.0 has become 100.9999993; a double has 15
# digits, this one 7. In a picture of 512x256 all are equal, so a test with sides that are powers of two shows nothing.
# Round.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q --disable-pip-version-check albumentations==2.0.8 numpy==2.4.6 \
  opencv-python-headless==5.0.0.93
cat > "$work/try.py" <<'PY'
import albumentations as A
import numpy as np

rng = np.random.default_rng(0)
corner, sides = rng.integers(0, 150, (1000, 2)), rng.integers(5, 100, (1000, 2))
boxes = np.concatenate([corner, corner + sides], 1).astype(np.float64)
nothing = A.Compose([A.NoOp()], bbox_params=A.BboxParams(format="pascal_voc", label_fields=["label"]))
print("albumentations", A.__version__, "- 1,000 boxes of whole numbers through NoOp")
moved = {}
for width, height in ((500, 333), (512, 256)):
    picture = np.zeros((height, width, 3), np.uint8)
    back = np.asarray(nothing(image=picture, bboxes=boxes, label=np.arange(1000))["bboxes"])
    assert back.shape == boxes.shape and np.abs(back - boxes).max() < 1e-4
    unequal, moved[width] = (back != boxes).any(1).mean(), (back.astype(int) != boxes).any(1).mean()
    assert (np.rint(back) == boxes).all()
    print(f"  {width}x{height}: {unequal:.0%} not equal, {moved[width]:.0%} moved by int(); the first:",
          boxes[0].tolist(), "->", [round(value, 7) for value in back[0].tolist()])
assert moved[500] > 0.8 and moved[512] == 0, "the behaviour has changed"
PY
NO_ALBUMENTATIONS_UPDATE=1 "$work/venv/bin/python" "$work/try.py"
