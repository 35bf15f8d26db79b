"""`Batch`: views, and the geometry that belongs to them."""

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from torch import Tensor, device, from_numpy

from augment.stream.handover import put
from augment.views import geometry
from augment.views.plan import Plan

if TYPE_CHECKING:  # torchvision takes seconds to import
    from torchvision.tv_tensors import BoundingBoxes, Mask


class Correspondence(NamedTuple):
    """Where the cells of one view lie in another view of the same source."""

    points: Tensor  # float32 [N, rows, columns, 2]: x, y in pixels of the other view, also beyond its edges
    same: Tensor  # bool [N, rows, columns]: both views show the source's object there, at that point


@dataclass(frozen=True, eq=False)
class Parameters:
    """The values drawn for each view, on the views' device, for losses that need them (leave-one-out contrast)."""

    patch: Tensor  # int32 [N, V, 4]: the patch's ROI in its source, pixels x0, y0, x1, y1 (relative positions)
    scene: Tensor  # int32 [N, V, 4]: the background's ROI
    flip: Tensor  # bool [N, V]
    jittered: Tensor  # bool [N, V]; where False the factors are 1, 1, 1, 0
    jitter: Tensor  # float32 [N, V, 4]: brightness, contrast, saturation factors and hue shift in turns
    order: Tensor  # uint8 [N, V, 4]: the jitter's operations, first to last
    gray: Tensor  # bool [N, V]
    turns: Tensor  # uint8 [N, V]: quarter turns, counter-clockwise, after the flip
    sigma: Tensor  # float32 [N, V]: of the blur, in view pixels; 0 for none


@dataclass(frozen=True, eq=False, repr=False)
class Batch:
    """N sources with V views each. Indices are rows of the box file."""

    views: tuple[Tensor, ...]  # V of [N, 3, S, S], channels-last memory, normalised
    rects: Tensor  # int32 [N, V, 4]: x0, y0, x1, y1 of the patch (policy.own: the object) in the finished view
    sources: Tensor  # int64 [N]
    backgrounds: Tensor  # int64 [N, V]
    labels: Tensor  # int64 [N], -1 where unknown
    plan: Plan  # all drawn values

    def __len__(self) -> int:
        return len(self.sources)

    def __repr__(self) -> str:
        view = self.views[0]
        return f"Batch({len(self)} sources, {len(self.views)} views {list(view.shape)} {view.dtype} on {view.device})"

    @property
    def q(self) -> Tensor:
        """The first view."""
        return self.views[0]

    @property
    def k(self) -> Tensor:
        """The second view. IndexError where there is one alone."""
        self._known(1)
        return self.views[1]

    @property
    def size(self) -> int:
        """Side of a view in pixels."""
        return self.plan.size

    @property
    def parameters(self) -> Parameters:
        """The values drawn for each view, as tensors."""
        names = (f.name for f in fields(Parameters))
        return Parameters(*(put(from_numpy(getattr(self.plan, n).copy()), self.sources.device) for n in names))

    def masks(self, view: int, grid: int | tuple[int, int]) -> Tensor:
        """The share of each cell that the patch covers in view number `view`: exact, float32 [N, grid, grid].

        A patch that is pasted by a map covers a pixel by its alpha. IndexError where there is no such view.
        """
        self._known(view)
        if self.plan.alpha is None:
            return geometry.masks(self.rects[:, view], self.size, grid)
        return geometry.cell_means(put(from_numpy(self._alpha(view)), self.rects.device).float() / 255, grid)

    def correspondence(self, view: int, other: int, grid: int | tuple[int, int]) -> Correspondence:
        """Where the centre of each cell of view number `view` lies in view number `other`, and whether it is there.

        Exact: crop, resize, paste, scene, flip and turns are affine, and their product is computed in float64. `same`
        holds where the centre lies in this view's rectangle (`rects`) and its point in the other's; a patch that is
        pasted by a map must be opaque by half or more at both. IndexError where there is no such view.
        """
        self._known(view)
        self._known(other)
        plan = self.plan
        there = geometry.chained(geometry.inverted(plan.to_source[:, other]), plan.to_source[:, view])
        centres = geometry.cell_centres(self.size, grid)
        points = centres @ there[:, None, :, :2].swapaxes(-1, -2) + there[:, None, None, :, 2]
        same = np.ones(points.shape[:-1], bool)
        for v, at in ((view, np.broadcast_to(centres, points.shape)), (other, points)):
            same &= geometry.in_rects(at, plan.finished_rects[:, v, None, None])
            if plan.alpha is not None:
                x, y = np.clip(np.floor(at), 0, self.size - 1).astype(np.int64).transpose(3, 0, 1, 2)
                same &= self._alpha(v)[np.arange(len(at))[:, None, None], y, x] >= 128
        device = self.rects.device
        return Correspondence(put(from_numpy(points.astype(np.float32)), device), put(from_numpy(same), device))

    def _alpha(self, view: int) -> np.ndarray:
        """Opacity of the patch at the pixels of a finished view: uint8 [N, S, S]."""
        assert self.plan.alpha is not None
        drawn = zip(*(getattr(self.plan, name)[:, view] for name in ("alpha", "flip", "turns")), strict=True)
        return np.stack([np.rot90(alpha[:, ::-1] if flip else alpha, turn) for alpha, flip, turn in drawn])

    def patch_masks(self, view: int) -> "Mask":
        """The pixels of view number `view` that the patch covers, as `torchvision.tv_tensors.Mask`, bool [N, S, S]."""
        from torchvision.tv_tensors import Mask

        self._known(view)
        return Mask(geometry.masks(self.rects[:, view], self.size, self.size) > 0)

    def boxes(self, view: int) -> "BoundingBoxes":
        """The patch's rectangle in view number `view` as `torchvision.tv_tensors.BoundingBoxes` [N, 4], XYXY."""
        from torchvision.tv_tensors import BoundingBoxes, BoundingBoxFormat

        self._known(view)
        side = (self.size, self.size)
        # Its type stubs leave `__new__`'s keywords out.
        return BoundingBoxes(self.rects[:, view], format=BoundingBoxFormat.XYXY, canvas_size=side)  # type: ignore[call-arg]

    def _known(self, view: int) -> None:
        if not -len(self.views) <= view < len(self.views):
            raise IndexError(
                f"view {view}: the batch has views 0 to {len(self.views) - 1}. Policy(views=...) makes more"
            )

    def to(self, where: device | str, *, non_blocking: bool = False) -> "Batch":
        """The same batch with its tensors on another device."""
        move = lambda x: x.to(where, non_blocking=non_blocking)  # noqa: E731
        names = ("rects", "sources", "backgrounds", "labels")
        return replace(self, views=tuple(map(move, self.views)), **{n: move(getattr(self, n)) for n in names})
