#!/usr/bin/env bash
# What: whether resizing a region of a picture is the same as cutting it out and resizing that.
# Versions: nvidia-dali-cuda130 2.4.0 (device="cpu"), pillow 13.0.0, numpy 2.4.6; no GPU needed. Date: 2026-11-29.
# A good guess: yes, but for the rounding of its corners: pixels outside of the region have no part in a crop of it.
# Seen: a black square in a white picture, the region just that square, made 4.5 times smaller with antialiasing. Cut
# first: all is black. DALI's resize(roi_start=...), its random_resized_crop and Pillow's resize(box=...) read on beyond
# the edge: the rim is 32 of 255. At twice the size it is 64. DALI's decoders.image_random_crop and a resize, with the
# same seed, give the same crop with a black rim. So a crop of a bird has its surroundings in its rim, a cut banner
# comes back in the last row, and two ways to "the same crop" differ.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q --disable-pip-version-check nvidia-dali-cuda130==2.4.0 pillow==13.0.0 numpy==2.4.6
cat > "$work/try.py" <<'PY'
import io

import numpy as np
import nvidia.dali as dali
import PIL
from nvidia.dali import fn, types
from PIL import Image

SEED = {"random_area": [0.2, 0.2], "random_aspect_ratio": [1.0, 1.0], "seed": 5}
y, x = np.mgrid[0:200, 0:200]
places = np.stack([x, y, 0 * x], -1).astype(np.uint8)


@dali.pipeline_def(batch_size=1, num_threads=1, device_id=None)
def pipeline(build, picture):
    return build(fn.external_source(lambda: picture, batch=False, layout="HWC" if picture.ndim == 3 else None))


def run(build, picture):
    return np.asarray(pipeline(build, picture).run()[0][0])


# Where the random crop lies, read off a picture whose values are its coordinates.
nearest = {"size": [89, 89], "interp_type": types.INTERP_NN, "antialias": False}
found = run(lambda p: fn.random_resized_crop(p, **nearest, **SEED), places)
x0, y0, x1, y1 = found[0, 0, 0], found[0, 0, 1], found[-1, -1, 0] + 1, found[-1, -1, 1] + 1
white = np.full((200, 200, 3), 255, np.uint8)
white[y0:y1, x0:x1] = 0
png = io.BytesIO()
Image.fromarray(white).save(png, "PNG")
stored = np.frombuffer(png.getvalue(), np.uint8)
start, end, area = [float(y0), float(x0)], [float(y1), float(x1)], (int(x0), int(y0), int(x1), int(y1))
print("DALI", dali.__version__, "Pillow", PIL.__version__, "- the black region:", area)
for side, rim in ((20, 32), (178, 64)):
    how, image = {"size": [side, side], "antialias": True}, Image.fromarray(white)
    whole, cut = [
        run(lambda p: fn.resize(p, roi_start=start, roi_end=end, **how), white),
        run(lambda p: fn.random_resized_crop(p, **how, **SEED), white),
        np.asarray(image.resize((side, side), Image.Resampling.BILINEAR, box=area)),
    ], [
        run(lambda p: fn.resize(fn.slice(p, start=start, end=end, axes=[0, 1]), **how), white),
        run(lambda p: fn.resize(fn.decoders.image_random_crop(p, device="cpu", **SEED), **how), stored),
        np.asarray(image.crop(area).resize((side, side), Image.Resampling.BILINEAR)),
    ]
    seen = [[int(result[0, side // 2, 0]) for result in way] for way in (whole, cut)]
    print(f"  made {side}x{side}, middle of the rim: resize(roi), random_resized_crop, Pillow's box: {seen[0]}; "
          f"slice, image_random_crop, Pillow's crop, each with a resize: {seen[1]}")
    assert all(abs(value - rim) < 2 for value in seen[0]), "the behaviour has changed"
    assert max(int(result.max()) for result in cut) == 0, "the behaviour has changed"
PY
"$work/venv/bin/python" "$work/try.py"
