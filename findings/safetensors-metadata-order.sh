#!/usr/bin/env bash
# What: whether the same tensors and the same metadata give the same file.
# Versions: safetensors 0.8.0, numpy 2.4.6. Date: 2026-11-29.
# A good guess: a format of raw numbers has one file for one content, so that a checksum tells whether weights are equal.
# Seen: with one entry of metadata 50 files are equal. With three entries they differ, even within one process: the
# entries come in an order that is random for each call. The tensors' bytes and the length are the same.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q --disable-pip-version-check safetensors==0.8.0 numpy==2.4.6
cat > "$work/try.py" <<'PY'
import hashlib

import numpy as np
import safetensors
from safetensors.numpy import save

print("safetensors", safetensors.__version__, "numpy", np.__version__)
weights = {"weight": np.arange(12, dtype=np.float32)}
seen = {}
for metadata in ({"format": "pt"}, {"format": "pt", "arch": "resnet50", "epoch": "100"}):
    files = [save(weights, metadata) for _ in range(50)]
    seen[len(metadata)] = len({hashlib.sha256(file).digest() for file in files})
    print(f"  {len(metadata)} entries of metadata: {seen[len(metadata)]} different files of 50")
    assert len({(len(file), file[-48:]) for file in files}) == 1, "the behaviour has changed: lengths or tensors differ"
assert seen[1] == 1, "the behaviour has changed: one entry gives several files"
assert seen[3] > 1, "the behaviour has changed: the order of the metadata is fixed"
PY
"$work/venv/bin/python" "$work/try.py"
