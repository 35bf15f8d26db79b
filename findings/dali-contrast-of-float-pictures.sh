#!/usr/bin/env bash
# What: DALI's color_twist and contrast of one picture, given as uint8 and as float32 of the same values (0-255).
# Versions: nvidia-dali-cuda130 2.4.0 (device="cpu"), numpy 2.4.6; no GPU needed. Date: 2026-11-30.
# A good guess: both are the same but for rounding, as they are for resize, blur, hue, saturation and brightness; so a
# pipeline may go to float early, to round once.
# Seen: contrast turns about 128 for integers and about 0.5 for floats, by the type alone, so for a float picture of
# 0-255 it is a brightness. With contrast 0.6 a mean of 130 stays 130 in uint8 and falls to 78 in float32; with 1.4 it
# is 131 and 172. Drawn from 0.6-1.4, the mean is spread by 0.6 levels in uint8, by 31 in float32. contrast=0 gives grey
# (128) or black (0.5). Hue, saturation and brightness are right in both. The page of fn.contrast tells the default of
# contrast_center; that of color_twist neither names it nor lets one set it. Keep uint8 and let dtype=FLOAT make the
# floats: that turns about 128.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q --disable-pip-version-check nvidia-dali-cuda130==2.4.0 numpy==2.4.6
cat > "$work/try.py" <<'PY'
import numpy as np
import nvidia.dali as dali
from nvidia.dali import fn, pipeline_def, types

rng = np.random.default_rng(0)
coarse = rng.integers(20, 236, (16, 16, 3))
picture = coarse.repeat(8, 0).repeat(8, 1).astype(np.uint8)


def made(step, source):
    @pipeline_def(batch_size=1, num_threads=1, device_id=None)
    def pipeline():
        return step(fn.external_source(lambda: [source], layout="HWC"))

    return np.asarray(pipeline().run()[0][0]).astype(np.float64)


def case(name, step):
    whole, real = made(step, picture), np.clip(made(step, picture.astype(np.float32)), 0, 255)
    off = np.abs(whole - real).mean()
    print(f"  {name}: mean of uint8 {whole.mean():.1f}, of float32 {real.mean():.1f}; mean difference {off:.1f} levels")
    return whole.mean(), real.mean(), off


print("DALI", dali.__version__, f"- a picture with a mean of {picture.mean():.1f}")
for name, step in {
    "hue 30": lambda x: fn.color_twist(x, hue=30.0),
    "saturation 1.3": lambda x: fn.color_twist(x, saturation=1.3),
    "brightness 0.8": lambda x: fn.color_twist(x, brightness=0.8),
    "resize": lambda x: fn.resize(x, size=[50, 50]),
}.items():
    assert case(name, step)[2] < 1, "the behaviour has changed"
for name, step in {
    "color_twist, contrast 0.6": lambda x: fn.color_twist(x, contrast=0.6),
    "color_twist, contrast 1.4": lambda x: fn.color_twist(x, contrast=1.4),
    "contrast 0.6": lambda x: fn.contrast(x, contrast=0.6),
}.items():
    assert case(name, step)[2] > 20, "the behaviour has changed"
flat = case("color_twist, contrast 0 (its page: a uniform grey picture)", lambda x: fn.color_twist(x, contrast=0.0))
assert flat[0] in (127, 128) and flat[1] == 0.5, "the behaviour has changed"

late = made(lambda x: fn.color_twist(x, contrast=0.6, dtype=types.FLOAT), picture).mean()
early = made(lambda x: fn.color_twist(fn.cast(x, dtype=types.FLOAT), contrast=0.6), picture).mean()
print(f"  contrast 0.6 to float: dtype=FLOAT in color_twist {late:.1f}, a cast before it {early:.1f}")
assert abs(late - picture.mean()) < 5 and abs(early - 0.6 * picture.mean()) < 1, "the behaviour has changed"

draws = rng.uniform(0.6, 1.4, 40)
for kind in (np.uint8, np.float32):
    means = [made(lambda x, c=float(c): fn.color_twist(x, contrast=c), picture.astype(kind)).mean() for c in draws]
    print(f"  40 draws of contrast from 0.6-1.4, {np.dtype(kind)}: deviation of the picture's mean {np.std(means):.1f}")
PY
"$work/venv/bin/python" "$work/try.py"
