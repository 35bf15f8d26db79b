#!/usr/bin/env bash
# What: the order of the epochs, and the augmentations, of a training that reads Lance with a randomizing sampler.
# Versions: pylance 14.0.2, pyarrow 26.0.1, numpy 2.4.6. Date: 2026-11-30.
# A good guess: ShardedBatchSampler(randomize=True, seed=3) draws from a generator of its own, as torch's samplers; and
# set_epoch(n) gives each epoch an order of its own, as DistributedSampler's.
# Seen: each pass calls random.seed(3) of Python itself, on every rank. What then draws by "random" (as the Gaussian
# blur of MoCo's and SimCLR's recipes does) gets the same numbers in every epoch and on every rank, also where each rank
# was seeded for itself: 20 different blurs in 160. Without a filter set_epoch changes nothing: four epochs have one
# order; with filter="row >= 0", which leaves out nothing, they have four, and 80 blurs. ShardedFragmentSampler takes
# set_epoch and never uses it. Nothing is said. LanceDataset for torch goes the same way (seen; the samplers are called
# here as it calls them). Draw augmentations from a generator of one's own, and take a sampler of another seed for each
# epoch.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q --disable-pip-version-check pylance==14.0.2 pyarrow==26.0.1 numpy==2.4.6
cat > "$work/try.py" <<'PY'
import random
import sys

import lance
import numpy as np
import pyarrow as pa
from lance.sampler import ShardedBatchSampler, ShardedFragmentSampler

rows, ranks, epochs = 2000, 2, 4
table = lance.write_dataset(pa.table({"row": np.arange(rows)}), sys.argv[1], max_rows_per_file=200)


def seen(kind, condition=None):
    """Different orders of a rank's epochs (the smallest of the ranks), different blurs of all, and all blurs."""
    orders, blurs = [], []
    for rank in range(ranks):
        random.seed(1000 + rank)
        sampler = kind(rank, ranks, randomize=True, seed=3)
        passes = []
        for epoch in range(epochs):
            sampler.set_epoch(epoch)
            drawn = []
            for batch in sampler(table, batch_size=50, columns=["row"], filter=condition, batch_readahead=16):
                drawn += batch["row"].to_pylist()
                blurs.append(random.uniform(0.1, 2.0))
            assert len(set(drawn)) == len(drawn) == rows // ranks
            passes.append(tuple(drawn))
        orders.append(len(set(passes)))
    return min(orders), len(set(blurs)), len(blurs)


print("pylance", lance.__version__, f"- {ranks} ranks, {epochs} epochs with set_epoch, randomize=True:")
results = {}
for kind in (ShardedBatchSampler, ShardedFragmentSampler):
    for condition in (None, "row >= 0"):
        results[kind, condition] = seen(kind, condition)
        orders, different, drawn = results[kind, condition]
        print(f"  {kind.__name__}, filter {condition}: {orders} orders; {different} different of {drawn} blur radii")
random.seed(1)
free = len({random.uniform(0.1, 2.0) for _ in range(160)})
print(f"  Python's random, left alone: {free} of 160")
for (kind, condition), result in results.items():
    wanted = (4, 80, 160) if (kind, condition) == (ShardedBatchSampler, "row >= 0") else (1, 20, 160)
    assert result == wanted, "the behaviour has changed"
assert free == 160
PY
"$work/venv/bin/python" "$work/try.py" "$work/table.lance"
