"""Where a point of one view lies in another: a marked point of the source, moved through every backend, says so too."""

import io
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from augment import Making, backends
from augment.stream.batch import Batch
from augment.stream.maker import turned
from augment.views import geometry
from augment.views.plan import Plan, Pool, draw
from augment.views.policy import Policy

SIZE, SOURCES = 96, 12
PLAIN = {"jitter_p": 0.0, "gray_p": 0.0, "blur_p": 0.0, "mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
POLICIES: dict[str, dict[str, Any]] = {
    "swap on whole scenes": {},
    "swap on squares": {"scene": "crop"},
    "swap, zoomed and own scenes": {"scene": "zoom", "own": 0.5},
    "own scenes alone, whole": {"own": 1.0},
    "paste, turned": {"mode": "paste", "rotate": 0.75},
    "everything": {"mode": "paste", "scene": "zoom", "own": 0.4, "rotate": 0.75},
    "rrc": {"name": "rrc"},
    "rrc, turned": {"name": "rrc", "rotate": 0.75},
    "instloc": {"name": "instloc", "scene": "zoom", "rotate": 0.5},
    "copy-paste": {"name": "copy-paste", "rotate": 0.5},
}
SIGMA = 4.0  # of the mark, in pixels of the source


def marked(rng: np.random.Generator, pool: Pool, row: int) -> tuple[bytes, np.ndarray]:
    """A black picture with a soft white mark near the middle of its box, and where that is: x, y in pixels."""
    width, height = int(pool.widths[row]), int(pool.heights[row])
    x0, y0, x1, y1 = pool.boxes[row] * (width, height, width, height)
    at = np.array((x0 + (x1 - x0) * rng.uniform(0.4, 0.6), y0 + (y1 - y0) * rng.uniform(0.4, 0.6)))
    x, y = np.arange(width) + 0.5 - at[0], np.arange(height) + 0.5 - at[1]
    mark = 255 * np.exp(-(x[None] ** 2 + y[:, None] ** 2) / (2 * SIGMA**2))
    return png(mark.round().astype(np.uint8)), at


def png(gray: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.repeat(gray[..., None], 3, -1)).save(out, "PNG")
    return out.getvalue()


def pictures(policy: Policy) -> tuple[Plan, list[bytes], np.ndarray]:
    """A plan of marked sources on black pictures, the files, and the marks [SOURCES, 2]."""
    rng = np.random.default_rng(7)
    widths, heights = rng.integers(200, 420, (2, 2 * SOURCES)).astype(np.int32)
    corner = rng.uniform(0.05, 0.35, (2 * SOURCES, 2))
    boxes = np.concatenate((corner, corner + rng.uniform(0.4, 0.55, corner.shape)), 1).astype(np.float32)
    pool = Pool(widths, heights, boxes, np.ones(2 * SOURCES, bool))
    files, marks = zip(*(marked(rng, pool, row) for row in range(SOURCES)), strict=True)
    others = SOURCES + np.arange(SOURCES)[:, None].repeat(2, 1)
    plan = draw(policy, pool, np.arange(SOURCES), others, seed=11, epoch=0)
    if policy.kind.maps:  # opaque where something is pasted
        alpha = np.zeros((SOURCES, 2, SIZE, SIZE), np.uint8)
        for i, v in np.ndindex(SOURCES, 2):
            x0, y0, x1, y1 = plan.rects[i, v]
            alpha[i, v, y0:y1, x0:x1] = 255
        plan = replace(plan, alpha=alpha)
    black = [png(np.zeros((h, w), np.uint8)) for w, h in zip(widths, heights, strict=True)]
    return plan, [files[row] if row < SOURCES else black[row] for row in plan.images], np.array(marks)


def batch_of(plan: Plan, views: tuple[torch.Tensor, ...]) -> Batch:
    rects = torch.from_numpy(plan.finished_rects)
    sources, backgrounds = torch.from_numpy(plan.sources), torch.from_numpy(plan.backgrounds)
    return Batch(views, rects, sources, backgrounds, sources, plan)


def seen_at(view: torch.Tensor) -> np.ndarray:
    """The middle of what is bright in a view [3, S, S]: x, y in pixels."""
    light = view[0].double().numpy()
    light = np.where(light > 0.02 * light.max(), light, 0.0)
    centres = np.arange(SIZE) + 0.5
    return np.array(((light.sum(0) * centres).sum(), (light.sum(1) * centres).sum())) / light.sum()


@pytest.mark.parametrize("backend", ["kornia", "eager", "fused", "dali"])
@pytest.mark.parametrize("changes", POLICIES.values(), ids=POLICIES.keys())
def test_it_is_where_a_marked_point_went(changes: dict[str, Any], backend: str) -> None:
    if backend == "dali":
        pytest.importorskip("nvidia.dali")
    policy = Policy(size=SIZE, **PLAIN, **changes)
    plan, files, marks = pictures(policy)
    maker = backends.build(backend, policy, Making(device="cpu", dtype=torch.float32, workers=2), len(plan))
    try:
        batch = batch_of(plan, turned(maker.render(plan, files), plan.turns))
    finally:
        maker.close()
    compared = 0
    for this, other in ((0, 1), (1, 0)):
        points, same = batch.correspondence(this, other, SIZE)
        for i in range(SOURCES):
            if not (whole_mark(plan, marks, i, 0) and whole_mark(plan, marks, i, 1)):
                continue
            (x, y), there = (seen_at(batch.views[v][i]) for v in (this, other))
            column, row = int(x), int(y)
            cell = np.array((column + 0.5, row + 0.5))
            # From the cell's middle on to the mark itself by the slope of the map.
            step = (points[i, row, column] - points[i, row - 1, column - 1]).numpy()
            along_x = (points[i, row, column] - points[i, row, column - 1]).numpy()
            expected = points[i, row, column].numpy() + (x - cell[0]) * along_x + (y - cell[1]) * (step - along_x)
            assert np.abs(expected - there).max() < 0.5, (i, expected, there)
            assert same[i, row, column]
            compared += 1
    assert compared >= 10


def whole_mark(plan: Plan, marks: np.ndarray, i: int, v: int) -> bool:
    """Whether the mark is within view v of source i with all that is bright of it."""
    own = bool(geometry.is_empty(plan.rects[i, v]))
    x0, y0, x1, y1 = plan.scene[i, v] if own else plan.patch[i, v]
    x, y = marks[i]
    edge = 3.2 * SIGMA
    return bool(x0 + edge <= x <= x1 - edge and y0 + edge <= y <= y1 - edge)


def test_there_and_back_again_is_the_same_point() -> None:
    plan, _, _ = pictures(Policy(size=SIZE, **POLICIES["everything"]))
    there = geometry.chained(geometry.inverted(plan.to_source[:, 1]), plan.to_source[:, 0])
    back = geometry.chained(geometry.inverted(plan.to_source[:, 0]), plan.to_source[:, 1])
    identity = np.broadcast_to(np.eye(2, 3), there.shape)
    np.testing.assert_allclose(geometry.chained(back, there), identity, atol=1e-9)
    batch = batch_of(plan, (torch.zeros(SOURCES, 3, SIZE, SIZE),) * 2)
    points, same = batch.correspondence(0, 0, (3, 5))
    np.testing.assert_allclose(points, np.broadcast_to(geometry.cell_centres(SIZE, (3, 5)), points.shape), atol=1e-4)
    assert same.shape == (SOURCES, 3, 5)


def test_what_is_not_of_the_object_corresponds_to_nothing() -> None:
    """Outside of the rectangles, and where a map is transparent."""
    plan, _, _ = pictures(Policy(size=SIZE, **POLICIES["copy-paste"]))
    batch = batch_of(plan, (torch.zeros(SOURCES, 3, SIZE, SIZE),) * 2)
    points, same = batch.correspondence(0, 1, 12)
    inside = batch.masks(0, 12)
    assert not same[inside == 0].any()
    x0, y0, x1, y1 = batch.rects[:, 1, :, None, None].unbind(1)
    x, y = points.unbind(-1)
    there = (x >= x0) & (x < x1) & (y >= y0) & (y < y1)
    assert torch.equal(same[inside == 1], there[inside == 1])
    half = np.where(np.arange(SIZE) < SIZE // 2, 127, 255).astype(np.uint8)  # the left half of every view
    assert plan.alpha is not None
    cut = batch_of(replace(plan, alpha=np.minimum(plan.alpha, half)), batch.views)
    fewer = cut.correspondence(0, 1, 12).same
    assert 0 < fewer.sum() < same.sum()
    assert not (fewer & ~same).any()
    assert (cut.masks(0, 12)[fewer] > 0.2).all()  # their middles are within
    with pytest.raises(IndexError, match="the batch has views 0 to 1"):
        batch.correspondence(0, 2, 12)
