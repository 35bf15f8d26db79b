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


@triton.jit
def triangle(tap, low, high, centre, slope):
    """Weights of an antialiased resize's taps `low + tap`, and their pixels, which are inside for every tap."""
    at = low + tap
    weight = tl.maximum(1 - tl.abs(at + 0.5 - centre) * slope, 0.0)
    return tl.where(at < high, weight, 0.0), tl.minimum(at, high - 1)


@triton.jit
def crop_kernel(image, offset, stride, roi, shape, flip, place, out, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Job j: the `roi` of the image `offset[j]` bytes after `image`, rows of `stride[j]`, to `out + place[j]`."""
    job = tl.program_id(2)
    width, height = tl.load(shape + 2 * job), tl.load(shape + 2 * job + 1)
    if (tl.program_id(0) * COLUMNS < width) & (tl.program_id(1) * ROWS < height):
        to_x = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
        to_y = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
        x, y = tl.minimum(to_x, width - 1), tl.minimum(to_y, height - 1)
        x = tl.where(tl.load(flip + job) != 0, width - 1 - x, x)
        x0, y0 = tl.load(roi + 4 * job), tl.load(roi + 4 * job + 1)
        in_width, in_height = tl.load(roi + 4 * job + 2) - x0, tl.load(roi + 4 * job + 3) - y0
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
        row_stride = tl.load(stride + job).to(tl.int32)
        start = image + tl.load(offset + job) + y0.to(tl.int64) * row_stride + 3 * x0
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
        to = out + tl.load(place + job) + 3 * (to_y[:, None] * width + to_x[None, :])
        tl.store(to, (red * share + 0.5).to(tl.int32).to(tl.uint8), mask=inside)
        tl.store(to + 1, (green * share + 0.5).to(tl.int32).to(tl.uint8), mask=inside)
        tl.store(to + 2, (blue * share + 0.5).to(tl.int32).to(tl.uint8), mask=inside)


@triton.jit
def levels(at):
    """Red, green and blue, uint8, from byte `at` on."""
    return tl.load(at), tl.load(at + 1), tl.load(at + 2)


@triton.jit
def blended(alpha, over, under):
    """`augment.backends.torch_ops.blend` of one channel; int32 alpha of 255, uint8 levels."""
    mix = alpha * over.to(tl.int32) + (255 - alpha) * under.to(tl.int32) + 128
    return (mix + (mix >> 8)) >> 8  # mix / 255 rounded, for all that mix can be


@triton.jit
def placed(scene, patch, rect, flip, view):
    """What `composed` needs to know of a view; offsets have 64 bits, as scenes may be anywhere."""
    x0, y0 = tl.load(rect + 4 * view), tl.load(rect + 4 * view + 1)
    x1, y1 = tl.load(rect + 4 * view + 2), tl.load(rect + 4 * view + 3)
    return x0, y0, x1 - x0, y1 - y0, tl.load(flip + view), tl.load(patch + view), tl.load(scene + view)


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
        return levels(cuts + tl.where(over, of_patch, of_scene) + tl.where(over, in_patch, in_scene))
    else:
        at = alpha + view.to(tl.int64) * size * size + (size * y)[:, None] + column[None, :]
        share = tl.load(at, mask=over, other=0).to(tl.int32)
        over_r, over_g, over_b = levels(cuts + of_patch + tl.where(over, in_patch, 0))
        under_r, under_g, under_b = levels(cuts + of_scene + in_scene)
        red, green = blended(share, over_r, under_r), blended(share, over_g, under_g)
        return red, green, blended(share, over_b, under_b)


@triton.jit
def clamped(x):
    return tl.minimum(tl.maximum(x, 0.0), 255.0)


@triton.jit
def luma(red, green, blue):
    return 0.2989 * red + 0.587 * green + 0.114 * blue


@triton.jit
def hue_channel(first, sixth, value, span):
    k = first + sixth
    k -= 6 * (k * (1 / 6)).to(tl.int32).to(tl.float32)
    return value - span * tl.maximum(tl.minimum(tl.minimum(k, 4 - k), 1.0), 0.0)


@triton.jit
def shift_hue(red, green, blue, turns):
    """HSV's hue; channel = v - range · clamp(min(k, 4 - k), 0, 1), k = (5, 3, 1 + 6·hue) mod 6."""
    value = tl.maximum(tl.maximum(red, green), blue)
    span = value - tl.minimum(tl.minimum(red, green), blue)
    divisor = tl.where(span > 0, span, 1.0)
    not_red = tl.where(value == green, 2 + (blue - red) / divisor, 4 + (red - green) / divisor)
    sixth = tl.where(value == red, (green - blue) / divisor, not_red)
    sixth += 6 * turns + 12
    r, g = hue_channel(5.0, sixth, value, span), hue_channel(3.0, sixth, value, span)
    return r, g, hue_channel(1.0, sixth, value, span)


@triton.jit
def operate(op, factor, centre, red, green, blue):
    """One of torchvision's operations; `centre` is the mean luma that contrast turns about."""
    if op == 3:
        red, green, blue = shift_hue(red, green, blue, factor)
    else:
        target = tl.where(op == 1, centre, tl.where(op == 2, luma(red, green, blue), 0.0)) * (1 - factor)
        red, green, blue = factor * red + target, factor * green + target, factor * blue + target
    return clamped(red), clamped(green), clamped(blue)


@triton.jit
def mean_kernel(cuts, alpha, scene, patch, rect, flip, jittered, order, jitter, sums, size, LINEAR: tl.constexpr,
                ROWS: tl.constexpr, COLUMNS: tl.constexpr):  # fmt: skip
    """sums[view] += (red, green, blue), or for torchvision 256 · luma as it is before the contrast's turn.

    Of the views that are jittered; no other has a contrast.
    """
    view = tl.program_id(1)
    if tl.load(jittered + view) != 0:
        place = placed(scene, patch, rect, flip, view)
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
                before = True
                for step in tl.static_range(4):  # pyright: ignore[reportGeneralTypeIssues] - unrolled
                    op = tl.load(order + 4 * view + step)
                    before = before & (op != 1)
                    if before:
                        r, g, b = operate(op, tl.load(jitter + 4 * view + op), 0.0, r, g, b)
                red += tl.where(inside, luma(r, g, b) * 256 + 0.5, 0.0).to(tl.int32)
        tl.atomic_add(sums + 3 * view, tl.sum(red.to(tl.int64)))
        if LINEAR:
            tl.atomic_add(sums + 3 * view + 1, tl.sum(green.to(tl.int64)))
            tl.atomic_add(sums + 3 * view + 2, tl.sum(blue.to(tl.int64)))


@triton.jit
def terms(view, sums, matrix, offset, pixels, channel):
    """Linear colour of `channel`: factors of red, green and blue, and what is added, for levels from 0 to 1."""
    m, k = matrix + 9 * view + 3 * channel, offset + 9 * view + 3 * channel
    constant = tl.load(k) * tl.load(sums + 3 * view).to(tl.float32)
    constant += tl.load(k + 1) * tl.load(sums + 3 * view + 1).to(tl.float32)
    constant += tl.load(k + 2) * tl.load(sums + 3 * view + 2).to(tl.float32)
    return tl.load(m) / 255, tl.load(m + 1) / 255, tl.load(m + 2) / 255, constant / pixels / 255


@triton.jit
def mixed(red, green, blue, terms):
    """One channel of linear colour. To clamp to 0 and 1 costs nothing, it comes with the last addition."""
    level = terms[3] + terms[0] * red + terms[1] * green + terms[2] * blue
    return tl.minimum(tl.maximum(level, 0.0), 1.0)


@triton.jit
def coloured(view, red, green, blue, of_red, of_green, of_blue, sums, jittered, order, jitter, gray, pixels,
             LINEAR: tl.constexpr):  # fmt: skip
    """The colour of view number `view` in either meaning, as levels from 0 to 1; uint8 or int32 levels of 255 in."""
    red, green, blue = red.to(tl.float32), green.to(tl.float32), blue.to(tl.float32)
    if LINEAR:
        r, g = mixed(red, green, blue, of_red), mixed(red, green, blue, of_green)
        return r, g, mixed(red, green, blue, of_blue)
    else:
        if tl.load(jittered + view) != 0:
            centre = tl.load(sums + 3 * view).to(tl.float32) / 256 / pixels
            for step in tl.static_range(4):  # pyright: ignore[reportGeneralTypeIssues] - unrolled
                op = tl.load(order + 4 * view + step)
                red, green, blue = operate(op, tl.load(jitter + 4 * view + op), centre, red, green, blue)
        if tl.load(gray + view) != 0:
            level = luma(red, green, blue)
            red, green, blue = level, level, level
        return red / 255, green / 255, blue / 255


@triton.jit
def view_kernel(which, cuts, alpha, scene, patch, rect, flip, sums, jittered, order, jitter, gray, matrix, offset, out,
                scale, shift, size, LINEAR: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):  # fmt: skip
    """The views numbered `which`: a program makes COLUMNS columns, ROWS rows at a time."""
    view = tl.load(which + tl.program_id(1))
    to_x = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    x = tl.minimum(to_x, size - 1)
    place = placed(scene, patch, rect, flip, view)
    of_red = terms(view, sums, matrix, offset, size * size, 0)
    of_green = terms(view, sums, matrix, offset, size * size, 1)
    of_blue = terms(view, sums, matrix, offset, size * size, 2)
    scale_r, scale_g, scale_b = 255 * tl.load(scale), 255 * tl.load(scale + 1), 255 * tl.load(scale + 2)
    shift_r, shift_g, shift_b = tl.load(shift), tl.load(shift + 1), tl.load(shift + 2)
    base = out + view.to(tl.int64) * size * size * 3
    kind = out.dtype.element_ty
    for first in range(0, size, ROWS):
        y = first + tl.arange(0, ROWS)
        r, g, b = composed(cuts, alpha, place, view, tl.minimum(y, size - 1), x, size)
        r, g, b = coloured(view, r, g, b, of_red, of_green, of_blue, sums, jittered, order, jitter, gray, size * size,
                           LINEAR)  # fmt: skip
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
def tile_of(canvas, colour, view, y, x, size, LINEAR: tl.constexpr):
    """Rows `y` and columns `x` of the coloured view, float16 levels from 0 to 1 less 0.5: 11 bits keep those best."""
    cuts, alpha, place = canvas
    r, g, b = composed(cuts, alpha, place, view, y, x, size)
    of_red, of_green, of_blue, sums, jittered, order, jitter, gray = colour
    r, g, b = coloured(view, r, g, b, of_red, of_green, of_blue, sums, jittered, order, jitter, gray, size * size,
                       LINEAR)  # fmt: skip
    return (r - 0.5).to(tl.float16), (g - 0.5).to(tl.float16), (b - 0.5).to(tl.float16)


@triton.jit
def target(out, view, first_y, first_x, step, size, inner):
    """Where a tile's pixels are written, and which are: `inner` rows and columns, as far as they are in the view."""
    y, x = first_y + step, first_x + step
    to = out + view.to(tl.int64) * size * size * 3 + ((3 * size * y)[:, None] + (3 * x)[None, :])
    return to, (y < tl.minimum(first_y + inner, size))[:, None] & (x < tl.minimum(first_x + inner, size))[None, :]


@triton.jit
def finish(to, levels, scale, shift, channel, inside):
    """Writes a channel of what `tile_of` made."""
    gain = 255 * tl.load(scale + channel)
    normalised = levels * gain + (0.5 * gain + tl.load(shift + channel))
    tl.store(to + channel, normalised.to(to.dtype.element_ty), mask=inside)


@triton.jit
def blur_kernel(which, radius, weights, cuts, alpha, scene, patch, rect, flip, sums, jittered, order, jitter, gray,
                matrix, offset, out, scale, shift, size, LINEAR: tl.constexpr, CHUNKS: tl.constexpr,
                TILE: tl.constexpr):  # fmt: skip
    """The views numbered `which`: a program reads CHUNKS × CHUNKS tiles, of TILE × TILE pixels each.

    It makes the pixels in the middle, all whose blur reads nothing else, or TILE × TILE of them if CHUNKS is not 1.
    `weights` float16 [n, TILE · (CHUNKS + 1)]: TILE zeros, 2 · radius + 1 weights, zeros.
    """
    number = tl.program_id(2)
    reach = tl.load(radius + number)
    inner = TILE - 2 * reach if CHUNKS == 1 else TILE
    first_x, first_y = tl.program_id(0) * inner, tl.program_id(1) * inner
    if (first_x < size) & (first_y < size):
        view = tl.load(which + number)
        canvas = cuts, alpha, placed(scene, patch, rect, flip, view)
        of_red = terms(view, sums, matrix, offset, size * size, 0)
        of_green = terms(view, sums, matrix, offset, size * size, 1)
        of_blue = terms(view, sums, matrix, offset, size * size, 2)
        colour = of_red, of_green, of_blue, sums, jittered, order, jitter, gray
        step = tl.arange(0, TILE)
        band = weights + TILE * (CHUNKS + 1) * number + TILE + (step[None, :] - step[:, None])  # [out, in]
        if CHUNKS == 1:  # one channel after the other: fewer registers
            y, x = mirrored(first_y - reach + step, size), mirrored(first_x - reach + step, size)
            r, g, b = tile_of(canvas, colour, view, y, x, size, LINEAR)
            down = tl.load(band)
            across = tl.trans(down)
            to, inside = target(out, view, first_y, first_x, step, size, inner)
            finish(to, tl.dot(tl.dot(down, r).to(tl.float16), across), scale, shift, 0, inside)
            finish(to, tl.dot(tl.dot(down, g).to(tl.float16), across), scale, shift, 1, inside)
            finish(to, tl.dot(tl.dot(down, b).to(tl.float16), across), scale, shift, 2, inside)
        else:
            red = tl.zeros([TILE, TILE], tl.float32)
            green, blue = red, red
            for cx in range(0, CHUNKS):
                down_r = tl.zeros([TILE, TILE], tl.float32)  # blurred down the columns
                down_g, down_b = down_r, down_r
                for cy in range(0, CHUNKS):
                    y = mirrored(first_y - reach + TILE * cy + step, size)
                    x = mirrored(first_x - reach + TILE * cx + step, size)
                    r, g, b = tile_of(canvas, colour, view, y, x, size, LINEAR)
                    down = tl.load(band + TILE * cy)
                    down_r, down_g = tl.dot(down, r, down_r), tl.dot(down, g, down_g)
                    down_b = tl.dot(down, b, down_b)
                across = tl.trans(tl.load(band + TILE * cx))
                red = tl.dot(down_r.to(tl.float16), across, red)
                green = tl.dot(down_g.to(tl.float16), across, green)
                blue = tl.dot(down_b.to(tl.float16), across, blue)
            to, inside = target(out, view, first_y, first_x, step, size, inner)
            finish(to, red, scale, shift, 0, inside)
            finish(to, green, scale, shift, 1, inside)
            finish(to, blue, scale, shift, 2, inside)
