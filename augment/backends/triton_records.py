"""Where the fields of the tables' records stand, for the kernels: a table is given as int32, float32 and int64."""

import triton.language as tl

from augment.backends.layout import JOB
from augment.backends.native import VIEW


def _word(record, field, size=4):
    """Where a field stands in a record, in words of `size` bytes; a constant for the kernels."""
    return tl.constexpr(record.fields[field][1] // size)


JOB_WORDS, JOB_LONGS = tl.constexpr(JOB.itemsize // 4), tl.constexpr(JOB.itemsize // 8)
ROI, WIDTH, HEIGHT, TURNED, STRIDE = (_word(JOB, name) for name in ("roi", "width", "height", "flip", "stride"))
CUT, IMAGE = _word(JOB, "out", 8), _word(JOB, "image", 8)
VIEW_WORDS, VIEW_LONGS = tl.constexpr(VIEW.itemsize // 4), tl.constexpr(VIEW.itemsize // 8)
SCENE, PATCH, OUT = (_word(VIEW, name, 8) for name in ("scene", "patch", "out"))
RECT, FLIP, GRAY, JITTERED, RADIUS, ORDER, JITTER, MATRIX, OFFSET = (
    _word(VIEW, name) for name in ("rect", "flip", "gray", "jittered", "radius", "order", "jitter", "matrix", "offset")
)
