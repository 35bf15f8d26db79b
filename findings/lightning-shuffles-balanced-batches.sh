#!/usr/bin/env bash
# What: the batches of pytorch-metric-learning's MPerClassSampler under Lightning, with one process and with two.
# Versions: pytorch-lightning 2.6.6, pytorch-metric-learning 2.9.0, torch 2.11.0 (CPU, gloo), numpy 2.4.6.
# Date: 2026-11-30.
# A good guess: Lightning shares a sampler's order out among the ranks, so that each gets 8 classes with 4 pictures
# each, or at least parts of such batches. The text of its wrapper: the sampler sees to shuffling, and the wrapper's own
# "shuffle" has no effect.
# Seen: that "shuffle" is True in training and shuffles the sampler's whole list. Of 200 classes, batches of 32: with
# one process every picture has a positive in its batch (48 pairs a batch), with two 0.157 have one (2.7 pairs), just as
# in batches drawn at random. A miner finds next to nothing, and nothing is said. With use_distributed_sampler=False all
# have one, but after seed_everything both ranks draw the very same batches (187 of 187): Lightning seeds each rank
# alike in fit(), so a seed set before fit() does nothing. With that option and a seed by rank in on_train_start both
# are right. Lightning's pages say that it shuffles "the train sampler"; its open issues 21131 and 21447 tell of the
# shuffle, not of what becomes of a metric loss.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q --disable-pip-version-check pytorch-metric-learning==2.9.0 pytorch-lightning==2.6.6 \
    torch==2.11.0 numpy==2.4.6
cat > "$work/try.py" <<'PY'
import json
import logging
import os
import pathlib
import sys
import warnings

import numpy as np
import pytorch_lightning as pl
import pytorch_metric_learning
import torch
from pytorch_metric_learning.samplers import MPerClassSampler
from torch.utils.data import DataLoader, TensorDataset

CLASSES, EACH, BATCH = 200, 30, 32
labels = torch.arange(CLASSES).repeat_interleave(EACH)
folder, ranks = pathlib.Path(sys.argv[0]).parent, int(sys.argv[1])
rank = int(os.environ.get("LOCAL_RANK", 0))


class Watcher(pl.LightningModule):
    def __init__(self, seed_by_rank):
        super().__init__()
        self.seed_by_rank, self.layer, self.seen = seed_by_rank, torch.nn.Linear(1, 1), []

    def on_train_start(self):
        if self.seed_by_rank:
            np.random.seed(100 + self.global_rank)

    def training_step(self, batch, index):
        self.seen.append(batch[0].flatten().long().tolist())
        return self.layer(batch[0]).mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


def run(name, seed_by_rank=False, **options):
    pl.seed_everything(1, verbose=False)
    numbers = torch.arange(len(labels), dtype=torch.float32)[:, None]
    sampler = MPerClassSampler(labels, m=4, batch_size=BATCH, length_before_new_iter=len(labels))
    loader = DataLoader(TensorDataset(numbers), batch_size=BATCH, sampler=sampler, drop_last=True)
    if ranks > 1:
        options |= dict(strategy="ddp", devices=ranks)
    model = Watcher(seed_by_rank)
    pl.Trainer(accelerator="cpu", max_epochs=1, logger=False, enable_progress_bar=False, enable_model_summary=False,
               enable_checkpointing=False, **options).fit(model, loader)
    (folder / f"{name}-{rank}.json").write_text(json.dumps(model.seen))


def judge(name, ranks):
    by_rank = [json.loads((folder / f"{name}-{rank}.json").read_text()) for rank in range(ranks)]
    paired, pairs = [], []
    for batch in (batch for batches in by_rank for batch in batches):
        classes = labels[batch]
        others = (classes[:, None] == classes).sum(1) - 1
        paired.append((others > 0).float().mean().item())
        pairs.append(others.sum().item() / 2)
    alike = np.mean([set(a) == set(b) for a, b in zip(*by_rank)]) if ranks > 1 else 0
    print(f"  {name:10} {ranks} ranks, {len(by_rank[0])} batches each: {np.mean(paired):.3f} of the pictures have a "
          f"positive in\n{'':13}their batch, {np.mean(pairs):.1f} pairs a batch; equal on both ranks: {alike:.2f}")
    return np.mean(paired), np.mean(pairs), alike


warnings.simplefilter("ignore")
logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
if ranks == 1:
    run("alone")
    print("pytorch-lightning", pl.__version__, "pytorch-metric-learning", pytorch_metric_learning.__version__,
          "torch", torch.__version__)
    assert judge("alone", 1)[:2] == (1, 48), "the behaviour has changed"
    two, own, seeded = judge("two", 2), judge("own", 2), judge("seeded", 2)
    assert two[0] < 0.25 and two[1] < 5, "the behaviour has changed"
    assert own == (1, 48, 1) and seeded == (1, 48, 0), "the behaviour has changed"
else:
    run("two")
    run("own", use_distributed_sampler=False)
    run("seeded", seed_by_rank=True, use_distributed_sampler=False)
PY
export OMP_NUM_THREADS=1 MASTER_ADDR=127.0.0.1 NODE_RANK=0
MASTER_PORT=$(python3 -c "import socket; s = socket.socket(); s.bind(('127.0.0.1', 0)); print(s.getsockname()[1])")
export MASTER_PORT
LOCAL_RANK=0 "$work/venv/bin/python" "$work/try.py" 2 > "$work/log" 2>&1 &
LOCAL_RANK=1 "$work/venv/bin/python" "$work/try.py" 2 > "$work/log1" 2>&1 || { cat "$work/log" "$work/log1"; exit 1; }
wait $! || { cat "$work/log"; exit 1; }
"$work/venv/bin/python" "$work/try.py" 1 2> "$work/log"
