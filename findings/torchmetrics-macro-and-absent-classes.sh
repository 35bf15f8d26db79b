#!/usr/bin/env bash
# What: mean per-class accuracy (the measure of Aircraft, Pets and Flowers) where some classes have no image.
# Versions: torchmetrics 1.9.0, torch 2.11.0 (CPU), scikit-learn 1.9.1, numpy 2.4.6. Date: 2026-11-29.
# A good guess: average="macro" is the mean of the accuracies of the classes that are there, as scikit-learn's
# balanced_accuracy_score; a class without an image has no accuracy and is left out.
# Seen: it is left out only if no image was taken for it either. An absent class that was predicted once counts as 0. Of
# 1,000 images of 20 of 200 classes 800 are right, 40 in each class. Where the wrong ones are taken for classes that are
# there, both say 0.800; where they are taken for any of the 200, torchmetrics says 0.115 and scikit-learn 0.800. With
# top_k=2 absent classes are always left out: 0.801. So a subset of the classes, or one rank's part, is judged by where
# its errors go.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q --disable-pip-version-check torchmetrics==1.9.0 torch==2.11.0 \
  scikit-learn==1.9.1 numpy==2.4.6
cat > "$work/try.py" <<'PY'
import warnings

import torch
import torchmetrics
from sklearn.metrics import balanced_accuracy_score
from torchmetrics.classification import MulticlassAccuracy

warnings.filterwarnings("ignore", message="y_pred contains classes not in y_true")
truth = torch.arange(20).repeat_interleave(50)
wrong = torch.arange(1000) % 50 >= 40  # ten of the fifty images of each class
print("torchmetrics", torchmetrics.__version__, "torch", torch.__version__)
seen = {}
for name, reach in (("classes that are there", 20), ("any of 200 classes", 200)):
    generator = torch.Generator().manual_seed(0)
    away = torch.randint(1, reach, (1000,), generator=generator)
    guess = torch.where(wrong, (truth + away) % reach, truth)
    assert (guess == truth).sum() == 800
    macro = MulticlassAccuracy(num_classes=200, average="macro")(guess, truth).item()
    balanced = balanced_accuracy_score(truth.numpy(), guess.numpy())
    taken = len(set(guess.tolist()) - set(truth.tolist()))
    scores = torch.nn.functional.one_hot(guess, 200) + 0.5 * torch.nn.functional.one_hot((guess + 1) % 200, 200)
    two = MulticlassAccuracy(num_classes=200, average="macro", top_k=2)(scores, truth).item()
    print(f"  errors go to {name}: torchmetrics macro {macro:.3f}, its top 2 {two:.3f}, scikit-learn {balanced:.3f},"
          f" absent classes that were predicted: {taken}")
    seen[reach] = macro
    assert two >= 0.8, "the behaviour has changed"
    assert abs(balanced - 0.8) < 1e-9
assert abs(seen[20] - 0.8) < 1e-6 and seen[200] < 0.2, "the behaviour has changed"
PY
"$work/venv/bin/python" "$work/try.py"
