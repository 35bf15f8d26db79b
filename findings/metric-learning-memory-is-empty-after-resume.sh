#!/usr/bin/env bash
# What: what pytorch-metric-learning's CrossBatchMemory (the queue of XBM and MoCo) holds after a resume.
# Versions: pytorch-metric-learning 2.9.0, torch 2.11.0 (CPU), numpy 2.4.6. Date: 2026-11-30.
# A good guess: it is a module whose state_dict() has the queue's embeddings and labels, and load_state_dict() says that
# all keys match; so a run resumed from the state of network, optimizer and loss goes on as if nothing had been.
# Seen: the embeddings are saved, how many of them are valid and where the next go is not (plain numbers of the object).
# A loaded queue counts as empty: it is not looked at, and overwritten from its start. With a memory of 1,024 and
# batches of 32 the loss (NT-Xent) falls from 5.9 to 2.6 at the resume and climbs for 31 steps, as each has 32
# references, then 64, and so on; with 65,536 in batches of 256 that would be 255 steps. Where no label comes twice in a batch
# there is no positive, and the first loss is 0. Nothing is said. (The site shows a page of a rewritten class, with
# label_dtype= and pair_function=, which 2.9.0, the newest release, is not.) Save queue_idx and has_been_filled beside
# the state, and set them after loading.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q --disable-pip-version-check pytorch-metric-learning==2.9.0 torch==2.11.0 numpy==2.4.6
cat > "$work/try.py" <<'PY'
import copy
import importlib.metadata
import io
import warnings

import torch
from pytorch_metric_learning.losses import CrossBatchMemory, NTXentLoss
from torch import nn

warnings.simplefilter("error")
torch.manual_seed(0)
torch.set_num_threads(1)
centres = torch.randn(200, 32)


def draw():
    labels = torch.randint(0, 200, (32,))
    return centres[labels] + torch.randn(32, 32), labels


def fresh():
    net = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 16))
    parts = {"net": net, "loss": CrossBatchMemory(NTXentLoss(0.07), embedding_size=16, memory_size=1024),
             "optimizer": torch.optim.SGD(net.parameters(), 0.05, momentum=0.9)}
    return parts


def train(parts, batches):
    losses = []
    for pictures, labels in batches:
        loss = parts["loss"](parts["net"](pictures), labels)
        parts["optimizer"].zero_grad()
        loss.backward()
        parts["optimizer"].step()
        losses.append(loss.item())
    return losses


def resumed(checkpoint):
    checkpoint.seek(0)
    state, parts = torch.load(checkpoint), fresh()
    said = {name: str(parts[name].load_state_dict(state[name])) for name in parts}
    return parts, said["loss"]


first, after = [draw() for _ in range(100)], [draw() for _ in range(60)]
run = fresh()
train(run, first)
checkpoint = io.BytesIO()
torch.save({name: part.state_dict() for name, part in run.items()}, checkpoint)
kept = run["loss"].queue_idx, run["loss"].has_been_filled

plain, said = resumed(checkpoint)
cured, _ = resumed(checkpoint)
cured["loss"].queue_idx, cured["loss"].has_been_filled = kept
print("pytorch-metric-learning", importlib.metadata.version("pytorch-metric-learning"), "torch", torch.__version__)
print("  state_dict of the loss:", ", ".join(run["loss"].state_dict()), "- load_state_dict:", said)
same = torch.equal(plain["loss"].embedding_memory, run["loss"].embedding_memory)
alone = copy.deepcopy(plain)
losses = {"gone on": train(run, after), "resumed": train(plain, after), "resumed, both set": train(cured, after)}
for name, values in losses.items():
    print(f"  {name}: loss of steps 1, 11, 21, 31, 41:", " ".join(f"{value:.2f}" for value in values[:50:10]))
weights = {name: parts["net"][0].weight for name, parts in (("on", run), ("plain", plain), ("cured", cured))}
apart = (weights["on"] - weights["plain"]).norm().item() / weights["on"].norm().item()
print(f"  weights of the first layer after 60 steps: {apart:.2f} of their norm apart")

# A batch in which no label comes twice has its positives in the queue alone.
pictures, labels = centres[:32] + torch.randn(32, 32), torch.arange(32)
full, _ = resumed(checkpoint)
full["loss"].queue_idx, full["loss"].has_been_filled = kept
single = [parts["loss"](parts["net"](pictures), labels).item() for parts in (full, alone)]
print(f"  first batch with each label once: loss {single[0]:.2f} with the queue, {single[1]:.2f} resumed")
assert same and "All keys matched" in said, "the behaviour has changed"
assert losses["gone on"] == losses["resumed, both set"], "the behaviour has changed"
assert losses["resumed"][0] < 0.5 * losses["gone on"][0] and apart > 0, "the behaviour has changed"
assert single[0] > 1 and single[1] == 0, "the behaviour has changed"
PY
"$work/venv/bin/python" "$work/try.py"
