"""The maker of a training that shares its batches with others of equal views on this machine: see `Ring`."""

import json
import math
import mmap
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from augment.backends.recycled import ALIGNED, Recycled
from augment.service.ring import HELD, Ring
from augment.stream.batch import Batch
from augment.stream.maker import BatchMaker, Prepared
from augment.stream.producer import Made, Place
from precompute.base.errors import BadFile, UserError

LONG = 3.0  # seconds of a wait that is spoken of
_TEXT = 1 << 14  # bytes of a slot for the reasons why files were replaced


@dataclass(frozen=True, eq=False)
class InPlace(Made):
    """A batch whose views others read in the same memory."""

    before: list["Tensor"]  # the views that the consumer had before these, where others read them too

    def take(self) -> Batch:
        """See `Made`. Raises UserError where the views before these were written to."""
        if any(view._version for view in self.before):
            raise UserError(
                "views were written to in place, and other trainings read them in the same memory: clone first"
            )
        self.before.clear()
        return super().take()


class RingMaker:
    """The `Maker` of a training that shares its batches with others of the same views; `here` makes them."""

    def __init__(self, here: BatchMaker, name: str, members: int, patience: float, folder: Path) -> None:
        """`members`: so many are waited for at the start, as long as `patience` (seconds) and a minute."""
        s, self._here, self.patience, self._expected = here.schedule, here, patience, members
        self._rows, self._side, self._count = s.largest, s.policy.size, s.policy.views
        self._dtype = dtype = here.making.dtype
        view = s.largest * s.policy.size**2 * 3 * dtype.itemsize
        self._pixels = s.policy.views * -(-view // ALIGNED) * ALIGNED
        self._numbers = 8 * s.largest * (1 + s.policy.views)
        room = -(-(self._pixels + self._numbers + _TEXT) // mmap.PAGESIZE) * mmap.PAGESIZE
        self._ring = Ring(f"{name} {dtype}", room, folder)
        self._memory = Recycled(dtype)
        self._counts: Counter[str] = Counter()
        self._waits_for, self._since, self._said = "", 0.0, -math.inf
        self._usual = 0.0  # seconds that another's batch is waited for
        self._before: list[Tensor] = []  # views of the last batch that lie where others read them
        self._kept: list[int] = []  # what lay in the ring when no slot came free in time
        self._closed = threading.Event()

    @property
    def bad(self) -> Mapping[int, str]:
        """See `Maker`."""
        return self._here.bad

    def begin_here(self) -> None:
        """See `Maker`."""
        self._here.begin_here()

    def status(self) -> dict[str, Any]:
        """Members, and batches by how they came: made for all, taken from another, made alone; who is waited for."""
        counts = {name: self._counts[name] for name in ("shared_made", "shared_taken", "made_alone", "left_behind")}
        members = 0 if self._closed.is_set() else self._ring.members()
        return {"ring": {"members": members, "waits_for": self._waits_for, **counts}}

    def close(self) -> None:
        """Leaves the ring."""
        if not self._closed.is_set():
            self._closed.set()
            self._ring.close()
            self._here.close()

    def make(self, places: Iterator[Place]) -> Iterator[Made]:
        """See `Maker`."""
        steps, waited = len(self._here.schedule), False
        for epoch, step in places:
            number = epoch * steps + step
            self._ring.at(number)
            if not waited:
                self._wait_for_all()
                waited = True
            made = self._batch((epoch, step), number)
            self._ring.at(number + 1)
            yield made

    def _wait_for_all(self) -> None:
        until = time.monotonic() + self.patience + 60
        while (now := self._ring.members()) < self._expected and time.monotonic() < until:
            self._waiting(f"{self._expected - now} more trainings to begin", until)
            time.sleep(0.02)
        self._expected, self._waits_for = 0, ""

    def _waiting(self, who: str, until: float) -> None:
        """Notes who is waited for until when at the most, and says so where that takes long, once a minute."""
        now = time.monotonic()
        if who != self._waits_for:
            self._waits_for, self._since = who, now
        elif now > self._since + LONG and now > self._said + 60:
            self._said = now
            self._here.making.say(f"shared batches: waits for {who}, {max(until - now, 0):.0f} s more at the most")

    def _batch(self, place: Place, number: int) -> Made:
        ring, began = self._ring, time.monotonic()
        until, self._waits_for = began + self.patience, ""
        while (now := time.monotonic()) < until and not ring.is_past(number):
            if (memory := ring.read(number)) is not None:
                self._counts["shared_taken"] += 1
                self._usual += (now - began - self._usual) / 4
                return self._taken(place, memory)
            if ring.claim(number):
                try:
                    if not ring.has(number):
                        return self._made(place, number, until)
                finally:
                    ring.release(number)
                continue
            self._waiting("another training, which makes this batch", until)
            # Waking up is what waiting costs: first when the batch is nearly due, then after an eighth of the wait.
            time.sleep(min(max(0.8 * self._usual - (now - began), (now - began) / 8, 0.0005), 0.2))
        self._waits_for = ""
        return self._made_alone(self._here.prepare(place))

    def _made_alone(self, prepared: Prepared) -> Made:
        self._counts["made_alone"] += 1
        self._before = []
        return self._here.render(prepared)

    def _made(self, place: Place, number: int, until: float) -> Made:
        """Makes a claimed batch where all can read it, as soon as there is room."""
        prepared = self._here.prepare(place)
        slot = self._room_for(until)
        if slot is None:
            return self._made_alone(prepared)
        memory = self._ring.memory(slot)
        views = self._views(memory, len(prepared.plan))
        try:
            with self._here.backend.into(views):
                made = self._here.render(prepared)
            self._write(place, made, memory, views)
        except BaseException:
            self._ring.give_up(slot)
            raise
        self._counts["shared_made"] += 1
        return self._with_views(made, self._ring.share(slot, number))

    def _room_for(self, until: float) -> int | None:
        """A slot that nobody needs; None where trainings keep all of them beyond the time `until`."""
        ring = self._ring
        while (slot := ring.free()) is None and ring.contents() != self._kept:
            if time.monotonic() > until:
                if not (slow := ring.waits_for()):
                    self._kept = ring.contents()  # not waited for again before something changes
                    break
                ring.leave_behind(slow)
                if not self._counts["left_behind"]:
                    self._here.making.say(
                        f"shared batches: a training was left behind that was {self.patience:g} s slower; it makes its "
                        "batches itself"
                    )
                self._counts["left_behind"] += len(slow)
                until = time.monotonic() + self.patience  # for the next slowest
            self._waiting("a slower training", until)
            time.sleep(0.002)
        self._waits_for = ""
        return slot

    def _write(self, place: Place, made: Made, memory: np.ndarray, views: Sequence[Tensor]) -> None:
        """Completes a slot: the views where they were put elsewhere, the rows, and why files were replaced."""
        plan, bad = made.batch.plan, {}
        for view, there in zip(made.batch.views, views, strict=True):
            if view.data_ptr() != there.data_ptr():
                there.copy_(view)
        sources, backgrounds = self._rows_in(memory, len(plan))
        sources[:], backgrounds[:] = plan.sources, plan.backgrounds
        if made.counts["replaced"]:
            drawn = set(self._here.schedule.plan(self._here.images.pool, *place).images.tolist())
            bad = {row: reason for row, reason in self._here.bad.items() if row in drawn}
        text = json.dumps(bad).encode()
        text = text if len(text) <= _TEXT - 8 else b"{}"  # files by the hundred: the others find out by themselves
        end = memory[self._pixels + self._numbers :]
        end[:8].view(np.int64)[0] = len(text)
        end[8 : 8 + len(text)] = np.frombuffer(text, np.uint8)

    def _taken(self, place: Place, memory: np.ndarray) -> Made:
        """The batch that another training made."""
        here = self._here
        plan, replaced = here.schedule.plan(here.images.pool, *place), 0
        rows = tuple(map(np.copy, self._rows_in(memory, len(plan))))
        if any((a != b).any() for a, b in zip(rows, (plan.sources, plan.backgrounds), strict=True)):
            end = memory[self._pixels + self._numbers :]
            text = end[8 : 8 + int(end[:8].view(np.int64)[0])].tobytes()
            for row, reason in json.loads(text).items():
                here.note(int(row), BadFile(here.images.path(int(row)), reason))
            plan, replaced = here.replanned(plan, place[0], *rows)
        return self._with_views(here.made(here.with_opacities(plan), (), 0, replaced), memory)

    def _with_views(self, made: Made, memory: np.ndarray) -> Made:
        """The batch with its views as they lie in a slot, or copies of them where this training holds too many."""
        views, before = self._views(memory, len(made.batch)), self._before
        self._before = list(views)
        if self._ring.held > HELD:
            views = tuple(self._memory.take((len(view), self._side, self._side, 3)).copy_(view) for view in views)
            self._before = []
        return InPlace(replace(made.batch, views=views), made.counts, made.event, before)

    def _views(self, memory: np.ndarray, count: int) -> tuple[Tensor, ...]:
        """The views in a slot, [count, 3, S, S] with channels last."""
        size = count * self._side**2 * 3 * self._dtype.itemsize
        parts = torch.from_numpy(memory[: self._pixels]).chunk(self._count)
        shape = count, self._side, self._side, 3
        return tuple(part[:size].view(self._dtype).view(shape).permute(0, 3, 1, 2) for part in parts)

    def _rows_in(self, memory: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        """A slot's sources int64 [count] and backgrounds int64 [count, V]."""
        rows = memory[self._pixels : self._pixels + self._numbers].view(np.int64)
        return rows[:count], rows[self._rows :][: count * self._count].reshape(count, self._count)
