"""The maker of a training that shares its batches with others of equal views on this machine: see `Ring`."""

import json
import mmap
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from augment.backends.recycled import Recycled
from augment.service.ring import FOLDER, Ring
from augment.stream.maker import BatchMaker
from augment.stream.producer import Made, Place
from precompute.base.errors import BadFile

_TEXT = 1 << 14  # bytes of a slot for the reasons why files were replaced


class RingMaker:
    """The `Maker` of a training that shares its batches with others of the same views; `here` makes them."""

    def __init__(self, here: BatchMaker, name: str, members: int, patience: float, folder: Path = FOLDER) -> None:
        """`members`: so many are waited for at the start, as long as `patience` (seconds) and a minute."""
        s, self._here, self.patience, self._expected = here.schedule, here, patience, members
        self._rows, self._side, self._views = s.largest, s.policy.size, s.policy.views
        dtype = here.making.dtype
        self._pixels = s.policy.views * s.largest * s.policy.size**2 * 3 * dtype.itemsize
        self._numbers = 8 * s.largest * (1 + s.policy.views)
        room = -(-(self._pixels + self._numbers + _TEXT) // mmap.PAGESIZE) * mmap.PAGESIZE
        self._ring = Ring(f"{name} {dtype}", room, folder)
        self._memory = Recycled(dtype)
        self._counts: Counter[str] = Counter()
        self._waits_for = ""
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
            self._waits_for = f"{self._expected - now} more trainings to begin"
            time.sleep(0.02)
        self._expected, self._waits_for = 0, ""

    def _batch(self, place: Place, number: int) -> Made:
        ring, began = self._ring, time.monotonic()
        until = began + self.patience
        while (now := time.monotonic()) < until:
            there = ring.holds(number)
            if there > 0 and (made := self._taken(place, number)) is not None:
                return made
            if there < 0:  # left behind
                break
            if ring.claim(number):
                if ring.holds(number):
                    ring.release(number)
                    continue
                try:
                    return self._made(place, number, until)
                finally:
                    ring.release(number)
            self._waits_for = "another training, which makes this batch"
            # The longer it has waited, the less another moment matters; waking up is what waiting costs.
            time.sleep(min(max((now - began) / 4, 0.0005), 0.2))
        self._waits_for = ""
        self._counts["made_alone"] += 1
        return self._here.render(self._here.prepare(place))

    def _made(self, place: Place, number: int, until: float) -> Made:
        """Makes a claimed batch, and shares it as soon as nobody needs what is in its slot."""
        ring = self._ring
        made = self._here.render(self._here.prepare(place))
        while slow := ring.waits_for(number):
            if time.monotonic() > until:
                ring.leave_behind(slow)
                if not self._counts["left_behind"]:
                    self._here.making.say(
                        f"shared batches: a training was left behind that was {self.patience:g} s slower; it makes its "
                        "batches itself"
                    )
                self._counts["left_behind"] += len(slow)
                break
            self._waits_for = "a slower training"
            time.sleep(0.002)
        self._waits_for = ""
        while not (done := ring.write(number, partial(self._write, place, made))) and time.monotonic() < until:
            time.sleep(0.0001)
        self._counts["shared_made" if done else "made_alone"] += 1
        return made

    def _write(self, place: Place, made: Made, slot: np.ndarray) -> None:
        plan, bad = made.batch.plan, {}
        for view, part in zip(made.batch.views, self._parts(slot, len(plan)), strict=True):
            part[:] = view.permute(0, 2, 3, 1).reshape(-1).view(torch.uint8).numpy()
        sources, backgrounds = self._rows_in(slot, len(plan))
        sources[:], backgrounds[:] = plan.sources, plan.backgrounds
        if made.counts["replaced"]:
            drawn = set(self._here.schedule.plan(self._here.images.pool, *place).images.tolist())
            bad = {row: reason for row, reason in self._here.bad.items() if row in drawn}
        text = json.dumps(bad).encode()
        text = text if len(text) <= _TEXT - 8 else b"{}"  # files by the hundred: the others find out by themselves
        end = slot[self._pixels + self._numbers :]
        end[:8].view(np.int64)[0] = len(text)
        end[8 : 8 + len(text)] = np.frombuffer(text, np.uint8)

    def _taken(self, place: Place, number: int) -> Made | None:
        """The batch, copied out of its slot; None where it was overwritten meanwhile."""
        here, bad = self._here, {}
        plan = here.schedule.plan(here.images.pool, *place)
        count, side = len(plan), self._side
        views = tuple(self._memory.take((count, side, side, 3)) for _ in range(plan.views))
        rows = plan.sources.copy(), plan.backgrounds.copy()

        def use(slot: np.ndarray) -> None:
            for view, part in zip(views, self._parts(slot, count), strict=True):
                view.permute(0, 2, 3, 1).view(-1).view(torch.uint8).numpy()[:] = part
            for mine, there in zip(rows, self._rows_in(slot, count), strict=True):
                mine[:] = there
            end = slot[self._pixels + self._numbers :]
            length = min(max(int(end[:8].view(np.int64)[0]), 0), _TEXT - 8)
            bad["text"] = end[8 : 8 + length].tobytes()

        if not self._ring.read(number, use):
            return None
        replaced = 0
        if any((a != b).any() for a, b in zip(rows, (plan.sources, plan.backgrounds), strict=True)):
            for row, reason in json.loads(bad["text"]).items():
                here.note(int(row), BadFile(here.images.path(int(row)), reason))
            plan, replaced = here.replanned(plan, place[0], *rows)
        self._counts["shared_taken"] += 1
        return here.made(here.with_opacities(plan), views, 0, replaced)

    def _parts(self, slot: np.ndarray, count: int) -> list[np.ndarray]:
        """The bytes of each view in a slot, uint8 [count · side · side · 3 · bytes of a value]."""
        return np.split(slot[: self._pixels // self._rows * count], self._views)

    def _rows_in(self, slot: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        """A slot's sources int64 [count] and backgrounds int64 [count, V]."""
        rows = slot[self._pixels : self._pixels + self._numbers].view(np.int64)
        return rows[:count], rows[self._rows :][: count * self._views].reshape(count, self._views)
