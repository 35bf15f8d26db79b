#!/usr/bin/env bash
# What: what DALI's gaussian_blur does to a colour picture whose layout was not told.
# Versions: nvidia-dali-cuda130 2.4.0 (device="cpu"), numpy 2.4.6; no GPU needed. Date: 2026-11-29.
# A good guess: an array [H, W, 3] of external_source is a picture, as it is for resize, flip and crop; or the blur
# refuses.
# Seen: without layout="HWC" all three axes are blurred, so colours run into each other. A picture of pure red comes out
# as (102, 63, 28) with sigma 1, its size and dtype as ever. A grey picture, whose channels are equal, comes out right,
# so that a test on it shows nothing. resize, flip and crop take the array for HWC and give that layout on: after one of
# them the same blur is right. The pipeline with "just the blur" is the broken one. Always give external_source a
# layout.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q --disable-pip-version-check nvidia-dali-cuda130==2.4.0 numpy==2.4.6
cat > "$work/try.py" <<'PY'
import numpy as np
import nvidia.dali as dali
from nvidia.dali import fn

red = np.zeros((32, 32, 3), np.uint8)
red[..., 0] = 255
texture = np.random.default_rng(0).integers(0, 256, (32, 32, 1), dtype=np.uint8).repeat(3, axis=2)
WAYS = {
    "blur": lambda p: p,
    "resize, blur": lambda p: fn.resize(p, size=[32, 32]),
    "flip, blur": lambda p: fn.flip(p, horizontal=0, vertical=0),
    "crop, blur": lambda p: fn.crop(p, crop=[32, 32]),
}


@dali.pipeline_def(batch_size=1, num_threads=1, device_id=None)
def pipeline(before, picture, layout):
    given = fn.external_source(lambda: picture, batch=False, **({"layout": layout} if layout else {}))
    return fn.gaussian_blur(before(given), sigma=1.0)


def blurred(before, picture, layout):
    result = np.asarray(pipeline(before, picture, layout).run()[0][0])
    assert result.shape == picture.shape and result.dtype == np.uint8
    return result


print("DALI", dali.__version__, "- the middle pixel of a picture of pure red, blurred:")
for name, before in WAYS.items():
    seen = {layout: tuple(blurred(before, red, layout)[16, 16].tolist()) for layout in (None, "HWC")}
    print(f"  {name}: without a layout {seen[None]}, with HWC {seen['HWC']}")
    assert seen["HWC"] == (255, 0, 0) and (seen[None] == (255, 0, 0)) == (name != "blur"), "the behaviour has changed"
grey = [blurred(WAYS["blur"], texture, layout).astype(int) for layout in (None, "HWC")]
print("  a grey picture: largest difference", np.abs(grey[0] - grey[1]).max())
assert np.abs(grey[0] - grey[1]).max() <= 1, "the behaviour has changed"
PY
"$work/venv/bin/python" "$work/try.py"
