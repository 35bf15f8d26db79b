#!/usr/bin/env bash
# What: which pictures litdata's optimize() stores rightly when a function returns them as Pillow pictures.
# Versions: litdata 0.2.76, torch 2.11.0 (CPU), pillow 13.0.0, numpy 2.4.6. Date: 2026-11-30.
# A good guess: all: a JPEG is stored as its file, any other as raw pixels, without loss; the stored picture has the
# mode and the size of the one that was given, and convert("RGB") gives the same colours.
# Seen: of a picture with a palette (many PNGs of the web, every GIF) the numbers are stored and the palette is not. It
# comes back in mode P, with its size, and convert("RGB") makes it black: 40 of 40 are black in every pixel, though the
# pictures differ and have a mean of 129. RGB, grey and RGBA pictures in PNG come back to the bit, so a test on these
# shows nothing; np.asarray gives the right numbers, so a label map with a palette is right, too. Nothing is said. The
# "pil" columns of mosaicml-streaming 0.10.0 do the same, its "png" columns keep the palette (seen; not below). Convert
# to RGB before storing, or store the bytes of the file.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q --disable-pip-version-check litdata==0.2.76 torch==2.11.0 pillow==13.0.0 numpy==2.4.6
cat > "$work/try.py" <<'PY'
import os
import sys
import warnings
from importlib.metadata import version

import numpy as np
from litdata import StreamingDataset, optimize
from PIL import Image

FOLDER = sys.argv[1]
KINDS = {"RGB": "png", "L": "png", "RGBA": "png", "P": "png", "GIF": "gif"}


def name(kind, number):
    return os.path.join(FOLDER, f"{kind}-{number:02d}.{KINDS[kind]}")


def load(job):
    kind, number = job
    return {"kind": kind, "number": number, "image": Image.open(name(kind, number))}


if __name__ == "__main__":
    warnings.simplefilter("error", UserWarning)
    y, x = np.mgrid[:64, :64]
    for number in range(20):
        third = (x + y + 5 * number) % 128 * 2
        picture = Image.fromarray(np.stack([x * 4, y * 4, third], -1).astype(np.uint8))
        for kind in KINDS:
            (picture.quantize(256) if kind in ("P", "GIF") else picture.convert(kind)).save(name(kind, number))
    jobs = [(kind, number) for kind in KINDS for number in range(20)]
    optimize(fn=load, inputs=jobs, output_dir=os.path.join(FOLDER, "set"), chunk_bytes="1MB", num_workers=1)
    print("litdata", version("litdata"), "pillow", version("pillow"), "numpy", np.__version__)
    seen = {kind: [] for kind in KINDS}
    for row in StreamingDataset(os.path.join(FOLDER, "set")):
        file, stored = Image.open(name(row["kind"], row["number"])), row["image"]
        assert (file.mode, file.size) == (stored.mode, stored.size)
        assert (np.asarray(file) == np.asarray(stored)).all()
        right, got = np.asarray(file.convert("RGB")), np.asarray(stored.convert("RGB"))
        seen[row["kind"]].append(((right == got).all(), got.max() == 0, right.mean(), got.mean()))
    for kind, rows in seen.items():
        equal, black, right, got = np.array(rows, float).T
        print(f"  {KINDS[kind].upper()} of mode {'P' if kind == 'GIF' else kind}: {equal.sum():.0f} of {len(rows)} "
              f"have the colours of the file, {black.sum():.0f} are black; mean level {got.mean():.1f}, of the files "
              f"{right.mean():.1f}")
        lost = kind in ("P", "GIF")
        assert len(rows) == 20 and right.min() > 50, "the pictures are not as expected"
        assert equal.sum() == (0 if lost else 20) and black.sum() == (20 if lost else 0), "the behaviour has changed"
PY
"$work/venv/bin/python" "$work/try.py" "$work"
