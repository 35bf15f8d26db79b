#!/usr/bin/env bash
# What: which pictures share their random numbers with grain's MapDataset.random_map: two views, and several ranks.
# Versions: grain 0.2.18, numpy 2.4.6. Date: 2026-11-30.
# A good guess: after seed() each random_map has a seed of its own (its manual: "automatically seeded with a unique
# seed"), and each picture its own numbers. So two random_maps of one data set, zipped, are two different views, and
# each rank that takes its share as the manual says, ds[rank::ranks], draws other crops than the others.
# Seen: the seed is made of the place in the chain (how many steps from the source), and the number of the element is
# counted within the share. Two branches of equal length are equal views in 1,024 of 1,024 pairs, so an SSL loss
# compares a picture with itself; two random_maps one after the other differ in all. Eight ranks that shuffle, share
# and then crop draw 127 crops for 1,024 pictures, all ranks the same in each step; cropping before sharing gives
# 1,006, and grain's own DataLoader, with the same share, 999. One process, and one view, show nothing of it. The manual
# half-says it ("absolute position", "index of the element"). Give each branch a seed, and share last.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q --disable-pip-version-check grain==0.2.18 numpy==2.4.6
cat > "$work/try.py" <<'PY'
from importlib.metadata import version

import grain
from grain.experimental import ZipMapDataset

pictures, ranks = 1024, 8


def crop(picture, rng):
    top, left = rng.integers(0, 100, 2).tolist()
    return picture, top, left, bool(rng.random() < 0.5)


class Crop(grain.transforms.RandomMap):
    def random_map(self, element, rng):
        return crop(element, rng)


def equal_views(pairs):
    return sum(first == second for first, second in pairs)


def different(shares):
    """How many different crops the ranks draw together, and whether they all draw the same ones in the same order."""
    assert sorted(element[0] for share in shares for element in share) == list(range(pictures))
    crops = [[element[1:] for element in share] for share in shares]
    return len({one for share in crops for one in share}), all(share == crops[0] for share in crops)


def by_loader(rank):
    share = grain.sharding.ShardOptions(shard_index=rank, shard_count=ranks)
    order = grain.samplers.IndexSampler(pictures, shard_options=share, shuffle=True, num_epochs=1, seed=0)
    return list(grain.DataLoader(data_source=range(pictures), sampler=order, operations=[Crop()], worker_count=0))


shuffled = grain.MapDataset.source(range(pictures)).seed(0).shuffle()
chain = shuffled.random_map(lambda picture, rng: (picture, crop(picture, rng)))
chain = chain.random_map(lambda seen, rng: (seen[1], crop(seen[0], rng)))
views = {
    "two branches": equal_views(ZipMapDataset([shuffled.random_map(crop), shuffled.random_map(crop)])),
    "one after the other": equal_views(chain),
    "two branches, own seeds": equal_views(
        ZipMapDataset([shuffled.random_map(crop, seed=1), shuffled.random_map(crop, seed=2)])
    ),
}
shares = {
    "share, then crop": different([list(shuffled[rank::ranks].random_map(crop)) for rank in range(ranks)]),
    "crop, then share": different([list(shuffled.random_map(crop)[rank::ranks]) for rank in range(ranks)]),
    "grain.DataLoader": different([by_loader(rank) for rank in range(ranks)]),
}
print("grain", version("grain"), f"- {pictures} pictures, 20,000 possible crops")
for name, equal in views.items():
    print(f"  two views by {name}: {equal} pairs are equal")
for name, (crops, same) in shares.items():
    print(f"  {ranks} ranks, {name}: {crops} different crops; all ranks draw the same: {same}")
assert views["two branches"] == pictures and max(list(views.values())[1:]) < 5, "the behaviour has changed"
assert shares["share, then crop"][1] and shares["share, then crop"][0] <= pictures // ranks, "the behaviour has changed"
for name in ("crop, then share", "grain.DataLoader"):
    assert shares[name][0] > 950 and not shares[name][1], "the behaviour has changed"
PY
"$work/venv/bin/python" "$work/try.py"
