"""`Schedule`: the images of every batch. The epoch's order is cut into global batches, and those into ranks.

It is a pure function of (n, seed, epoch, step) and does not depend on workers, prefetch, backend or history.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from augment.views.plan import Plan, Pool, draw, epoch_order, group_of, partners, pool_partners
from augment.views.policy import Policy
from precompute.base.errors import BadValue, UserError

_TOGETHER = 64  # sources whose views are drawn at a time


@dataclass(frozen=True, eq=False)
class Schedule:
    """Batches of `batch_size` images over all ranks. Raises UserError where no batch could be made."""

    policy: Policy
    rows: np.ndarray  # int64 [n]: the images of the split, rows of the pool
    batch_size: int
    seed: int
    drop_last: bool
    rank: int = 0
    world_size: int = 1
    backgrounds: np.ndarray | None = None  # int64: the images that backgrounds come from; None: the split itself
    twins: np.ndarray | None = None  # int64 by row of the pool: equal numbers for equal pictures; None: all differ
    _orders: dict[int, tuple[int, np.ndarray]] = field(default_factory=dict, init=False, repr=False)  # see `_drawn`
    _plans: list[tuple[Pool, int, int, Plan, list[tuple[int, int]]]] = field(
        default_factory=list, init=False, repr=False
    )  # see `plan`

    def __post_init__(self) -> None:
        n, batch, world = len(self.rows), self.batch_size, self.world_size
        if batch < 1:
            raise BadValue("batch_size", batch, "at least 1")
        if batch % world:
            near = max(batch // world, 1) * world
            raise BadValue("batch_size", batch, f"a multiple of the {world} ranks", f"Try {near} or {near + world}")
        if self.backgrounds is not None and len(self.backgrounds) < 2:
            raise UserError(f"{len(self.backgrounds)} images for backgrounds: at least two are needed")
        if n < 2 and self.policy.kind.pastes and self.backgrounds is None:
            raise UserError(f"{n} images: a background must be another image, so at least two are needed")
        if not len(self):
            if not n:
                raise UserError("the split is empty")
            raise BadValue("batch_size", batch, f"at most {n}, the number of images", "Or use drop_last=False")
        if not self.drop_last and 0 < n % batch < world:
            remedy = f"The last batch has {n % batch} images for {world} ranks; or change batch_size"
            raise BadValue("drop_last", False, "True here", remedy)
        if not 0 <= self.seed < 1 << 64:
            raise BadValue("seed", self.seed, "at least 0 and below 2**64")

    def __len__(self) -> int:
        """Batches of one epoch."""
        n = len(self.rows)
        return n // self.batch_size if self.drop_last else -(-n // self.batch_size)

    @property
    def largest(self) -> int:
        """The most sources in one rank's batch."""
        return self.batch_size // self.world_size

    def order(self, epoch: int) -> np.ndarray:
        """int64 [n]: rows of the pool in the epoch's order."""
        return self._drawn(0, self.rows, epoch)

    def positions(self, step: int) -> np.ndarray:
        """This rank's positions in the epoch's order: consecutive, so that groups stay on one rank if batches allow."""
        start, end = step * self.batch_size, min((step + 1) * self.batch_size, len(self.rows))
        return np.array_split(np.arange(start, end), self.world_size)[self.rank]

    def pick(self, epoch: int, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Sources int64 [B] and backgrounds int64 [B, V], rows of the pool."""
        return self._pick(epoch, self.positions(step))

    def _pick(self, epoch: int, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        order, views = self.order(epoch), self.policy.views
        if not self.policy.kind.pastes:
            return order[positions], np.repeat(order[positions][:, None], views, axis=1)
        settings = positions, self.policy.group, views, self.seed, epoch
        if self.backgrounds is None:
            drawn = partners(order, *settings)
        else:
            drawn = pool_partners(order, self._drawn(1, self.backgrounds, epoch), *settings)
        return order[positions], self._without_twins(order[positions], drawn, epoch)

    def alike(self, a: int, b: int) -> bool:
        """Whether two rows of the pool are the same picture."""
        return a == b or (self.twins is not None and bool(self.twins[a] == self.twins[b]))

    def _without_twins(self, sources: np.ndarray, backgrounds: np.ndarray, epoch: int) -> np.ndarray:
        """`backgrounds` [B, V] with the next picture that differs in place of those that equal their source."""
        if self.twins is not None:
            equal = self.twins[backgrounds] == self.twins[sources][:, None]
            for i, v in np.argwhere(equal & (backgrounds != sources[:, None])):
                source, twin = int(sources[i]), int(backgrounds[i, v])
                others = (row for row in self.stand_ins(twin, epoch) if not self.alike(row, source))
                backgrounds[i, v] = next(others, twin)
        return backgrounds

    def plan(self, pool: Pool, epoch: int, step: int) -> Plan:
        """The plan of this rank's batch.

        Small batches are drawn several at a time and cut apart: to draw one view takes as long as to draw dozens.
        """
        together = _TOGETHER // self.largest
        if together < 2:
            return draw(self.policy, pool, *self.pick(epoch, step), seed=self.seed, epoch=epoch)
        first = step - step % together
        known = self._plans[0] if self._plans else None
        if known is None or known[0] is not pool or known[1:3] != (epoch, first):
            parts = [self.positions(k) for k in range(first, min(first + together, len(self)))]
            drawn = draw(self.policy, pool, *self._pick(epoch, np.concatenate(parts)), seed=self.seed, epoch=epoch)
            ends = itertools.accumulate(map(len, parts), initial=0)
            known = pool, epoch, first, drawn, list(itertools.pairwise(ends))
            self._plans[:] = [known]
        *_, drawn, places = known
        return drawn.part(*places[step - first])

    def _drawn(self, stream: int, rows: np.ndarray, epoch: int) -> np.ndarray:
        """`rows` in the epoch's order, drawn once an epoch: of a million images that takes as long as a batch."""
        last, order = self._orders.get(stream, (-1, rows))
        if last != epoch:
            order = rows[epoch_order(len(rows), self.seed, epoch, stream=stream)]
            self._orders[stream] = epoch, order
        return order

    def stand_ins(self, row: int, epoch: int) -> Iterator[int]:
        """The images that may replace a bad one: the next of its group, cyclically, then the next of the whole order.

        The order is the sources', or the backgrounds' for an image that is not a source.
        """
        order = self.order(epoch)
        if self.backgrounds is not None and row not in order:
            order = self._drawn(1, self.backgrounds, epoch)
        n = len(order)
        place = int(np.flatnonzero(order == row)[0])
        start, length = (int(x) for x in group_of(np.array(place), n, self.policy.group)) if n > 1 else (0, 1)
        for step in range(1, length):
            yield int(order[start + (place - start + step) % length])
        for step in range(1, n):
            yield int(order[(place + step) % n])
