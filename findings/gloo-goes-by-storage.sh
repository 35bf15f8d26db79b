#!/usr/bin/env bash
# What: which gloo collectives give equal values where ranks hold equal shapes in other memory formats.
# Versions: torch 2.11.0 (gloo, CPU), numpy 2.4.6; seen with torch 2.15 as well. Date: 2026-11-29.
# A good guess: a collective of tensors of one shape and dtype moves values, element by element, or refuses; a
# channels-last network (rank 0, for speed) can hand its weights or gradients to a contiguous one (rank 1).
# Seen: broadcast, all_reduce and scatter copy the storage in its own order and say nothing: rank 1 gets the values of
# rank 0 permuted. all_gather gives the right values, send refuses ("input tensor has to be contiguous"). So the five
# differ among themselves. Bring tensors to one memory format before a collective.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q --disable-pip-version-check torch==2.11.0 numpy==2.4.6
cat > "$work/try.py" <<'PY'
import sys
from datetime import timedelta

import torch
import torch.distributed as dist

rank = int(sys.argv[1])
dist.init_process_group("gloo", f"file://{sys.argv[2]}", timedelta(seconds=120), world_size=2, rank=rank)
values = torch.arange(24.0).reshape(1, 2, 3, 4)
last = values.contiguous(memory_format=torch.channels_last)
assert torch.equal(values, last)


def mine(other):
    """Rank 0 holds the values in channels-last order, rank 1 a contiguous tensor of that shape."""
    return last.clone() if rank == 0 else other.clone()


seen = {}
x = mine(torch.zeros(1, 2, 3, 4))
dist.broadcast(x, 0)
seen["broadcast"] = torch.equal(x, values)
x = mine(torch.zeros(1, 2, 3, 4))
dist.all_reduce(x)
seen["all_reduce with zeros"] = torch.equal(x, values)
x = torch.zeros(1, 2, 3, 4)
dist.scatter(x, [values, last] if rank == 0 else None, 0)
seen["scatter"] = torch.equal(x, values)
parts = [torch.zeros(1, 2, 3, 4) for _ in range(2)]
dist.all_gather(parts, mine(values))
seen["all_gather"] = all(torch.equal(part, values) for part in parts)
if rank == 1:
    print("torch", torch.__version__, "- right values on rank 1:", seen)
    expected = {"broadcast": False, "all_reduce with zeros": False, "scatter": False, "all_gather": True}
    assert seen == expected, "the behaviour has changed"
if rank == 0:
    try:
        dist.send(last, 1)
    except RuntimeError as error:
        print("  send:", error)
    else:
        raise AssertionError("the behaviour has changed: send takes it")
PY
"$work/venv/bin/python" "$work/try.py" 0 "$work/meeting" & first=$!
"$work/venv/bin/python" "$work/try.py" 1 "$work/meeting"
wait "$first"
