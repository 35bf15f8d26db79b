#!/usr/bin/env bash
# What: which classes the parts of litdata.train_test_split and of StreamingDataset(subsample=...) hold.
# Versions: litdata 0.2.76, torch 2.11.0 (CPU), numpy 2.4.6. Date: 2026-11-30.
# A good guess: train_test_split(data, [0.8, 0.2]) has shuffle=True, "whether to shuffle the data before splitting", so
# each part is a random sample of the pictures, as with torch's random_split or scikit-learn's function of that name.
# Seen: only chunks are shuffled, and whole ones go to a part. 6,000 pictures of 200 classes, stored class by class as a
# folder lists them (600 a chunk, as 64 MB of CUB's JPEGs): 160 classes are in the first part, the other 40 in the
# second, none in both, with each of three seeds. So validation accuracy is 0, and a kNN has no neighbour of the right
# class for any of 1,200 pictures; subsample=0.1 has 20 classes. torch's random_split has 200 in both, litdata's too
# where the set was stored in random order. Nothing is said; the README says of the loader's shuffle, not of the split,
# that it goes by chunks. Store in random order, or choose rows with StreamingDataset.subset.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q --disable-pip-version-check litdata==0.2.76 torch==2.11.0 numpy==2.4.6
cat > "$work/store.py" <<'PY'
import sys

import litdata
import numpy as np


def sample(i):
    return {"label": i // 30, "pixels": np.full((8, 8, 3), i % 256, np.uint8)}


if __name__ == "__main__":
    in_order = list(range(6000))
    mixed = np.random.default_rng(0).permutation(6000).tolist()
    for name, inputs in (("in-order", in_order), ("mixed", mixed)):
        folder = f"{sys.argv[1]}/{name}"
        litdata.optimize(sample, inputs, output_dir=folder, chunk_size=600, num_workers=1, start_method="fork")
PY
cat > "$work/try.py" <<'PY'
import sys
from importlib.metadata import version

import torch
from litdata import StreamingDataset, train_test_split
from torch.utils.data import random_split

folder, classes = sys.argv[1], 200


def labels(part):
    return [part[i]["label"] for i in range(len(part))]


def seen(parts):
    """Classes of the two parts, classes in both, and the second part's pictures whose class is in the first."""
    first, second = map(labels, parts)
    known = set(first)
    return len(known), len(set(second)), len(known & set(second)), sum(label in known for label in second)


def data(name, **how):
    return StreamingDataset(f"{folder}/{name}", **how)


seeds = [seen(train_test_split(data("in-order"), [0.8, 0.2], seed=seed)) for seed in range(3)]
results = {
    "litdata, class by class": seeds[0],
    "litdata, stored in random order": seen(train_test_split(data("mixed"), [0.8, 0.2])),
    "torch's random_split": seen(random_split(data("in-order"), [0.8, 0.2], torch.Generator().manual_seed(0))),
}
print("litdata", version("litdata"), f"- 4,800 and 1,200 of 6,000 pictures of {classes} classes:")
for name, (first, second, both, known) in results.items():
    print(f"  {name}: {first} and {second} classes, {both} in both; {known} of 1,200 pictures have a known class")
part = len(set(labels(data("in-order", subsample=0.1, shuffle=True))))
print(f"  subsample=0.1, shuffle=True: {part} of {classes} classes")
assert set(seeds) == {(160, 40, 0, 0)} and part == 20, "the behaviour has changed"
for name in ("litdata, stored in random order", "torch's random_split"):
    assert results[name][2] > 190, "the behaviour has changed"
PY
export TMPDIR="$work" OMP_NUM_THREADS=1
"$work/venv/bin/python" "$work/store.py" "$work" > "$work/log" 2>&1 || { cat "$work/log"; exit 1; }
"$work/venv/bin/python" "$work/try.py" "$work"
