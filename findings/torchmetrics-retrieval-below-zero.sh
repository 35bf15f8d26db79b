#!/usr/bin/env bash
# What: torchmetrics' retrieval metrics of one and the same order of neighbours, by cosine, shifted cosine or distance.
# Versions: torchmetrics 1.9.0, torch 2.11.0 (CPU), scikit-learn 1.9.1, numpy 2.4.6. Date: 2026-11-30.
# A good guess: they go by the order of the scores, so cosines, (1 + cosine) / 2 and minus the distance give the same
# figures; its pages ask for "a float tensor".
# Seen: in MAP, MRR, precision and recall whatever has a score of 0 or less is taken for irrelevant, in hit rate,
# R-precision and nDCG it is not. With minus the distance precision@1 and MAP are 0.000 while the hit rate at 1, which
# should equal precision@1, is 0.993. With cosines MAP is 0.814 instead of the 0.789 that scikit-learn finds: it is
# *higher*, since relevant pictures below 0 are left out of the mean, too. Recall of all pictures is 0.946 instead of 1.
# Nothing is said. Give it scores above 0, as (1 + cosine) / 2 or exp(-distance).
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q --disable-pip-version-check torchmetrics==1.9.0 torch==2.11.0 scikit-learn==1.9.1 \
    numpy==2.4.6
cat > "$work/try.py" <<'PY'
import warnings

import torch
import torchmetrics
from sklearn.datasets import load_digits
from sklearn.metrics import average_precision_score
from torchmetrics import retrieval

warnings.simplefilter("error")
torch.set_num_threads(1)
digits, n = load_digits(), 300
features, labels = torch.tensor(digits.data[:n]), torch.tensor(digits.target[:n])
features = torch.nn.functional.normalize(features - features.mean(0))

others = ~torch.eye(n, dtype=torch.bool)
query = torch.arange(n)[:, None].expand(n, n)[others]
target = (labels[:, None] == labels)[others]
cosine = (features @ features.T)[others].clamp(-1, 1)
scores = {"cosine": cosine, "(1 + cosine) / 2": (1 + cosine) / 2, "-distance": -(2 - 2 * cosine).sqrt()}
truth = sum(average_precision_score(target[query == q], cosine[query == q]) for q in range(n)) / n
below = (cosine[target] <= 0).double().mean().item()
print("torchmetrics", torchmetrics.__version__, "torch", torch.__version__)
print(f"  {n} digits; MAP by scikit-learn {truth:.3f}; pairs of one class with a cosine of 0 or less: {below:.3f}")

by_sign = {"MAP": retrieval.RetrievalMAP(), "MRR": retrieval.RetrievalMRR(),
           "precision@1": retrieval.RetrievalPrecision(top_k=1), "recall of all": retrieval.RetrievalRecall()}
by_order = {"hit rate@1": retrieval.RetrievalHitRate(top_k=1), "R-precision": retrieval.RetrievalRPrecision(),
            "nDCG": retrieval.RetrievalNormalizedDCG()}
seen = {}
for name, metric in (by_sign | by_order).items():
    seen[name] = []
    for values in scores.values():
        metric.reset()
        seen[name].append(metric(values, target, indexes=query).item())
    print(f"  {name:13}", ", ".join(f"{how} {value:.3f}" for how, value in zip(scores, seen[name])))

for name in by_sign:
    assert seen[name][1] > 0.75 and seen[name][2] == 0, "the behaviour has changed"
for name in by_order:
    assert max(seen[name]) - min(seen[name]) < 1e-4, "the behaviour has changed"
assert abs(seen["MAP"][1] - truth) < 1e-3 < seen["MAP"][0] - truth - 0.01, "the behaviour has changed"
assert seen["recall of all"][0] < 0.96 and seen["recall of all"][1] == 1, "the behaviour has changed"
PY
"$work/venv/bin/python" "$work/try.py"
