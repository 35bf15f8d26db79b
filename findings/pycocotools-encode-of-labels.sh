#!/usr/bin/env bash
# What: pycocotools.mask.encode of a uint8 map whose values are not just 0 and one other, such as a trimap or a label
# map.
# Versions: pycocotools 2.0.11, numpy 2.4.6. Date: 2026-11-29.
# A good guess: what is not 0 is inside, as it is for a map of 0 and 255, or the map is refused.
# Seen: each change of value ends a run, whatever the value, and runs are taken in turn for outside and inside. A map of
# 0 and 255 is right. Object 1 (1,200 pixels) with a part 2 inside it (600 pixels) is encoded with an area of 600: the
# part has become a hole, though toBbox still gives the right box. A trimap of the Pets kind (1 object, 2 around, 3 rim)
# gives 1,400: the surroundings and the object, without the rim. Nothing is said. Make it a mask first: encode(map ==
# 1).
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q --disable-pip-version-check pycocotools==2.0.11 numpy==2.4.6
cat > "$work/try.py" <<'PY'
from importlib.metadata import version

import numpy as np
from pycocotools import mask


def layers(outside, object_, part):
    """[40, 50]: 30x40 pixels of `object_` in `outside`, and 20x30 of `part` in them."""
    values = np.full((40, 50), outside, np.uint8, order="F")
    values[5:35, 5:45] = object_
    values[10:30, 10:40] = part
    return values


print("pycocotools", version("pycocotools"), "- area of the code, pixels that are not 0, pixels decoded wrong:")
for name, values, area, wrong in (
    ("0 and 1", layers(0, 1, 1), 1200, 0),
    ("0 and 255", layers(0, 255, 255), 1200, 0),
    ("0, 1 and 2", layers(0, 1, 2), 600, 600),
    ("trimap: 2 around, 3 rim, 1 object", layers(2, 3, 1), 1400, 600),
    ("trimap == 1", (layers(2, 3, 1) == 1).astype(np.uint8), 600, 0),
):
    code = mask.encode(values)
    seen = int(mask.area(code)), int((mask.decode(code) != (values > 0)).sum())
    print(f"  {name}: {seen[0]}, {(values > 0).sum()}, {seen[1]}; box", mask.toBbox(code).astype(int).tolist())
    assert seen == (area, wrong), "the behaviour has changed"
PY
"$work/venv/bin/python" "$work/try.py"
