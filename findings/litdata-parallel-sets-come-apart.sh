#!/usr/bin/env bash
# What: whether pictures and boxes stored as two litdata sets stay together in ParallelStreamingDataset.
# Versions: litdata 0.2.76, torch 2.11.0 (CPU), numpy 2.4.6. Date: 2026-11-30.
# A good guess: it gives "a sample from each dataset" at a time, so two sets of 1,000 rows in one order, with one seed,
# are read row by row together: the order of an epoch hangs on the seed and on the number of rows.
# Seen: each set is shuffled for itself, by chunks. Pictures fill 7 chunks of 2 MB, boxes one. With shuffle=True and the
# same seed 1 of 1,000 pictures comes with its own box (as by chance), and the mean IoU of the box that comes and the
# right one is 0.07. Every row comes once and nothing is said. Without shuffle, or where both have 100 rows a chunk, all
# 1,000 fit, so a test on a small set (one chunk each) shows nothing. The manual shows pairs, and says nothing of their
# order. Store the box beside its picture, or cut both with one chunk_size.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q --disable-pip-version-check litdata==0.2.76 torch==2.11.0 numpy==2.4.6
cat > "$work/boxes.py" <<'PY'
import numpy as np

rows = 1000
corners = np.sort(np.random.default_rng(0).integers(0, 224, (rows, 2, 2)), axis=1).reshape(rows, 4) + [0, 0, 1, 1]


def picture(i):
    return {"row": i, "pixels": np.full((64, 64, 3), i % 256, np.uint8)}


def box(i):
    return {"row": i, "box": corners[i].astype(np.float32)}


def iou(a, b):
    low, high = np.maximum(a[:, :2], b[:, :2]), np.minimum(a[:, 2:], b[:, 2:])
    inner = np.prod(np.clip(high - low, 0, None), axis=1)
    return inner / (np.prod(a[:, 2:] - a[:, :2], axis=1) + np.prod(b[:, 2:] - b[:, :2], axis=1) - inner)
PY
cat > "$work/store.py" <<'PY'
import sys

import litdata
from boxes import box, picture, rows

if __name__ == "__main__":
    for cut, how in (("bytes", {"chunk_bytes": "2MB"}), ("rows", {"chunk_size": 100})):
        for make in (picture, box):
            folder = f"{sys.argv[1]}/{make.__name__}-{cut}"
            how["start_method"] = "fork"
            litdata.optimize(make, list(range(rows)), output_dir=folder, num_workers=1, **how)
PY
cat > "$work/try.py" <<'PY'
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
from boxes import corners, iou, rows
from litdata import ParallelStreamingDataset, StreamingDataLoader, StreamingDataset

folder = Path(sys.argv[1])


def seen(cut, shuffle):
    """How many pictures come with their box, and the mean IoU of the box that comes and the picture's own."""
    sets = [StreamingDataset(str(folder / f"{name}-{cut}"), shuffle=shuffle, seed=0) for name in ("picture", "box")]
    batches = list(StreamingDataLoader(ParallelStreamingDataset(sets), batch_size=50, num_workers=0))
    left = np.concatenate([first["row"].numpy() for first, _ in batches])
    right = np.concatenate([second["row"].numpy() for _, second in batches])
    came = np.concatenate([second["box"].numpy() for _, second in batches])
    assert sorted(left) == sorted(right) == list(range(rows))
    return int((left == right).sum()), float(iou(came, corners[left]).mean())


chunks = {name: len(list((folder / name).glob("*.bin"))) for name in ("picture-bytes", "box-bytes")}
print("litdata", version("litdata"), f"- {rows} rows; chunks of 2 MB: {chunks}")
results = {
    "2 MB a chunk": seen("bytes", False),
    "2 MB a chunk, shuffled": seen("bytes", True),
    "100 rows a chunk, shuffled": seen("rows", True),
}
for name, (together, overlap) in results.items():
    print(f"  {name}: {together} pictures come with their own box, mean IoU with it {overlap:.2f}")
assert chunks["picture-bytes"] > 1 == chunks["box-bytes"], "the behaviour has changed"
assert results["2 MB a chunk, shuffled"][0] < 20, "the behaviour has changed"
assert results["2 MB a chunk"] == results["100 rows a chunk, shuffled"] == (rows, 1.0), "the behaviour has changed"
PY
export TMPDIR="$work" OMP_NUM_THREADS=1
"$work/venv/bin/python" "$work/store.py" "$work" > "$work/log" 2>&1 || { cat "$work/log"; exit 1; }
"$work/venv/bin/python" "$work/try.py" "$work"
