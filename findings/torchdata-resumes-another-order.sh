#!/usr/bin/env bash
# What: whether an epoch that is resumed in its middle with torchdata goes on with the pictures not seen yet.
# Versions: torchdata 0.11.0, torch 2.11.0 (CPU), numpy 2.4.6. Date: 2026-11-30.
# A good guess: state_dict() of a StatefulDataLoader (or of a Loader of torchdata.nodes) is enough; shuffle=True and
# sampler=RandomSampler(data) are one thing, as in torch; a resume that was right in one epoch is right in all.
# Seen: only with shuffle=True, which takes torchdata's own RandomSampler, or with that one given. With torch's
# RandomSampler, with SubsetRandomSampler (the usual split), and with nodes.SamplerWrapper the state is a count: a new
# permutation is drawn and the first half of *that* is skipped. Stopped half way through the third epoch of 1,000
# pictures, about 250 are seen twice and 250 never, also where torch's random state is put back. In the first epoch a
# run seeded alike goes on rightly, so a short test shows nothing. The manual half-says it ("naively fast-forward").
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q --disable-pip-version-check torchdata==0.11.0 torch==2.11.0 numpy==2.4.6
cat > "$work/try.py" <<'PY'
from importlib.metadata import version

import torch
from torch.utils.data import RandomSampler, SubsetRandomSampler
from torchdata.nodes import Batcher, Loader, ParallelMapper, SamplerWrapper
from torchdata.stateful_dataloader import StatefulDataLoader
from torchdata.stateful_dataloader.sampler import RandomSampler as TheirRandomSampler

pictures = list(range(1000))
LOADERS = {
    "shuffle=True": lambda: StatefulDataLoader(pictures, batch_size=10, shuffle=True),
    "torchdata's RandomSampler": lambda: StatefulDataLoader(pictures, 10, sampler=TheirRandomSampler(pictures)),
    "torch's RandomSampler": lambda: StatefulDataLoader(pictures, 10, sampler=RandomSampler(pictures)),
    "SubsetRandomSampler": lambda: StatefulDataLoader(pictures, 10, sampler=SubsetRandomSampler(pictures)),
    "nodes.SamplerWrapper": lambda: Loader(
        Batcher(ParallelMapper(SamplerWrapper(RandomSampler(pictures)), map_fn=int, num_workers=0), 10)),
}


def resumed(make, stop, put_back):
    """The distinct pictures of epoch `stop`, which is left at its middle and gone on with by a new loader."""
    torch.manual_seed(0)
    loader, before = make(), []
    for epoch in range(stop + 1):
        for step, batch in enumerate(loader, 1):
            if epoch == stop:
                before += [int(i) for i in batch]
                if step == 50:
                    break
    state, noise = loader.state_dict(), torch.get_rng_state()
    torch.manual_seed(0)
    loader = make()
    if put_back:
        torch.set_rng_state(noise)
    loader.load_state_dict(state)
    after = [int(i) for batch in loader for i in batch]
    assert len(before) == len(after) == 500
    return len(set(before + after))


print("torchdata", version("torchdata"), "torch", torch.__version__, "- pictures of 1,000 seen in a resumed epoch:")
for name, make in LOADERS.items():
    first, third, third_put_back = (resumed(make, *how) for how in ((0, False), (2, False), (2, True)))
    print(f"  {name}: first epoch {first}, third {third}, third with torch's random state put back {third_put_back}")
    if name in ("shuffle=True", "torchdata's RandomSampler"):
        assert first == third == third_put_back == 1000, "the behaviour has changed"
    else:
        assert first == 1000 and third < 800 and third_put_back < 800, "the behaviour has changed"
PY
"$work/venv/bin/python" "$work/try.py"
