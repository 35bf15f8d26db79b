#!/usr/bin/env bash
# What: the mean average precision of the k nearest neighbours (MAP@k), by pytorch-metric-learning and torchmetrics.
# Versions: pytorch-metric-learning 2.9.0, torchmetrics 1.9.0, torch 2.11.0 (CPU), scikit-learn 1.9.1, numpy 2.4.6.
# Date: 2026-11-30.
# A good guess: both give 1 if all k are of the right class, and about the same figure otherwise; a smaller k only saves
# time.
# Seen: with all neighbours both are equal. With k of them, pytorch-metric-learning divides the sum of the precisions by
# the number of pictures of the class, torchmetrics by the number of right ones among the k. In classes of 60 pictures
# (as CUB's) perfect features have a MAP@10 of 0.17 by the one and 1.00 by the other; noisy pixels 0.020 and 0.38, a
# factor of 19. With a larger k the one rises and the other falls. Divided by min(k, class) they are 1.00 and 0.12. The
# text of pytorch-metric-learning advises a k, or "max_bin_count", against slow searches and warns for MAP@R and
# R-precision alone; that k takes the MAP of plain pixels from 0.69 to 0.57. Nothing is said. Compare MAP only with
# k=None, or count it yourself.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q --disable-pip-version-check pytorch-metric-learning==2.9.0 torchmetrics==1.9.0 \
    torch==2.11.0 scikit-learn==1.9.1 numpy==2.4.6
cat > "$work/try.py" <<'PY'
import logging
import warnings

import numpy as np
import pytorch_metric_learning
import torch
import torchmetrics
from pytorch_metric_learning.distances import CosineSimilarity
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
from pytorch_metric_learning.utils.inference import CustomKNN
from sklearn.datasets import load_digits
from torchmetrics.retrieval import RetrievalMAP

warnings.simplefilter("error")
said = []
catcher = logging.Handler()
catcher.emit = said.append
logging.getLogger("PML").addHandler(catcher)
torch.set_num_threads(1)
digits = load_digits()
some = torch.cat([torch.tensor(np.flatnonzero(digits.target == label)[:60]) for label in range(10)])
labels, pixels = torch.tensor(digits.target)[some], torch.tensor(digits.data)[some].float()
random = np.random.default_rng(0)
noise = [torch.tensor(random.standard_normal(shape)).float() for shape in ((600, 10), pixels.shape)]
sets = {"perfect": torch.eye(10)[labels] + 0.01 * noise[0], "pixels": pixels, "noisy pixels": pixels + 12 * noise[1]}
others = ~torch.eye(600, dtype=torch.bool)
query = torch.arange(600)[:, None].expand(600, 600)[others]
same = (labels[:, None] == labels)[others]


def metric_learning(features, k):
    judge = AccuracyCalculator(include=("mean_average_precision",), k=k, device=torch.device("cpu"),
                               knn_func=CustomKNN(CosineSimilarity()))
    return judge.get_accuracy(features, labels)["mean_average_precision"]


def metrics(scores, k):
    return RetrievalMAP(top_k=k)((1 + scores) / 2, same, indexes=query).item()


def by_hand(scores, k, divisor):
    total = 0
    for q in range(600):
        right = same[query == q][scores[query == q].argsort(descending=True)[:k]].double()
        precisions = right.cumsum(0) / torch.arange(1, k + 1) * right
        total += (precisions.sum() / divisor(right)).item()
    return total / 600


print("pytorch-metric-learning", pytorch_metric_learning.__version__, "torchmetrics", torchmetrics.__version__)
seen = {}
for name, features in sets.items():
    features = torch.nn.functional.normalize(features)
    scores = (features @ features.T)[others]
    for k in (1, 10, 50, None):
        one, other = seen[name, k] = metric_learning(features, k), metrics(scores, k)
        line = f"  {name:12} MAP@{k or 'all'}: {one:.3f} and {other:.3f}"
        if k == 10:
            hand = [by_hand(scores, k, d) for d in (lambda r: 59, lambda r: max(r.sum(), 1), lambda r: k)]
            line += f"; by hand, over class, found and min: {hand[0]:.3f} {hand[1]:.3f} {hand[2]:.3f}"
            assert abs(hand[0] - one) < 2e-3 and abs(hand[1] - other) < 5e-3, "the behaviour has changed"
        print(line)
    seen[name, "bin"] = metric_learning(features, "max_bin_count")
    print(f'  {name:12} k="max_bin_count": {seen[name, "bin"]:.3f}')
    assert abs(seen[name, None][0] - seen[name, None][1]) < 5e-3, "the behaviour has changed"
print("  warnings and log messages:", len(said))
assert seen["perfect", 10][0] < 0.18 and seen["perfect", 10][1] > 0.999, "the behaviour has changed"
assert seen["noisy pixels", 10][1] > 10 * seen["noisy pixels", 10][0], "the behaviour has changed"
assert seen["pixels", "bin"] < seen["pixels", None][0] - 0.05 and not said, "the behaviour has changed"
PY
"$work/venv/bin/python" "$work/try.py"
