"""Boxes, crops, masks and turns as torchvision and plain pixels have them; linear colour as its four operations."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from augment.views import geometry
from augment.views.colour import collapse


def test_capped_boxes_keep_their_centre_and_are_counted():
    boxes = np.array(((0.0, 0.0, 1.0, 1.0), (0.1, 0.0, 0.5, 0.5), (0.0, 0.02, 0.98, 1.0)))
    capped, bitten = geometry.cap_boxes(boxes, 0.9)
    assert bitten.tolist() == [True, False, True]
    area = (capped[:, 2] - capped[:, 0]) * (capped[:, 3] - capped[:, 1])
    assert np.allclose(area, (0.9, 0.2, 0.9))
    assert np.allclose(capped[:, :2] + capped[:, 2:], boxes[:, :2] + boxes[:, 2:])
    assert np.array_equal(geometry.cap_boxes(boxes, 1.0)[0], boxes)


def test_crop_rule_agrees_with_torchvision():
    """The same distribution of areas, aspects and places, and the same fallback crop, as RandomResizedCrop."""
    from torchvision.transforms import v2

    for side in ((300, 200), (40, 400)):
        width, height = side
        region = np.broadcast_to(np.array((10, 20, 10 + width, 20 + height)), (4000, 4))
        u = np.random.default_rng(0).random((4000, 22))
        ours = geometry.random_resized_crop(region, (0.2, 1.0), (3 / 4, 4 / 3), u) - (10, 20, 10, 20)
        transform = v2.RandomResizedCrop(8, (0.2, 1.0))
        torch.manual_seed(0)
        picture = torch.zeros(3, height, width)
        drawn = [transform.make_params([picture]) for _ in range(4000)]
        theirs = np.array([(p["left"], p["top"], p["left"] + p["width"], p["top"] + p["height"]) for p in drawn])
        for quantile in (0, 10, 50, 90, 100):
            gap = np.percentile(ours, quantile, axis=0) - np.percentile(theirs, quantile, axis=0)
            assert np.abs(gap).max() <= 0.03 * max(side), (side, quantile)
    narrow = geometry.random_resized_crop(np.array(((0, 0, 3, 400),)), (0.9, 1.0), (3 / 4, 4 / 3), np.zeros((1, 22)))
    assert narrow.tolist() == [[0, 198, 3, 202]]  # central, 3 × 4


def test_a_region_of_one_pixel_has_crops_of_any_aspect():
    region = np.array([[3, 4, 4, 9], [3, 4, 9, 5], [3, 4, 4, 5]])
    for aspect in ((3.0, 4.0), (0.2, 0.3), (100.0, 100.0)):
        crops = geometry.random_resized_crop(region, (0.5, 1.0), aspect, np.full((3, 22), 0.5))
        assert (crops[:, 2:] > crops[:, :2]).all()
        assert (crops[:, :2] >= region[:, :2]).all()
        assert (crops[:, 2:] <= region[:, 2:]).all()


@given(
    rect=st.tuples(*[st.integers(0, 64)] * 4),
    grid=st.one_of(st.integers(1, 20), st.tuples(st.integers(1, 20), st.integers(1, 20))),
)
@settings(max_examples=200, deadline=None)
def test_masks_are_the_exact_cover(rect, grid):
    x0, x1 = sorted(rect[:2])
    y0, y1 = sorted(rect[2:])
    rects = np.array((x0, y0, x1, y1))[None]
    mask = geometry.masks(rects, 64, grid)
    rows, columns = (grid, grid) if isinstance(grid, int) else grid
    fine = np.zeros((64, 64))
    fine[y0:y1, x0:x1] = 1
    # 64·rows lines of which each pixel spans `rows` and each cell 64: counting is exact.
    oracle = np.repeat(np.repeat(fine, rows, 0), columns, 1).reshape(rows, 64, columns, 64).mean((1, 3))
    assert mask.shape == (1, rows, columns)
    assert mask.dtype == np.float32
    assert np.abs(mask[0] - oracle).max() < 1e-5
    by_torch = geometry.masks(torch.from_numpy(rects), 64, grid)
    assert by_torch.dtype == torch.float32
    assert np.abs(by_torch.numpy() - mask).max() < 1e-6
    flipped = geometry.flip_rects(rects, np.array([True]), 64)
    assert np.abs(geometry.masks(flipped, 64, grid)[..., ::-1] - mask).max() < 1e-5
    assert np.array_equal(geometry.flip_rects(flipped, np.array([True]), 64)[0], rects[0] if mask.any() else [0] * 4)


def apply_in_turn(pixels, jitter, order, gray):
    """The four operations one after the other, straight from their definitions, on RGB [P, 3]."""
    luma = lambda x: x @ (0.299, 0.587, 0.114)  # noqa: E731
    yiq = np.array(((0.299, 0.587, 0.114), (0.596, -0.274, -0.322), (0.211, -0.523, 0.312)))
    brightness, contrast, saturation, hue = jitter.astype(np.float64)
    for op in order:
        if op == 0:
            pixels = pixels * brightness
        elif op == 1:
            pixels = contrast * pixels + (1 - contrast) * luma(pixels).mean()
        elif op == 2:
            pixels = saturation * pixels + (1 - saturation) * luma(pixels)[:, None]
        else:
            y, i, q = (pixels @ yiq.T).T
            turned = (i + 1j * q) * np.exp(-2j * np.pi * hue)
            pixels = np.stack((y, turned.real, turned.imag), 1) @ np.linalg.inv(yiq).T
    return np.repeat(luma(pixels)[:, None], 3, 1) if gray else pixels


def test_linear_colour_collapses_any_order():
    rng = np.random.default_rng(0)
    pixels = rng.random((50, 3)) * 255
    for case in range(60):
        jitter = (np.array((1, 1, 1, 0)) + rng.uniform(-1, 1, 4) * (0.4, 0.4, 0.4, 0.5)).astype(np.float32)
        order = rng.permutation(4).astype(np.uint8)
        gray = np.array(case % 3 == 0)
        m, k = collapse(jitter, gray)
        assert np.allclose(pixels @ m.T + k @ pixels.mean(0), apply_in_turn(pixels, jitter, order, gray), atol=0.01)
    m, k = collapse(np.array((1, 1, 1, 0), np.float32), np.array(False))
    assert np.allclose(m, np.eye(3), atol=1e-6)
    assert not k.any()


def test_linear_hue_turns_the_way_of_hsv():
    import colorsys

    for hue in (0.1, -0.1, 0.25):
        m, _ = collapse(np.array((1, 1, 1, hue), np.float32), np.array(False))
        for h in np.arange(0, 1, 0.1):
            rgb = np.array(colorsys.hsv_to_rgb(h, 0.3, 0.6))
            right = np.array(colorsys.hsv_to_rgb(h + hue, 0.3, 0.6))
            wrong = np.array(colorsys.hsv_to_rgb(h - hue, 0.3, 0.6))
            assert np.abs(m @ rgb - right).mean() < np.abs(m @ rgb - wrong).mean()


@given(turns=st.integers(0, 3), data=st.data())
def test_turned_rectangles_lie_where_the_turned_pixels_do(turns, data):
    size = 9
    x0, y0 = data.draw(st.integers(0, size)), data.draw(st.integers(0, size))
    rect = np.array((x0, y0, data.draw(st.integers(x0, size)), data.draw(st.integers(y0, size))))
    rect = geometry.flip_rects(rect, np.array(False), size)  # an empty one becomes zeros
    pixels = np.zeros((size, size), bool)
    pixels[rect[1] : rect[3], rect[0] : rect[2]] = True
    x0, y0, x1, y1 = geometry.turn_rects(rect, np.array(turns), size)
    again = np.zeros_like(pixels)
    again[y0:y1, x0:x1] = True
    assert np.array_equal(again, np.rot90(pixels, turns))
