#!/usr/bin/env bash
# What: whether torchrun --max-restarts brings a training back whose rank was killed (gloo, one machine).
# Versions: torch 2.14.1, numpy 2.4.6. Date: 2026-11-29.
# A good guess: the new ranks meet each other, as the launcher counts the restart and the training goes on.
# Seen: torchrun keeps one store for all starts (its own, shared with the ranks), and torch 2.14 puts nothing between the
# starts in it: a new rank reads the address that a rank of the start before has left, calls it, and gets "Connection
# refused". The only restart fails so, with --standalone and with a static port. With
# TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 each start has a store of its own, and the restart works.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q --disable-pip-version-check torch==2.14.1 numpy==2.4.6
cat > "$work/rank.py" <<'PY'
import os, signal
import torch, torch.distributed as dist

dist.init_process_group("gloo")
dist.all_reduce(torch.ones(1))
start = os.environ["TORCHELASTIC_RESTART_COUNT"]
print(f"rank {dist.get_rank()} joined in start {start}", flush=True)
if start == "0" and dist.get_rank() == 0:
    os.kill(os.getpid(), signal.SIGKILL)
dist.barrier()
PY
"$work/venv/bin/python" -c 'import torch; print("torch", torch.__version__)'
run() { env "$@" timeout 200 "$work/venv/bin/python" -W ignore -m torch.distributed.run --standalone --nproc-per-node 2 \
        --max-restarts 1 "$work/rank.py" > "$work/said" 2>&1 || true
        echo "$*: $(grep -c 'joined in start 1' "$work/said" || true) of 2 ranks joined after the restart"; }
run SHARED_STORE=the-default
! grep -q 'joined in start 1' "$work/said" || { echo "the behaviour has changed: the restart works"; exit 1; }
grep -q 'Connection refused' "$work/said" || { echo "the behaviour has changed: another error"; cat "$work/said"; exit 1; }
run TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
[ "$(grep -c 'joined in start 1' "$work/said")" = 2 ] || { echo "the behaviour has changed"; cat "$work/said"; exit 1; }
