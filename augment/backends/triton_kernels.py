"""The fused passes on CUDA, in Triton. The same logic runs on a CPU under TRITON_INTERPRET=1, which the tests use.

    crop_kernel   crops of ragged decoded images, antialiased, to their places in one buffer (uint8)
    mean_kernel   what the contrast turns about, one sum a view, in integers: the order of the adds cannot matter
    view_kernel   views without a blur: composed, coloured, normalised
    blur_kernel   the others: each tile is composed and coloured once, with the rim that its blur reads, and blurred in
                  both directions before anything is written

The meaning is that of tests/augment/reference.py. Instructions bind, not bytes (`benchmarks.instructions`), so:
what depends on a row or on a column is made once a row or column of a tile; offsets within a picture are 32 bits; a
blur is two products of a tile with a band of weights, which the tensor cores do. Those take numbers of 11 bits: a
blurred pixel is off by at most a fifth of a level of 255 (half a unit of the last bit of weights and levels, twice).
"""

import triton
import triton.language as tl
from triton.language.target_info import cuda_capability_geq

from augment.backends.triton_colour import coloured, colouring, jittered, luma, place_of
from augment.backends.triton_records import (
    CUT,
    FLIP,
    HEIGHT,
    IMAGE,
    JITTERED,
    JOB_LONGS,
    JOB_WORDS,
    OUT,
    PATCH,
    RADIUS,
    RECT,
    ROI,
    SCENE,
    STRIDE,
    TURNED,
    VIEW_LONGS,
    VIEW_WORDS,
    WIDTH,
)  # fmt: skip


@triton.jit
def triangle(tap, low, high, centre, slope):
    """Weights of an antialiased resize's taps `low + tap`, and their pixels, which are inside for every tap."""
    at = low + tap
    weight = tl.maximum(1 - tl.abs(at + 0.5 - centre) * slope, 0.0)
    return tl.where(at < high, weight, 0.0), tl.minimum(at, high - 1)


