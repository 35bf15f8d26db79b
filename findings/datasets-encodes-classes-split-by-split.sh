#!/usr/bin/env bash
# What: which numbers Hugging Face datasets' class_encode_column gives to classes, split by split, and to classes that
# are numbers already.
# Versions: datasets 5.2.0, numpy 2.4.6. Date: 2026-11-30.
# A good guess: a DatasetDict gets one list of classes for all its splits; and classes numbered 0 to n-1 stay what they
# are. It is called because train_test_split(stratify_by_column=...) takes a ClassLabel only.
# Seen: each split makes its own list, of the classes that it holds. 200 classes by name, the sixth of them without a
# picture in the test split: 194 classes have another number there, and a perfect classifier is right in 2.5 % of the
# test pictures. Where both splits hold all classes all is right, so a test on a whole set shows nothing. And numbers
# are sorted as words (0, 1, 10, 100, 101, ...): of 200 numbered classes 2 keep their number, of 196 (Cars) 2, of 100
# (Aircraft) 12, of 37 (Pets) 2, of 10 all, so a test with CIFAR-10 shows nothing. Nothing is said; the examples on its
# pages show one split, and no numbers (mteb tells in the notes of its 2.26.12 that the splits came apart there). Encode
# once, before the split, or cast each split to one ClassLabel(names=[...]); numbers may be cast so, too, and stay.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q --disable-pip-version-check datasets==5.2.0 numpy==2.4.6
cat > "$work/try.py" <<'PY'
import warnings

import datasets
import numpy as np
from datasets import ClassLabel, Dataset, DatasetDict

datasets.disable_progress_bars()
warnings.simplefilter("error")
print("datasets", datasets.__version__, "numpy", np.__version__)


def pictures(classes):
    return Dataset.from_dict({"label": [name for name in classes for _ in range(5)]})


names = [f"bird {n:03d}" for n in range(200)]
shared = {}
for absent in ([], [5]):
    present = [name for n, name in enumerate(names) if n not in absent]
    data = DatasetDict(train=pictures(names), test=pictures(present))
    both = data.class_encode_column("label")
    number = dict(zip(data["train"]["label"], both["train"]["label"]))
    truth = np.array(both["test"]["label"])
    perfect = np.array([number[name] for name in data["test"]["label"]])
    one = data["test"].cast_column("label", ClassLabel(names=names))
    assert (np.array(one["label"]) == perfect).all()
    moved = len({name for name, a, b in zip(data["test"]["label"], perfect, truth) if a != b})
    shared[len(absent)] = float((perfect == truth).mean()), moved
    print(f"  200 classes by name, {len(absent)} of them not in the test split: {moved} have another number there; "
          f"a perfect classifier is right in {shared[len(absent)][0]:.3f}")

kept = {}
for classes in (10, 37, 100, 196, 200):
    raw = pictures(range(classes))
    coded = raw.class_encode_column("label")
    before, after = np.array(raw["label"]), np.array(coded["label"])
    assert len(set(zip(before.tolist(), after.tolist()))) == classes
    kept[classes] = len(set(before[before == after].tolist()))
    print(f"  classes 0 to {classes - 1}: {kept[classes]} keep their number; the list begins with "
          f"{coded.features['label'].names[:5]}")
assert shared[0] == (1.0, 0) and shared[1][0] < 0.05 and shared[1][1] > 150, "the behaviour has changed"
assert kept[10] == 10 and kept[200] < 10 and kept[37] < 10, "the behaviour has changed"
PY
"$work/venv/bin/python" "$work/try.py"
