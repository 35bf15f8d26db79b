#!/usr/bin/env bash
# What: what ema_pytorch's EMA does to a teacher that is given to it (ema_model=), and to weights it is to leave alone
# (ignore_names=, ignore_startswith_names=).
# Versions: ema-pytorch 0.8.3, torch 2.11.0 (CPU), scikit-learn 1.9.1, numpy 2.4.6. Date: 2026-11-30.
# A good guess: EMA(student, ema_model=teacher) goes on from the teacher's weights, as a run whose two networks come
# from a checkpoint needs it; with beta=1.0 it never changes; ignored names are never touched.
# Seen: the first update() copies the student over the teacher, all of it, whatever beta and the names say, and with the
# defaults every tenth call does so up to the 101st. A teacher that is right in 0.97 of the test digits is at
# 0.03-0.12 after one update() beside a fresh student, also with beta=1.0; an ignored head is the student's. From
# then on beta and the names are kept, so a test of a later step shows nothing, nor does one whose teacher is a copy of
# the student. forward_eval(), "no grad + eval" by its comment, runs in train mode unless eval() was called, and moves
# the teacher's batch statistics (an open issue, 38, asks about that). Nothing is said. Load the state of the whole EMA,
# or set its initted and step by hand; call ema.eval() first.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q --disable-pip-version-check ema-pytorch==0.8.3 torch==2.11.0 scikit-learn==1.9.1 \
    numpy==2.4.6
cat > "$work/try.py" <<'PY'
import copy
import importlib.metadata
import warnings

import torch
from ema_pytorch import EMA
from sklearn.datasets import load_digits
from torch import nn

warnings.simplefilter("error")
torch.manual_seed(0)
torch.set_num_threads(1)
pictures, labels = load_digits(return_X_y=True)
pictures, labels = torch.tensor(pictures / 16, dtype=torch.float32), torch.tensor(labels)
order = torch.randperm(len(labels))
train, test = order[:1400], order[1400:]


def fresh():
    return nn.Sequential(nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 10))


def right(net):
    with torch.no_grad():
        return (copy.deepcopy(net).eval()(pictures[test]).argmax(1) == labels[test]).float().mean().item()


trained = fresh()
optimizer = torch.optim.AdamW(trained.parameters(), 3e-3)
for _ in range(400):
    some = train[torch.randint(0, 1400, (128,))]
    loss = nn.functional.cross_entropy(trained(pictures[some]), labels[some])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

print("ema-pytorch", importlib.metadata.version("ema-pytorch"), "torch", torch.__version__)
print(f"  the teacher as it was given: right in {right(trained):.2f}")
head = {"ignore_names": {"3.weight", "3.bias"}}
for told in ({"beta": 0.99}, {"beta": 1.0}, {"beta": 0.99, **head}, {"beta": 0.99, "ignore_startswith_names": {"3."}},
             {"beta": 0.99, "started": True}, {"beta": 0.99, "started": True, **head}):
    started = told.pop("started", False)
    student, teacher = fresh(), copy.deepcopy(trained)
    ema = EMA(student, ema_model=teacher, update_every=1, **told)
    if started:
        ema.initted.fill_(True)
        ema.step.fill_(10_000)
    ema.update()
    after, kept = right(ema.ema_model), torch.equal(ema.ema_model[3].weight, trained[3].weight)
    print(f"  {told}{', initted and step set' if started else ''}: after one update() right in {after:.2f}, "
          f"its head is {'the one given' if kept else 'another'}")
    assert (after > 0.9) == started, "the behaviour has changed"
    assert kept == (started and "ignore_names" in told), "the behaviour has changed"

# Copies go on until update_after_step, also of what is to be ignored.
student = fresh()
ema = EMA(student, beta=0.99, **head)
first, changed = ema.ema_model[3].weight.clone(), []
for call in range(1, 301):
    with torch.no_grad():
        student[3].weight.add_(0.01)
    before = ema.ema_model[3].weight.clone()
    ema.update()
    if not torch.equal(before, ema.ema_model[3].weight):
        changed.append(call)
print("  the defaults: an ignored weight is changed by the calls", *changed, "of 300")
assert changed[0] == 1 and 90 < changed[-1] < 110, "the behaviour has changed"

ema = EMA(trained, beta=0.99)
means = ema.ema_model[1].running_mean.clone()
ema.forward_eval(pictures[labels == 0])
moved = (ema.ema_model[1].running_mean - means).abs().max().item()
ema.eval()
means = ema.ema_model[1].running_mean.clone()
ema.forward_eval(pictures[labels == 0])
print(f"  forward_eval moves the teacher's running means by {moved:.3f}, after eval() by "
      f"{(ema.ema_model[1].running_mean - means).abs().max().item():.3f}")
assert moved > 0 and torch.equal(means, ema.ema_model[1].running_mean), "the behaviour has changed"
PY
"$work/venv/bin/python" "$work/try.py"
