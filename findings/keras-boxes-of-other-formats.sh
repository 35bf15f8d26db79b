#!/usr/bin/env bash
# What: whether Keras' augmentation layers move one box alike in each of the formats that bounding_box_format takes.
# Versions: keras 3.15.1 with torch 2.11.0 (CPU), numpy 2.4.6. Date: 2026-11-30.
# A good guess: yes: the argument is there to tell the layer the format; with one seed the boxes are one and the same,
# and they lie where the mask lies.
# Seen: RandomFlip, RandomTranslation, RandomZoom, RandomShear, CenterCrop and Resizing do so. RandomRotation and
# RandomPerspective take any box for xyxy pixels, move that, and then write it in the format that was asked for. The
# mean IoU with the box of the moved mask is 0.98 for xyxy, 0.17 for xywh, 0.01 for center_xywh and 0.00 for rel_xyxy
# after turns of up to 18 degrees; with RandomPerspective 0.99, 0.41, 0.21 and 0.00. Relative boxes of turned pictures
# lose their label as well: 9 in 10 get -1, as if there were no object. RandomCrop takes the vertical offset from x and
# the horizontal one from y (0.31; right where both are equal), and for relative boxes the crop's size for
# the picture's (0.07). Nothing warns, the boxes look well. Issue 23518 of keras tells of the crop's axes (mended after
# this release); of the formats none was found. Give these layers xyxy, and convert around them with convert_format of
# keras.utils.bounding_boxes; crop with CenterCrop, or by hand.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q --disable-pip-version-check keras==3.15.1 torch==2.11.0 numpy==2.4.6
cat > "$work/try.py" <<'PY'
import os

os.environ["KERAS_BACKEND"] = "torch"
import keras
import numpy as np
import torch
from keras import layers
from keras.utils.bounding_boxes import convert_format

torch.set_num_threads(1)
same = "the behaviour has changed"
formats = "xyxy", "xywh", "center_xywh", "rel_xyxy"
height, width = 120, 160
start = np.array([40, 30, 110, 80], "float32")
mask = np.zeros((1, height, width, 1), "float32")
mask[0, 30:80, 40:110] = 1


def iou(a, b):
    low, high = np.maximum(a[:2], b[:2]), np.minimum(a[2:], b[2:])
    both = np.prod(np.clip(high - low, 0, None))
    sizes = [np.prod(np.clip(box[2:] - box[:2], 0, None)) for box in (a, b)]
    return both / (sum(sizes) - both)


def tries(make, form):
    """The mean IoU of the moved box with the box of the moved mask, and the share of labels that are still there."""
    found, labels = [], []
    for seed in range(40):
        layer = make(seed=seed, bounding_box_format=form)
        box = convert_format(start[None, None], source="xyxy", target=form, height=height, width=width)
        data = {"images": torch.tensor(mask), "bounding_boxes": {"boxes": box, "labels": torch.ones(1, 1)}}
        data = layer(data, training=True)
        moved = data["images"].numpy()[0, :, :, 0]
        rows, columns = np.where(moved > 0.5)
        box = convert_format(data["bounding_boxes"]["boxes"], source=form, target="xyxy", height=moved.shape[0],
                             width=moved.shape[1]).numpy()[0, 0]
        if len(rows):
            found.append(iou(box, np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])))
            labels.append(float(data["bounding_boxes"]["labels"].numpy()[0, 0]) == 1)
    return np.mean(found), np.mean(labels)


def rotation(**options):
    return layers.RandomRotation(0.05, fill_mode="constant", **options)


def perspective(**options):
    return layers.RandomPerspective(1.0, 0.3, **options)


def crop(**options):
    return layers.RandomCrop(90, 90, **options)


def translation(**options):
    return layers.RandomTranslation(0.1, 0.1, fill_mode="constant", **options)


print("keras", keras.__version__, "torch", torch.__version__, "numpy", np.__version__)
print("  mean IoU with the box of the mask (and share of labels left):", *formats)
table = {}
for make in (translation, rotation, perspective, crop):
    table[make] = [tries(make, form) for form in formats]
    print(f"    {make.__name__:11}", *(f"{fit:.2f} ({left:.2f})" for fit, left in table[make]))
fits = {make: [fit for fit, _ in row] for make, row in table.items()}
assert min(fits[translation]) > 0.93, same
for make in (rotation, perspective):
    assert fits[make][0] > 0.8 and max(fits[make][1:]) < 0.6, same
assert table[rotation][3][1] < 0.3 and max(fits[crop]) < 0.6 and fits[crop][3] < 0.2, same
PY
OMP_NUM_THREADS=1 "$work/venv/bin/python" "$work/try.py"
