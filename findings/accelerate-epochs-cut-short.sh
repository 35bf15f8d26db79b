#!/usr/bin/env bash
# What: how many pictures a training of short epochs (so many steps each) sees with accelerate's seedable sampler.
# Versions: accelerate 1.15.0, torch 2.11.0 (CPU), numpy 2.4.6. Date: 2026-11-30.
# A good guess: use_seedable_sampler=True gives other, but reproducible, permutations; each pass over the loader is a
# new epoch with a new order, as accelerate counts epochs itself, whether or not the loop is left by "break".
# Seen: the count goes up only when the loader has come to its end. A loop of 20 steps of 10 pictures, left by break,
# ten times over a set of 1,000 draws the very same 200 pictures in the same order ten times: 800 are never seen. With
# accelerate's default sampler 897 are seen, with torch's loader as well (893 are expected). Whole epochs differ as
# they should, so a test with these shows nothing. loader.set_epoch(n) before each pass cures it. islice is as break.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q --disable-pip-version-check accelerate==1.15.0 torch==2.11.0 numpy==2.4.6
cat > "$work/try.py" <<'PY'
from itertools import islice

import accelerate
import torch
from accelerate import Accelerator, DataLoaderConfiguration
from accelerate.utils import set_seed
from torch.utils.data import DataLoader

pictures, epochs, steps = 1000, 10, 20


def loader(kind):
    set_seed(0)
    plain = DataLoader(torch.arange(pictures), batch_size=10, shuffle=True)
    if kind == "torch":
        return plain
    return Accelerator(cpu=True, dataloader_config=DataLoaderConfiguration(use_seedable_sampler=kind)).prepare(plain)


def by_break(batches):
    drawn = []
    for step, batch in enumerate(batches):
        if step == steps:
            break
        drawn += batch.tolist()
    return drawn


def by_islice(batches):
    return [i for batch in islice(batches, steps) for i in batch.tolist()]


def seen(kind, one_epoch, count=False):
    batches, drawn = loader(kind), []
    for epoch in range(epochs):
        if count:
            batches.set_epoch(epoch)
        drawn.append(tuple(one_epoch(batches)))
    return len(set().union(*drawn)), len(set(drawn))


print("accelerate", accelerate.__version__, "torch", torch.__version__, f"- {epochs} epochs of {steps} steps of 10:")
results = {
    "torch's DataLoader": seen("torch", by_break),
    "prepared": seen(False, by_break),
    "prepared, seedable": seen(True, by_break),
    "prepared, seedable, islice": seen(True, by_islice),
    "prepared, seedable, set_epoch": seen(True, by_break, count=True),
}
for name, (distinct, orders) in results.items():
    print(f"  {name}: {distinct} of {pictures} pictures are seen, {orders} different epochs")
whole = seen(True, lambda batches: [i for batch in batches for i in batch.tolist()])
print(f"  prepared, seedable, whole epochs: {whole[0]} pictures, {whole[1]} different epochs")
assert results["prepared, seedable"] == results["prepared, seedable, islice"] == (200, 1), "the behaviour has changed"
for name in ("torch's DataLoader", "prepared", "prepared, seedable, set_epoch"):
    assert results[name][0] > 800 and results[name][1] == epochs, "the behaviour has changed"
assert whole == (pictures, epochs), "the behaviour has changed"
PY
"$work/venv/bin/python" "$work/try.py"
