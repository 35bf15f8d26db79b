#!/usr/bin/env bash
# What: IMREAD_REDUCED_COLOR_2, _4 and _8 of one picture stored as JPEG and as PNG, WebP or TIFF.
# Versions: opencv-python-headless 5.0.0.93, numpy 2.4.6; seen with 4.12.0 as well. Date: 2026-11-29.
# A good guess: the flag gives the picture at 1/8 of its sides, each pixel a mean of 8x8, whatever the format.
# Seen: only a JPEG is averaged and has its sides rounded up: 101x77 pixels become 13x10. The others are decoded in full
# and shrunk with four neighbours a pixel, sides rounded down: 12x9. Of noise (0-255) at 1/8 the pixels of the JPEG are
# 0.1 levels from the means of what they cover, those of PNG, WebP and TIFF 40: the picture is full of alias. A column
# is 8 pixels of the JPEG and 8.42 of the others. So a box found in the small picture and scaled by 8 is up to 5 pixels
# off in a PNG, and scaled by the sides (101/13) up to 3 in a JPEG.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q --disable-pip-version-check opencv-python-headless==5.0.0.93 numpy==2.4.6
cat > "$work/try.py" <<'PY'
import cv2
import numpy as np

noise = np.random.default_rng(0).integers(0, 256, (77, 101, 1), dtype=np.uint8)
picture = np.ascontiguousarray(noise.repeat(3, axis=2))
HOW = {".jpg": [cv2.IMWRITE_JPEG_QUALITY, 98], ".png": [], ".webp": [cv2.IMWRITE_WEBP_QUALITY, 101], ".tiff": []}
print("OpenCV", cv2.__version__, "- noise of 101x77: size, and mean distance from the means of the pixels covered")
for kind, how in HOW.items():
    stored = cv2.imencode(kind, picture, how)[1]
    full = cv2.imdecode(stored, cv2.IMREAD_COLOR)
    for shrink in (2, 4, 8):
        small = cv2.imdecode(stored, getattr(cv2, f"IMREAD_REDUCED_COLOR_{shrink}"))
        size = (small.shape[1], small.shape[0])
        floor, ceiling = (101 // shrink, 77 // shrink), (-(-101 // shrink), -(-77 // shrink))
        if kind == ".jpg":  # whole blocks alone: the last column and row have less to cover
            whole = full[: floor[1] * shrink, : floor[0] * shrink]
            means, small = cv2.resize(whole, floor, interpolation=cv2.INTER_AREA), small[: floor[1], : floor[0]]
        else:
            means = cv2.resize(full, floor, interpolation=cv2.INTER_AREA)
            linear = cv2.resize(full, floor, interpolation=cv2.INTER_LINEAR_EXACT)
            assert (small == linear).all(), "the behaviour has changed: not four neighbours"
        away = np.abs(small.astype(float) - means).mean()
        print(f"  {kind} 1/{shrink}: {size[0]}x{size[1]}, {away:.1f} levels")
        assert size == (ceiling if kind == ".jpg" else floor), "the behaviour has changed"
        assert shrink == 2 or (away < 5 if kind == ".jpg" else away > 20), "the behaviour has changed"
PY
"$work/venv/bin/python" "$work/try.py"
