#!/usr/bin/env bash
# What: the order in which the tfrecord package (its loader for PyTorch without TensorFlow) reads a file with an index.
# Versions: tfrecord 1.14.6, protobuf 7.36.2, crc32c 2.8, scikit-learn 1.9.1, numpy 2.4.6. Date: 2026-11-30.
# A good guess: without a shuffle queue a file is read from its first record to its last; the index that its README
# recommends for every file just lets workers share the file out.
# Seen: with an index, and no workers, each pass starts at a record drawn from numpy's global generator, and comes round
# to it. Twenty passes over 1,000 records have 20 orders, none that of the file; without an index, and within the share
# of a worker (of one, too), all are in the file's order, so a test without an index shows nothing. Pictures and boxes
# in two files, zipped: 0 of 1,000 pictures have their own box, also where numpy was seeded: each file draws anew.
# Features of scikit-learn's digits, read in such a pass and joined with labels in the order of the file, have a kNN
# accuracy of 0.13 instead of 0.96. Every record comes once and nothing is said, neither in the text nor in the README.
# TFRecordDataset with num_workers=0 goes the same way (seen; not below). Keep the number of a picture in its record, or
# give shard=(0, 1), or a worker.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q --disable-pip-version-check tfrecord==1.14.6 protobuf==7.36.2 crc32c==2.8 \
  scikit-learn==1.9.1 numpy==2.4.6
cat > "$work/try.py" <<'PY'
import os
import sys
from importlib.metadata import version

import numpy as np
import tfrecord
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier
from tfrecord.tools import tfrecord2idx

np.random.seed(0)
folder = sys.argv[1]


def store(name, rows):
    path = os.path.join(folder, name)
    writer = tfrecord.TFRecordWriter(path)
    for row in rows:
        writer.write(row)
    writer.close()
    tfrecord2idx.create_index(path, path + ".index")
    return path, path + ".index"


print("tfrecord", version("tfrecord"), "numpy", np.__version__)
count = 1000
pictures = store("pictures", ({"number": (n, "int")} for n in range(count)))
boxes = store("boxes", ({"number": (n, "int"), "box": ([n, n, n + 9, n + 9], "float")} for n in range(count)))


def order(files, **how):
    return [int(row["number"][0]) for row in tfrecord.tfrecord_loader(*files, {"number": "int"}, **how)]


plain = list(range(count))
with_index = [order(pictures) for _ in range(20)]
without = [order((pictures[0], None)) for _ in range(20)]
alone = [order(pictures, shard=(0, 1)) for _ in range(20)]
workers = [order(pictures, shard=(0, 2)) + order(pictures, shard=(1, 2)) for _ in range(20)]
for name, passes in (("an index", with_index), ("no index", without), ("an index and a share of one", alone),
                     ("an index and shares of two", workers)):
    print(f"  {name}: {len({tuple(p) for p in passes})} orders in 20 passes, {sum(p == plain for p in passes)} of them "
          f"the file's; the passes start at {[p[0] for p in passes[:5]]}")
    assert all(sorted(p) == plain for p in passes)
    assert all(p == plain[p[0]:] + plain[:p[0]] for p in passes)
pairs = [a == b for a, b in zip(order(pictures), order(boxes))]
print(f"  two files zipped: {sum(pairs)} of {len(pairs)} pictures come with their own box")

x, y = load_digits(return_X_y=True)
half = len(x) // 2
digits = store("digits", ({"x": (row.tolist(), "float"), "number": (n, "int")} for n, row in enumerate(x[:half])))
accuracy = {}
for name, files in (("no index", (digits[0], None)), ("an index", digits)):
    bank = np.stack([row["x"] for row in tfrecord.tfrecord_loader(*files, {"x": "float"})])
    accuracy[name] = KNeighborsClassifier(5).fit(bank, y[:half]).score(x[half:], y[half:])
    print(f"  kNN from features read with {name}, labels in the order of the file: {accuracy[name]:.3f}")
assert all(p == plain for p in without + alone + workers), "the behaviour has changed"
assert len({tuple(p) for p in with_index}) > 10 and not sum(pairs), "the behaviour has changed"
assert accuracy["no index"] > 0.9 and accuracy["an index"] < 0.3, "the behaviour has changed"
PY
"$work/venv/bin/python" "$work/try.py" "$work"
