"""The fused passes on CUDA, in Triton. The same logic runs on a CPU under TRITON_INTERPRET=1, which the tests use.

    crop_kernel     crops of ragged decoded images, antialiased, to their places in one buffer (uint8)
    mean_kernel     what the contrast turns about, one sum a view, in integers: the order of the adds cannot matter
    view_kernel     compose, colour and the blur down the columns; normalises and writes views that have no blur
    across_kernel   the blur along the rows of the others, normalises and writes

The meaning is that of tests/augment/reference.py. Programs are numbered along a view's pixels first, so that those that
run together read the same rows.
"""

import triton
import triton.language as tl


@triton.jit
def crop_kernel(image, offset, stride, roi, shape, flip, place, out, BLOCK: tl.constexpr):
    """Job j: the `roi` of the image `offset[j]` bytes after `image`, rows of `stride[j]`, to `out + place[j]`."""
    job = tl.program_id(1)
    width, height = tl.load(shape + 2 * job), tl.load(shape + 2 * job + 1)
    first = tl.program_id(0) * BLOCK
    if first < width * height:
        inside = first + tl.arange(0, BLOCK) < width * height
        pixel = tl.minimum(first + tl.arange(0, BLOCK), width * height - 1)
        y, i = pixel // width, pixel % width
        x = tl.where(tl.load(flip + job) != 0, width - 1 - i, i)
        x0, y0 = tl.load(roi + 4 * job), tl.load(roi + 4 * job + 1)
        in_width, in_height = tl.load(roi + 4 * job + 2) - x0, tl.load(roi + 4 * job + 3) - y0
        scale_x, scale_y = in_width / width, in_height / height
        reach_x, reach_y = tl.maximum(scale_x, 1.0), tl.maximum(scale_y, 1.0)
        centre_x, centre_y = (x + 0.5) * scale_x, (y + 0.5) * scale_y
        low_x = tl.maximum((centre_x - reach_x + 0.5).to(tl.int32), 0)
        low_y = tl.maximum((centre_y - reach_y + 0.5).to(tl.int32), 0)
        high_x = tl.minimum((centre_x + reach_x + 0.5).to(tl.int32), in_width)
        high_y = tl.minimum((centre_y + reach_y + 0.5).to(tl.int32), in_height)
        row_stride = tl.load(stride + job)
        start = image + tl.load(offset + job) + y0.to(tl.int64) * row_stride + 3 * x0
        red, green, blue = tl.zeros([BLOCK], tl.float32), tl.zeros([BLOCK], tl.float32), tl.zeros([BLOCK], tl.float32)
        total = tl.zeros([BLOCK], tl.float32)
        for ky in range(0, (2 * reach_y).to(tl.int32) + 2):
            row = low_y + ky
            down = tl.where(row < high_y, tl.maximum(1 - tl.abs((row + 0.5 - centre_y) / reach_y), 0.0), 0.0)
            for kx in range(0, (2 * reach_x).to(tl.int32) + 2):
                column = low_x + kx
                across = tl.maximum(1 - tl.abs((column + 0.5 - centre_x) / reach_x), 0.0)
                weight = down * tl.where(column < high_x, across, 0.0)
                at = start + row.to(tl.int64) * row_stride + 3 * column
                wanted = inside & (weight > 0)
                red += weight * tl.load(at, mask=wanted, other=0).to(tl.float32)
                green += weight * tl.load(at + 1, mask=wanted, other=0).to(tl.float32)
                blue += weight * tl.load(at + 2, mask=wanted, other=0).to(tl.float32)
                total += weight
        to = out + tl.load(place + job) + 3 * pixel
        tl.store(to, (red / total + 0.5).to(tl.int32).to(tl.uint8), mask=inside)
        tl.store(to + 1, (green / total + 0.5).to(tl.int32).to(tl.uint8), mask=inside)
        tl.store(to + 2, (blue / total + 0.5).to(tl.int32).to(tl.uint8), mask=inside)


@triton.jit
def levels(cuts, at, wanted):
    """Red, green and blue from byte `at` on, uint8; 0 where they are not wanted."""
    red = tl.load(cuts + at, mask=wanted, other=0)
    green = tl.load(cuts + at + 1, mask=wanted, other=0)
    blue = tl.load(cuts + at + 2, mask=wanted, other=0)
    return red, green, blue


