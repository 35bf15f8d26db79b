#!/usr/bin/env bash
# What: whether the workers of a DataLoader draw different crops with albumentations, and others in the next epoch.
# Versions: albumentations 2.0.8, torch 2.11.0 (CPU), numpy 2.4.6, opencv-python-headless 5.0.0.93. Date: 2026-11-29.
# A good guess: without a seed every sample gets its own crop; torch gives each worker its own seed in each epoch.
# Seen: Compose makes its generator when it is built, in the parent, and each forked worker starts from a copy of it.
# Two workers and three epochs of 64 samples make 192 draws, of which 32 are different (or one less, by chance): each
# crop comes twice an epoch, and every epoch is the same. A seed in Compose changes nothing in this. With persistent
# workers 96 are different. Giving each worker's transform the worker's seed (worker_init_fn) makes all but a few of
# them different.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q --disable-pip-version-check albumentations==2.0.8 torch==2.11.0 numpy==2.4.6 \
  opencv-python-headless==5.0.0.93
cat > "$work/try.py" <<'PY'
import albumentations as A
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

y, x = np.mgrid[0:256, 0:256]
PLACES = np.stack([y, x, 0 * x], -1).astype(np.uint8)  # a pixel's value says where it lies


class Crops(Dataset):
    def __init__(self, seed=None):
        self.transform = A.Compose([A.RandomCrop(32, 32)], seed=seed)

    def __len__(self):
        return 64

    def __getitem__(self, index):
        top, left, _ = self.transform(image=PLACES)["image"][0, 0].tolist()
        return top, left


def own_seed(worker):
    info = get_worker_info()
    info.dataset.transform.set_random_seed(info.seed % 2**32)


def different(seed=None, **how):
    loader = DataLoader(Crops(seed), batch_size=None, num_workers=2, multiprocessing_context="fork", **how)
    return len({place for _ in range(3) for place in map(tuple, loader)})


torch.manual_seed(0)
print("albumentations", A.__version__, "torch", torch.__version__, "- different crops of 192:")
seen = [different(), different(seed=137), different(persistent_workers=True), different(worker_init_fn=own_seed)]
print("  no seed:", seen[0], "- seed=137:", seen[1], "- persistent workers:", seen[2], "- own seeds:", seen[3])
# A few draws may meet the same place by chance (of 50,625).
assert 28 < seen[0] <= 32 and 28 < seen[1] <= 32 and 88 < seen[2] <= 96 and seen[3] > 180, "the behaviour has changed"
PY
NO_ALBUMENTATIONS_UPDATE=1 "$work/venv/bin/python" "$work/try.py"
