#!/usr/bin/env bash
# What: torchmetrics' IntersectionOverUnion of perfect boxes, in pictures with several objects of one class.
# Versions: torchmetrics 1.9.0, torch 2.11.0 (CPU), torchvision 0.26.0, scipy 1.17.1, numpy 2.4.6. Date: 2026-11-30.
# A good guess: each box is compared with the one it fits best, so the true boxes, given as predictions, have an IoU
# of 1; and the function intersection_over_union gives the same figure as the class.
# Seen: the class takes the mean over all pairs of a label, so box 1 against box 2 counts too. Perfect boxes have 1.00
# in pictures of one object (the usual test), 0.52 of two, 0.22 of five and 0.12 of ten. With nine of ten labels wrong
# it is 0.12 as well, as those pairs are left out. With iou_threshold=0.5 pairs below it are left out, so a detector
# that finds one object of ten has 0.96. Matched one to one they have 1.00 and 0.10. The function takes the diagonal:
# 1 for two boxes in one order, 0 in the other. GIoU, DIoU and CIoU go the same way (seen; not below). Nothing is
# said; the page speaks of all pairs only where respect_labels is False. Match first (scipy's linear_sum_assignment of
# -box_iou), or take MeanAveragePrecision.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q --disable-pip-version-check torchmetrics==1.9.0 torch==2.11.0 torchvision==0.26.0 \
    scipy==1.17.1 numpy==2.4.6
cat > "$work/try.py" <<'PY'
import warnings

import numpy as np
import torch
import torchmetrics
from scipy.optimize import linear_sum_assignment
from torchmetrics.detection import IntersectionOverUnion
from torchmetrics.functional.detection import intersection_over_union
from torchvision.ops import box_iou

torch.set_num_threads(1)
draw = torch.Generator().manual_seed(0)


def pictures(objects):
    """100 pictures of some 240 pixels, with that many boxes of 20 to 60 pixels a side."""
    corners = [torch.rand(objects, 2, generator=draw) * 180 for _ in range(100)]
    return [torch.cat([c, c + 20 + 40 * torch.rand(objects, 2, generator=draw)], 1) for c in corners]


def score(predicted, true, labels=None, **options):
    metric = IntersectionOverUnion(**options)
    zeros = [torch.zeros(len(boxes), dtype=torch.long) for boxes in true]
    labels = labels or [zero[:len(boxes)] for zero, boxes in zip(zeros, predicted)]
    metric.update([dict(boxes=b, labels=label) for b, label in zip(predicted, labels)],
                  [dict(boxes=b, labels=zero) for b, zero in zip(true, zeros)])
    return metric.compute()["iou"].item()


def matched(predicted, true):
    tables = [box_iou(p, t).numpy() for p, t in zip(predicted, true)]
    return np.mean([table[linear_sum_assignment(-table)].sum() / table.shape[1] for table in tables])


print("torchmetrics", torchmetrics.__version__, "torch", torch.__version__)
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    perfect, lone = {}, {}
    for objects in (1, 2, 5, 10):
        boxes = pictures(objects)
        shuffled = [b[torch.randperm(objects, generator=draw)] for b in boxes]
        perfect[objects] = score(shuffled, boxes)
        lone[objects] = score([b[:1] for b in boxes], boxes, iou_threshold=0.5)
        right = matched(shuffled, boxes), matched([b[:1] for b in boxes], boxes)
        print(f"  {objects:2} objects: perfect boxes {perfect[objects]:.3f} (matched {right[0]:.3f}); the first alone, "
              f"threshold 0.5: {lone[objects]:.3f} (matched {right[1]:.3f})")
        assert right[0] > 0.9999 and abs(right[1] - 1 / objects) < 1e-4, "the behaviour has changed"
    two = torch.tensor([[0.0, 0, 10, 10], [50, 50, 60, 60]])
    by_function = [intersection_over_union(two, other).item() for other in (two, two.flip(0))]
    print("  the function, two boxes in one order and in the other:", by_function)
    wrong = score(boxes, boxes, [(torch.arange(10) > 0).long() * 7] * 100)
    print(f"  perfect boxes, nine of ten with a wrong label: {wrong:.3f}")
assert not said, "the behaviour has changed"
assert perfect[1] > 0.9999 and perfect[2] < 0.6 and perfect[10] < 0.2 and lone[10] > 0.9, "the behaviour has changed"
assert by_function == [1, 0] and abs(wrong - perfect[10]) < 0.02, "the behaviour has changed"
PY
OMP_NUM_THREADS=1 "$work/venv/bin/python" "$work/try.py"
