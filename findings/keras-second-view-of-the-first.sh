#!/usr/bin/env bash
# What: two views of one batch, made by calling a Keras augmentation layer twice.
# Versions: keras 3.15.1 with torch 2.11.0 (CPU), numpy 2.4.6. Date: 2026-11-30.
# A good guess: a layer returns new tensors and leaves what it is given alone, so two calls are two independent views.
# Seen: given a dict (as boxes, masks or labels ask for), RandomCrop, RandomFlip, and a Pipeline that starts with one,
# write into the caller's dict, so the second call starts from the first view. A second crop has nothing left to cut:
# both views are equal to the bit in 20 of 20 tries, and a contrastive loss compares a picture with itself. A batch that
# is kept as a dict stays cropped. RandomTranslation and most others copy, so 0 of 20 are equal; bare arrays are right
# as well. With torch, RandomBrightness and RandomColorJitter add into the caller's tensor (not with NumPy arrays): the
# second view has the first one's shift, too, so two brightness shifts that should be independent have a correlation of
# 0.68, and pictures kept in memory drift, by 100 levels in ten epochs. Nothing is said. Give dict(batch), and a clone.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q --disable-pip-version-check keras==3.15.1 torch==2.11.0 numpy==2.4.6
cat > "$work/try.py" <<'PY'
import os
import warnings

os.environ["KERAS_BACKEND"] = "torch"
import keras
import numpy as np
import torch
from keras import layers

torch.set_num_threads(1)
same = "the behaviour has changed"
pictures = np.random.default_rng(0).integers(0, 256, (16, 48, 64, 3)).astype("float32")


def crop(seed):
    return layers.RandomCrop(32, 32, seed=seed)


def shift(seed):
    return layers.RandomTranslation(0.2, 0.2, seed=seed)


def line(seed):
    return layers.Pipeline([crop(seed), layers.AutoContrast()])


def views(layer, as_dict):
    """Two views of one batch, and what the batch holds afterwards."""
    batch = {"images": torch.tensor(pictures), "labels": torch.arange(16)}
    calls = [layer(batch if as_dict else batch["images"], training=True) for _ in range(2)]
    calls = [call["images"] if as_dict else call for call in calls]
    return [tensor.detach().numpy() for tensor in (*calls, batch["images"])]


print("keras", keras.__version__, "torch", torch.__version__, "numpy", np.__version__)
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    print("  of 20 tries: two equal views, and a batch that was left alone")
    counts = {}
    for make in (crop, line, shift):
        for as_dict in (True, False):
            tries = [views(make(seed), as_dict) for seed in range(20)]
            counts[make, as_dict] = (sum(np.array_equal(one, two) for one, two, _ in tries),
                                     sum(np.array_equal(batch, pictures) for _, _, batch in tries))
            print(f"    {make.__name__:5} given a {'dict' if as_dict else 'tensor':6}:", *counts[make, as_dict])

    # Two brightness shifts of dim pictures (nothing is clipped); then ten epochs over pictures kept in memory.
    dim = torch.full((500, 8, 8, 3), 128.0)
    bright = layers.RandomBrightness(0.2, seed=0)
    one, two = (bright(dim, training=True).mean((1, 2, 3)) - 128 for _ in range(2))
    tied = torch.corrcoef(torch.stack([one, two]))[0, 1].item()
    copied = [bright(torch.full((500, 8, 8, 3), 128.0), training=True).mean((1, 2, 3)) for _ in range(2)]
    free = torch.corrcoef(torch.stack(copied))[0, 1].item()
    kept = torch.full((500, 8, 8, 3), 128.0)
    for _ in range(10):
        bright(kept, training=True)
    drift = (kept - 128).square().mean().sqrt().item()
    array = np.full((500, 8, 8, 3), 128.0, "float32")
    bright(array, training=True)
    print(f"  brightness of two views: correlation {tied:.2f}, of clones {free:.2f}; pictures kept for ten epochs are "
          f"{drift:.0f} levels off, a NumPy array {np.abs(array - 128).max():.0f}")

assert not [note for note in said if "keras" in str(note.message).lower()], same
assert counts[crop, True] == (20, 0) and counts[line, True] == (20, 0), same
assert counts[crop, False] == (0, 20) and counts[shift, True] == (0, 20) and counts[shift, False] == (0, 20), same
assert tied > 0.6 and abs(free) < 0.15 and drift > 60 and np.all(array == 128), same
PY
OMP_NUM_THREADS=1 "$work/venv/bin/python" "$work/try.py"
