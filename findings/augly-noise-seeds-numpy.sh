#!/usr/bin/env bash
# What: what AugLy's RandomNoise does to the other draws of a program, and how random its noise is.
# Versions: augly 1.0.0, numpy 2.4.6, pillow 13.0.0 (with pylibmagic 0.5.0). Date: 2026-11-30.
# A good guess: each picture gets its own noise; a seed of one transform is that transform's own.
# Seen: RandomNoise and ShufflePixels call np.random.seed at each picture, with 42 and 10 unless told otherwise
# (RandomNoise refuses None). So every picture, and both views of it, get the same noise (correlation 1.0), and numpy's
# generator starts again for everybody: 1,000 mixup shares drawn after RandomNoise have 1 value with p=1, 11 with p=0.5
# and 53 with p=0.1, and runs with other seeds have most of them in common. A permutation of negatives is always the
# same one. The text of seed says that a seed is set, not whose. Draw from a np.random.default_rng of your own, and give
# random_noise a new seed for each picture.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q --disable-pip-version-check augly==1.0.0 pylibmagic==0.5.0 numpy==2.4.6 pillow==13.0.0
cat > "$work/try.py" <<'PY'
import random
from importlib.metadata import version

import pylibmagic  # noqa: F401  (brings the libmagic that AugLy's import asks for)
import augly.image as imaugs
import numpy as np
from PIL import Image

rng = np.random.default_rng(0)
gray = [Image.fromarray(np.full((64, 64, 3), level, np.uint8)) for level in (100, 120, 140)]
noise = imaugs.RandomNoise(var=0.01)
views = [np.asarray(noise(picture)).astype(float) for picture in gray]
fields = [view - view.mean() for view in views]
alike = np.corrcoef([field.ravel() for field in fields]).round(3)
print("AugLy", version("augly"), "- correlation of the noise of three pictures:", alike[0, 1], alike[0, 2], alike[1, 2])
assert alike.min() > 0.99, "the behaviour has changed"


def mixup(transform, seed, steps=1000):
    """The mixup shares of a run: a picture is augmented, then numpy draws the share."""
    np.random.seed(seed)
    random.seed(seed)
    shares = []
    for _ in range(steps):
        transform(gray[0])
        shares.append(np.random.beta(1.0, 1.0))
    return np.array(shares)


cases = {
    "Blur": imaugs.Blur(radius=1.0),
    "RandomNoise, p=1": imaugs.RandomNoise(),
    "RandomNoise, p=0.5": imaugs.RandomNoise(p=0.5),
    "RandomNoise, p=0.1": imaugs.RandomNoise(p=0.1),
    "ShufflePixels, p=0.5": imaugs.ShufflePixels(factor=0.1, p=0.5),
}
for name, transform in cases.items():
    first, second = mixup(transform, 1), mixup(transform, 2)
    both = len(set(first) | set(second))
    print(f"  {name}: 1000 draws of beta(1, 1) give {len(set(first))} values, mean {first.mean():.3f}; "
          f"with another seed as well {both} of 2000")
    if name == "Blur":
        assert both == 2000, "the behaviour has changed"
    elif name.endswith("p=1"):
        assert both == 1, "the behaviour has changed"
    elif name.endswith("p=0.5"):
        assert both < 60, "the behaviour has changed"
    else:
        assert len(set(first)) < 300, "the behaviour has changed"

np.random.seed(1)
orders = {tuple(np.random.permutation(8)) for _ in range(50) if noise(gray[0])}
print("  np.random.permutation(8) after each of 50 noises:", len(orders), "order")
assert len(orders) == 1, "the behaviour has changed"
PY
"$work/venv/bin/python" "$work/try.py"