@triton.jit
def blended(alpha, over, under):
    """`augment.backends.torch_ops.blend` of one channel; int32 alpha of 255, uint8 levels."""
    return (alpha * over.to(tl.int32) + (255 - alpha) * under.to(tl.int32) + 127) // 255


@triton.jit
def composed(cuts, alpha, scene, patch, rect, flip, view, y, x, inside, size):
    """Levels of pixels (y, x) of the finished, uncoloured view: the patch where its rectangle is, else the scene.

    `alpha` uint8 [views, size, size], before the flip: the patch's share of each pixel; None: all of it.
    """
    x0, y0 = tl.load(rect + 4 * view), tl.load(rect + 4 * view + 1)
    x1, y1 = tl.load(rect + 4 * view + 2), tl.load(rect + 4 * view + 3)
    on_patch = (x >= x0) & (x < x1) & (y >= y0) & (y < y1)
    column = tl.where(tl.load(flip + view) != 0, size - 1 - x, x)
    in_patch = tl.load(patch + view) + 3 * ((y - y0) * (x1 - x0) + x - x0)
    in_scene = tl.load(scene + view) + 3 * (y * size + column)
    if alpha is None:  # settled when the kernel is compiled
        red, green, blue = levels(cuts, tl.where(on_patch, in_patch, in_scene), inside)
    else:
        at = (view.to(tl.int64) * size + y) * size + column
        share = tl.load(alpha + at, mask=inside & on_patch, other=0).to(tl.int32)
        over_r, over_g, over_b = levels(cuts, in_patch, inside & on_patch)
        under_r, under_g, under_b = levels(cuts, in_scene, inside)
        red, green = blended(share, over_r, under_r), blended(share, over_g, under_g)
        blue = blended(share, over_b, under_b)
    return red.to(tl.float32), green.to(tl.float32), blue.to(tl.float32)


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
                BLOCK: tl.constexpr):  # fmt: skip
    """sums[view] += (red, green, blue), or for torchvision 256 · luma as it is before the contrast's turn."""
    view = tl.program_id(1)
    pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = pixel < size * size
    red, green, blue = composed(cuts, alpha, scene, patch, rect, flip, view, pixel // size, pixel % size, inside, size)
    if LINEAR:
        tl.atomic_add(sums + 3 * view, tl.sum(red.to(tl.int64)))
        tl.atomic_add(sums + 3 * view + 1, tl.sum(green.to(tl.int64)))
        tl.atomic_add(sums + 3 * view + 2, tl.sum(blue.to(tl.int64)))
    else:
        if tl.load(jittered + view) != 0:
            before = True
            for step in tl.static_range(4):  # pyright: ignore[reportGeneralTypeIssues] - unrolled
                op = tl.load(order + 4 * view + step)
                before = before & (op != 1)
                if before:
                    red, green, blue = operate(op, tl.load(jitter + 4 * view + op), 0.0, red, green, blue)
            level = tl.where(inside, luma(red, green, blue) * 256 + 0.5, 0.0)
            tl.atomic_add(sums + 3 * view, tl.sum(level.to(tl.int64)))


@triton.jit
def coloured(view, red, green, blue, sums, jittered, order, jitter, gray, matrix, offset, pixels,
             LINEAR: tl.constexpr):  # fmt: skip
    """The colour of view number `view`, in either meaning."""
    if LINEAR:
        mean_r = tl.load(sums + 3 * view).to(tl.float32) / pixels
        mean_g = tl.load(sums + 3 * view + 1).to(tl.float32) / pixels
        mean_b = tl.load(sums + 3 * view + 2).to(tl.float32) / pixels
        m, k = matrix + 9 * view, offset + 9 * view
        r = tl.load(m) * red + tl.load(m + 1) * green + tl.load(m + 2) * blue
        r += tl.load(k) * mean_r + tl.load(k + 1) * mean_g + tl.load(k + 2) * mean_b
        g = tl.load(m + 3) * red + tl.load(m + 4) * green + tl.load(m + 5) * blue
        g += tl.load(k + 3) * mean_r + tl.load(k + 4) * mean_g + tl.load(k + 5) * mean_b
        b = tl.load(m + 6) * red + tl.load(m + 7) * green + tl.load(m + 8) * blue
        b += tl.load(k + 6) * mean_r + tl.load(k + 7) * mean_g + tl.load(k + 8) * mean_b
        red, green, blue = clamped(r), clamped(g), clamped(b)
    else:
        if tl.load(jittered + view) != 0:
            centre = tl.load(sums + 3 * view).to(tl.float32) / 256 / pixels
            for step in tl.static_range(4):  # pyright: ignore[reportGeneralTypeIssues] - unrolled
                op = tl.load(order + 4 * view + step)
                red, green, blue = operate(op, tl.load(jitter + 4 * view + op), centre, red, green, blue)
        if tl.load(gray + view) != 0:
            level = luma(red, green, blue)
            red, green, blue = level, level, level
    return red, green, blue


@triton.jit
def mirrored(i, n):
    """Indices reflected at both borders, the edge not repeated."""
    i = tl.abs(i)
    return tl.where(i >= n, 2 * n - 2 - i, i)


@triton.jit
def write(out, at, red, green, blue, scale, shift, inside):
    """Levels to normalised values, three channels from element `at` on."""
    kind = out.dtype.element_ty
    tl.store(out + at, (red * tl.load(scale) + tl.load(shift)).to(kind), mask=inside)
    tl.store(out + at + 1, (green * tl.load(scale + 1) + tl.load(shift + 1)).to(kind), mask=inside)
    tl.store(out + at + 2, (blue * tl.load(scale + 2) + tl.load(shift + 2)).to(kind), mask=inside)


@triton.jit
def view_kernel(cuts, alpha, scene, patch, rect, flip, sums, jittered, order, jitter, gray, matrix, offset, radius,
                sigma, half, out, scale, shift, size, LINEAR: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    """`half` float32 [views, size, size, 3] takes the views that are to be blurred across, `out` the others."""
    view = tl.program_id(1)
    pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = pixel < size * size
    y, x = pixel // size, pixel % size
    reach = tl.load(radius + view)
    width = tl.where(reach > 0, tl.load(sigma + view), 1.0)
    spread = -0.5 / (width * width)
    red, green, blue = tl.zeros([BLOCK], tl.float32), tl.zeros([BLOCK], tl.float32), tl.zeros([BLOCK], tl.float32)
    total = 0.0
    for k in range(0, 2 * reach + 1):
        distance = (k - reach).to(tl.float32)
        weight = tl.exp(spread * distance * distance)
        r, g, b = composed(cuts, alpha, scene, patch, rect, flip, view, mirrored(y + k - reach, size), x, inside, size)
        r, g, b = coloured(view, r, g, b, sums, jittered, order, jitter, gray, matrix, offset, size * size, LINEAR)
        red, green, blue = red + weight * r, green + weight * g, blue + weight * b
        total += weight
    red, green, blue = red / total, green / total, blue / total
    at = (view.to(tl.int64) * size * size + pixel) * 3
    if reach > 0:
        tl.store(half + at, red, mask=inside)
        tl.store(half + at + 1, green, mask=inside)
        tl.store(half + at + 2, blue, mask=inside)
    else:
        write(out, at, red, green, blue, scale, shift, inside)


@triton.jit
def across_kernel(half, radius, sigma, out, scale, shift, size, BLOCK: tl.constexpr):
    """The blur along the rows, of the views that have one."""
    view = tl.program_id(1)
    reach = tl.load(radius + view)
    if reach > 0:
        pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        inside = pixel < size * size
        y, x = pixel // size, pixel % size
        width = tl.load(sigma + view)
        spread = -0.5 / (width * width)
        red, green, blue = tl.zeros([BLOCK], tl.float32), tl.zeros([BLOCK], tl.float32), tl.zeros([BLOCK], tl.float32)
        total = 0.0
        base = half + view.to(tl.int64) * size * size * 3
        for k in range(0, 2 * reach + 1):
            distance = (k - reach).to(tl.float32)
            weight = tl.exp(spread * distance * distance)
            at = base + 3 * (y * size + mirrored(x + k - reach, size))
            red += weight * tl.load(at, mask=inside, other=0)
            green += weight * tl.load(at + 1, mask=inside, other=0)
            blue += weight * tl.load(at + 2, mask=inside, other=0)
            total += weight
        at = (view.to(tl.int64) * size * size + pixel) * 3
        write(out, at, red / total, green / total, blue / total, scale, shift, inside)
