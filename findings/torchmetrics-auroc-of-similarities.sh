#!/usr/bin/env bash
# What: torchmetrics' AUROC and average precision of cosine similarities, given in batches or at once.
# Versions: torchmetrics 1.9.0, torch 2.11.0 (CPU), numpy 2.4.6. Date: 2026-11-29.
# A good guess: both go by the order of the scores, so any real score will do, and how update() is called is no matter.
# Seen: a batch whose scores all lie in [0, 1] is kept, a batch with one score outside goes through a sigmoid, all of
# it. Cosine similarities are mostly positive, so some batches are squeezed to 0.27-0.73 and others are not, and scores
# of the two kinds are ranked together. The AUROC of 400 scores, 35 of them below 0, is 0.866 at once, 0.782 in batches
# of 16 and 0.752 in batches of 4; the average precision is 0.865, 0.827 and 0.797. Nothing is said. Map scores to [0,
# 1] first: (1 + s) / 2.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q --disable-pip-version-check torchmetrics==1.9.0 torch==2.11.0 numpy==2.4.6
cat > "$work/try.py" <<'PY'
import torch
import torchmetrics
from torchmetrics.classification import BinaryAUROC, BinaryAveragePrecision

generator = torch.Generator().manual_seed(0)
same = torch.randint(0, 2, (400,), generator=generator)
score = (0.2 + 0.3 * same + 0.2 * torch.randn(400, generator=generator)).clamp(-1, 1)
pairs = score[same == 1][:, None] - score[same == 0][None]
by_hand = ((pairs > 0).double() + 0.5 * (pairs == 0).double()).mean().item()


def value(metric, scores, batch):
    for s, y in zip(scores.split(batch), same.split(batch), strict=True):
        metric.update(s, y)
    return metric.compute().item()


print("torchmetrics", torchmetrics.__version__, "torch", torch.__version__, f"- {(score < 0).sum()} of 400 are below 0")
seen = {}
for kind in (BinaryAUROC, BinaryAveragePrecision):
    seen[kind] = [value(kind(), score, batch) for batch in (400, 16, 4)]
    mapped = [value(kind(), (1 + score) / 2, batch) for batch in (400, 16, 4)]
    for name, values in (("s", seen[kind]), ("(1 + s) / 2", mapped)):
        print(f"  {kind.__name__} of {name}:", "at once {:.4f}, batches of 16 {:.4f}, of 4 {:.4f}".format(*values))
    assert max(mapped) - min(mapped) < 1e-6
    assert seen[kind][0] - seen[kind][2] > 0.05, "the behaviour has changed: batches no longer matter"
print(f"  AUROC by hand, over all pairs: {by_hand:.4f}")
assert abs(seen[BinaryAUROC][0] - by_hand) < 1e-4
PY
"$work/venv/bin/python" "$work/try.py"
