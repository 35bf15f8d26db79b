"""The two meanings of colour in Triton, for the kernels of `augment.backends.triton_kernels`."""

import triton
import triton.language as tl

from augment.backends.triton_records import GRAY, JITTER, JITTERED, MATRIX, OFFSET, ORDER


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
    # One division: it costs as much as all the rest.
    above = tl.where(value == red, green - blue, tl.where(value == green, blue - red, red - green))
    sixth = above / tl.where(span > 0, span, 1.0)
    sixth += tl.where(value == red, 0.0, tl.where(value == green, 2.0, 4.0))
    sixth += 6 * turns + 12
    r, g = hue_channel(5.0, sixth, value, span), hue_channel(3.0, sixth, value, span)
    return r, g, hue_channel(1.0, sixth, value, span)


@triton.jit
def turned(red, green, blue, factors):
    """The hue's operation."""
    red, green, blue = shift_hue(red, green, blue, tl.load(factors + JITTER + 3))
    return clamped(red), clamped(green), clamped(blue)


@triton.jit
def scaled(red, green, blue, job, factors, step, centre):
    """Operation number `step`, any but the hue's; `centre` is the mean luma that contrast turns about."""
    op = tl.load(job + ORDER + step)
    factor = tl.load(factors + JITTER + op)
    target = tl.where(op == 1, centre, tl.where(op == 2, luma(red, green, blue), 0.0)) * (1 - factor)
    red, green, blue = factor * red + target, factor * green + target, factor * blue + target
    return clamped(red), clamped(green), clamped(blue)


@triton.jit
def place_of(job, op):
    """When an operation's turn is, from 0 to 3."""
    second, third = tl.load(job + ORDER + 1) == op, tl.load(job + ORDER + 2) == op
    return second.to(tl.int32) + 2 * third.to(tl.int32) + 3 * (tl.load(job + ORDER + 3) == op).to(tl.int32)


@triton.jit
def jittered(red, green, blue, job, factors, centre, end):
    """Torchvision's operations before number `end`, in the view's order.

    Loops that run as often as it says, instead of branches for every operation at every place.
    """
    hue = place_of(job, 3)
    for early in range(0, tl.minimum(hue, end)):
        red, green, blue = scaled(red, green, blue, job, factors, early, centre)
    for _once in range(0, (hue < end).to(tl.int32)):
        red, green, blue = turned(red, green, blue, factors)
    for late in range(hue + 1, end):
        red, green, blue = scaled(red, green, blue, job, factors, late, centre)
    return red, green, blue


@triton.jit
def terms(factors, total, pixels, channel):
    """Linear colour of `channel`: factors of red, green and blue, and what is added, for levels from 0 to 1."""
    m, k = factors + MATRIX + 3 * channel, factors + OFFSET + 3 * channel
    constant = tl.load(k) * tl.load(total).to(tl.float32)
    constant += tl.load(k + 1) * tl.load(total + 1).to(tl.float32)
    constant += tl.load(k + 2) * tl.load(total + 2).to(tl.float32)
    return tl.load(m) / 255, tl.load(m + 1) / 255, tl.load(m + 2) / 255, constant / pixels / 255


@triton.jit
def mixed(red, green, blue, terms):
    """One channel of linear colour. To clamp to 0 and 1 costs nothing, it comes with the last addition."""
    level = terms[3] + terms[0] * red + terms[1] * green + terms[2] * blue
    return tl.minimum(tl.maximum(level, 0.0), 1.0)


@triton.jit
def colouring(job, factors, total, pixels):
    """What `coloured` needs to know of a view; `total`: its sums."""
    of_red, of_green = terms(factors, total, pixels, 0), terms(factors, total, pixels, 1)
    return (
        of_red,
        of_green,
        terms(factors, total, pixels, 2),
        job,
        factors,
        tl.load(total).to(tl.float32) / 256 / pixels,
    )


@triton.jit
def coloured(red, green, blue, colour, LINEAR: tl.constexpr):
    """The `colouring` of a view in either meaning, as levels from 0 to 1; uint8 or int32 levels of 255 in."""
    of_red, of_green, of_blue, job, factors, centre = colour
    red, green, blue = red.to(tl.float32), green.to(tl.float32), blue.to(tl.float32)
    if LINEAR:
        r, g = mixed(red, green, blue, of_red), mixed(red, green, blue, of_green)
        return r, g, mixed(red, green, blue, of_blue)
    else:
        red, green, blue = jittered(red, green, blue, job, factors, centre, 4 * tl.load(job + JITTERED))
        if tl.load(job + GRAY) != 0:
            level = luma(red, green, blue)
            red, green, blue = level, level, level
        return red / 255, green / 255, blue / 255