@triton.jit
def crop_kernel(jobs, places, out, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Cuts `jobs` (layout.JOB) out of images to their places, both counted in bytes from `out`."""
    job = jobs + tl.program_id(2) * JOB_WORDS
    place = places + tl.program_id(2) * JOB_LONGS
    width, height = tl.load(job + WIDTH), tl.load(job + HEIGHT)
    if (tl.program_id(0) * COLUMNS < width) & (tl.program_id(1) * ROWS < height):
        to_x = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
        to_y = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
        x, y = tl.minimum(to_x, width - 1), tl.minimum(to_y, height - 1)
        x = tl.where(tl.load(job + TURNED) != 0, width - 1 - x, x)
        x0, y0 = tl.load(job + ROI), tl.load(job + ROI + 1)
        in_width, in_height = tl.load(job + ROI + 2) - x0, tl.load(job + ROI + 3) - y0
        scale_x, scale_y = in_width / width, in_height / height
        reach_x, reach_y = tl.maximum(scale_x, 1.0), tl.maximum(scale_y, 1.0)
        centre_x, centre_y = (x + 0.5) * scale_x, (y + 0.5) * scale_y
        low_x = tl.maximum((centre_x - reach_x + 0.5).to(tl.int32), 0)
        low_y = tl.maximum((centre_y - reach_y + 0.5).to(tl.int32), 0)
        high_x = tl.minimum((centre_x + reach_x + 0.5).to(tl.int32), in_width)
        high_y = tl.minimum((centre_y + reach_y + 0.5).to(tl.int32), in_height)
        taps_x, taps_y = tl.ceil(2 * reach_x).to(tl.int32), tl.ceil(2 * reach_y).to(tl.int32)
        slope_x, slope_y = 1 / reach_x, 1 / reach_y
        wide, high = tl.zeros([COLUMNS], tl.float32), tl.zeros([ROWS], tl.float32)
        row_stride = tl.load(job + STRIDE)
        start = out + tl.load(place + IMAGE) + y0.to(tl.int64) * row_stride + 3 * x0
        red = tl.zeros([ROWS, COLUMNS], tl.float32)
        green, blue = red, red
        for ky in range(0, taps_y):
            down, from_y = triangle(ky, low_y, high_y, centre_y, slope_y)
            high += down
            from_row = (from_y * row_stride)[:, None]
            for kx in range(0, taps_x):
                across, from_x = triangle(kx, low_x, high_x, centre_x, slope_x)
                wide += across  # for every row of taps again
                weight = down[:, None] * across[None, :]
                at = start + (from_row + (3 * from_x)[None, :])
                red += weight * tl.load(at).to(tl.float32)
                green += weight * tl.load(at + 1).to(tl.float32)
                blue += weight * tl.load(at + 2).to(tl.float32)
        share = (1 / high)[:, None] * (taps_y / wide)[None, :]
        inside = (to_y < height)[:, None] & (to_x < width)[None, :]
        to = out + tl.load(place + CUT) + 3 * (to_y[:, None] * width + to_x[None, :])
        tl.store(to, (red * share + 0.5).to(tl.int32).to(tl.uint8), mask=inside)
        tl.store(to + 1, (green * share + 0.5).to(tl.int32).to(tl.uint8), mask=inside)
        tl.store(to + 2, (blue * share + 0.5).to(tl.int32).to(tl.uint8), mask=inside)


@triton.jit
def rgb(at):
    """Red, green and blue, uint8, from byte `at` on."""
    return tl.load(at), tl.load(at + 1), tl.load(at + 2)


@triton.jit
def blended(alpha, over, under):
    """`augment.backends.torch_ops.blend` of one channel; int32 alpha of 255, uint8 levels."""
    mix = alpha * over.to(tl.int32) + (255 - alpha) * under.to(tl.int32) + 128
    return (mix + (mix >> 8)) >> 8  # mix / 255 rounded, for all that mix can be


@triton.jit
def placed(job, place):
    """What `composed` needs to know of a view; offsets have 64 bits, as scenes may be anywhere."""
    x0, y0, x1, y1 = tl.load(job + RECT), tl.load(job + RECT + 1), tl.load(job + RECT + 2), tl.load(job + RECT + 3)
    return x0, y0, x1 - x0, y1 - y0, tl.load(job + FLIP), tl.load(place + PATCH), tl.load(place + SCENE)


@triton.jit
def within(i, length):
    """Whether 0 <= i < length, in one comparison: below 0 is beyond all as an unsigned number."""
    return i.to(tl.uint32, bitcast=True) < length.to(tl.uint32, bitcast=True)


@triton.jit
def composed(cuts, alpha, place, view, y, x, size):
    """Levels of the tile of rows `y` and columns `x` (all in the view) of the finished, uncoloured view.

    They are the patch's where its rectangle is, else the scene's. `alpha` uint8 [views, size, size], before the flip:
    the patch's share of each pixel; None: all of it.
    """
    x0, y0, width, height, flip, of_patch, of_scene = place
    over = within(y - y0, height)[:, None] & within(x - x0, width)[None, :]
    column = tl.where(flip != 0, size - 1 - x, x)
    in_patch = (3 * width * (y - y0))[:, None] + (3 * (x - x0))[None, :]
    in_scene = (3 * size * y)[:, None] + (3 * column)[None, :]
    if alpha is None:  # settled when the kernel is compiled
        return rgb(cuts + tl.where(over, of_patch, of_scene) + tl.where(over, in_patch, in_scene))
    else:
        at = alpha + view.to(tl.int64) * size * size + (size * y)[:, None] + column[None, :]
        share = tl.load(at, mask=over, other=0).to(tl.int32)
        over_r, over_g, over_b = rgb(cuts + of_patch + tl.where(over, in_patch, 0))
        under_r, under_g, under_b = rgb(cuts + of_scene + in_scene)
        red, green = blended(share, over_r, under_r), blended(share, over_g, under_g)
        return red, green, blended(share, over_b, under_b)


@triton.jit
def mean_kernel(jobs, floats, places, cuts, alpha, sums, size, LINEAR: tl.constexpr, ROWS: tl.constexpr,
                COLUMNS: tl.constexpr):  # fmt: skip
    """sums[view] += (red, green, blue), or for torchvision 256 · luma as it is before the contrast's turn.

    Of the views that are jittered; no other has a contrast.
    """
    view = tl.program_id(1)
    job = jobs + view * VIEW_WORDS
    if tl.load(job + JITTERED) != 0:
        place = placed(job, places + view * VIEW_LONGS)
        x = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
        red = tl.zeros([ROWS, COLUMNS], tl.int32)
        green, blue = red, red
        for first in range(0, size, ROWS):
            y = first + tl.arange(0, ROWS)
            r, g, b = composed(cuts, alpha, place, view, tl.minimum(y, size - 1), tl.minimum(x, size - 1), size)
            inside = (y < size)[:, None] & (x < size)[None, :]
            if LINEAR:
                red += tl.where(inside, r.to(tl.int32), 0)
                green += tl.where(inside, g.to(tl.int32), 0)
                blue += tl.where(inside, b.to(tl.int32), 0)
            else:
                r, g, b = r.to(tl.float32), g.to(tl.float32), b.to(tl.float32)
                r, g, b = jittered(r, g, b, job, floats + view * VIEW_WORDS, 0.0, place_of(job, 1))
                red += tl.where(inside, luma(r, g, b) * 256 + 0.5, 0.0).to(tl.int32)
        tl.atomic_add(sums + 3 * view, tl.sum(red.to(tl.int64)))
        if LINEAR:
            tl.atomic_add(sums + 3 * view + 1, tl.sum(green.to(tl.int64)))
            tl.atomic_add(sums + 3 * view + 2, tl.sum(blue.to(tl.int64)))


@triton.jit
def view_kernel(which, jobs, floats, places, cuts, alpha, sums, levels, out, size, LINEAR: tl.constexpr,
                ROWS: tl.constexpr, COLUMNS: tl.constexpr):  # fmt: skip
    """The views numbered `which`: a program makes COLUMNS columns, ROWS rows at a time.

    `levels`: three factors of levels from 0 to 1, and what is added to each.
    """
    view = tl.load(which + tl.program_id(1))
    to_x = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    x = tl.minimum(to_x, size - 1)
    job, place = jobs + view * VIEW_WORDS, places + view * VIEW_LONGS
    parts = placed(job, place)
    colour = colouring(job, floats + view * VIEW_WORDS, sums + 3 * view, size * size)
    scale_r, scale_g, scale_b = tl.load(levels), tl.load(levels + 1), tl.load(levels + 2)
    shift_r, shift_g, shift_b = tl.load(levels + 3), tl.load(levels + 4), tl.load(levels + 5)
    base = out + tl.load(place + OUT)
    kind = out.dtype.element_ty
    for first in range(0, size, ROWS):
        y = first + tl.arange(0, ROWS)
        r, g, b = composed(cuts, alpha, parts, view, tl.minimum(y, size - 1), x, size)
        r, g, b = coloured(r, g, b, colour, LINEAR)
        inside = (y < size)[:, None] & (to_x < size)[None, :]
        to = base + ((3 * size * y)[:, None] + (3 * to_x)[None, :])
        tl.store(to, (r * scale_r + shift_r).to(kind), mask=inside)
        tl.store(to + 1, (g * scale_g + shift_g).to(kind), mask=inside)
        tl.store(to + 2, (b * scale_b + shift_b).to(kind), mask=inside)


@triton.jit
def mirrored(i, n):
    """Indices reflected at both borders, the edge not repeated. What is further out is not used, but must be inside."""
    i = tl.abs(i)
    return tl.maximum(tl.where(i >= n, 2 * n - 2 - i, i), 0)


@triton.jit
def tile_of(canvas, colour, y, x, LINEAR: tl.constexpr):
    """Rows `y` and columns `x` of the coloured view, float16 levels from 0 to 1 less 0.5: 11 bits keep those best."""
    cuts, alpha, parts, view, size = canvas
    r, g, b = composed(cuts, alpha, parts, view, y, x, size)
    r, g, b = coloured(r, g, b, colour, LINEAR)
    return (r - 0.5).to(tl.float16), (g - 0.5).to(tl.float16), (b - 0.5).to(tl.float16)


@triton.jit
def target(first_y, first_x, step, size, inner):
    """Where a tile's pixels are written (half the registers of pointers), and which are: `inner` rows and columns."""
    y, x = first_y + step, first_x + step
    to = (3 * size * y)[:, None] + (3 * x)[None, :]
    return to, (y < tl.minimum(first_y + inner, size))[:, None] & (x < tl.minimum(first_x + inner, size))[None, :]


@triton.jit
def finish(view, to, values, levels, channel, inside):
    """Writes a channel of what `tile_of` made."""
    gain = tl.load(levels + channel)
    normalised = values * gain + (0.5 * gain + tl.load(levels + 3 + channel))
    tl.store(view + channel + to, normalised.to(view.dtype.element_ty), mask=inside)


@triton.jit
def blur_kernel(which, weights, jobs, floats, places, cuts, alpha, sums, levels, out, size, LINEAR: tl.constexpr,
                CHUNKS: tl.constexpr, TILE: tl.constexpr):  # fmt: skip
    """The views numbered `which`: a program reads CHUNKS × CHUNKS tiles, of TILE × TILE pixels each.

    It makes the pixels in the middle, all whose blur reads nothing else, or TILE × TILE of them if CHUNKS is not 1.
    `weights` float16 [n, TILE · (CHUNKS + 1)]: TILE zeros, 2 · radius + 1 weights, zeros.
    """
    number = tl.program_id(2)
    view = tl.load(which + number)
    job = jobs + view * VIEW_WORDS
    reach = tl.load(job + RADIUS)
    inner = TILE - 2 * reach if CHUNKS == 1 else TILE
    first_x, first_y = tl.program_id(0) * inner, tl.program_id(1) * inner
    if (first_x < size) & (first_y < size):
        place = places + view * VIEW_LONGS
        canvas = cuts, alpha, placed(job, place), view, size
        colour = colouring(job, floats + view * VIEW_WORDS, sums + 3 * view, size * size)
        step = tl.arange(0, TILE)
        band = weights + TILE * (CHUNKS + 1) * number + TILE + (step[None, :] - step[:, None])  # [out, in]
        base = out + tl.load(place + OUT)
        if CHUNKS == 1:  # one channel after the other: fewer registers
            y, x = mirrored(first_y - reach + step, size), mirrored(first_x - reach + step, size)
            r, g, b = tile_of(canvas, colour, y, x, LINEAR)
            down = tl.load(band)
            across = tl.trans(down)
            to, inside = target(first_y, first_x, step, size, inner)
            if cuda_capability_geq(9):
                finish(base, to, tl.dot(tl.dot(down, r).to(tl.float16), across), levels, 0, inside)
                finish(base, to, tl.dot(tl.dot(down, g).to(tl.float16), across), levels, 1, inside)
                finish(base, to, tl.dot(tl.dot(down, b).to(tl.float16), across), levels, 2, inside)
            else:  # the tensor cores' operands are in registers, and of three channels at once not all would fit
                for channel in range(0, 3):
                    level = tl.where(channel == 0, r, tl.where(channel == 1, g, b))
                    finish(base, to, tl.dot(tl.dot(down, level).to(tl.float16), across), levels, channel, inside)
        else:
            red = tl.zeros([TILE, TILE], tl.float32)
            green, blue = red, red
            for cx in range(0, CHUNKS):
                down_r = tl.zeros([TILE, TILE], tl.float32)  # blurred down the columns
                down_g, down_b = down_r, down_r
                for cy in range(0, CHUNKS):
                    y = mirrored(first_y - reach + TILE * cy + step, size)
                    x = mirrored(first_x - reach + TILE * cx + step, size)
                    r, g, b = tile_of(canvas, colour, y, x, LINEAR)
                    down = tl.load(band + TILE * cy)
                    down_r, down_g = tl.dot(down, r, down_r), tl.dot(down, g, down_g)
                    down_b = tl.dot(down, b, down_b)
                across = tl.trans(tl.load(band + TILE * cx))
                red = tl.dot(down_r.to(tl.float16), across, red)
                green = tl.dot(down_g.to(tl.float16), across, green)
                blue = tl.dot(down_b.to(tl.float16), across, blue)
            to, inside = target(first_y, first_x, step, size, inner)
            finish(base, to, red, levels, 0, inside)
            finish(base, to, green, levels, 1, inside)
            finish(base, to, blue, levels, 2, inside)
