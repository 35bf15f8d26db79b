"""Trainings on one machine that want the same views make each batch once: a ring of made batches in shared memory.

Whoever needs a batch first makes it, in its slot; the others copy it out. Each training is a member: it holds a record
lock on a byte of its own as long as it lives (of the open-file-description kind: the system drops it with the process),
and writes down its position. A slot is only overwritten when all living members are past its batch; one that is waited
for longer than `patience` is left behind. It makes what it misses itself: a batch is a pure function of its place.
"""

import hashlib
import json
import mmap
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from augment.backends.recycled import Recycled
from augment.stream.maker import BatchMaker
from augment.stream.producer import Made, Place
from precompute.base.errors import BadFile, UserError
from precompute.base.locks import SETUP, SharedFile

SLOTS = 4
MEMBERS = 64  # the most of one ring
_TEXT = 1 << 14  # bytes of a slot for the reasons why files were replaced
_HEAD = 8 * (MEMBERS + SLOTS)
# The bytes that are locked, besides `SETUP`: by a living member, by who makes a slot's next batch, and by who
# writes to the slot or looks whether it may be read.
_MEMBER, _MAKING, _CONTENT = 1, 1 + MEMBERS, 1 + MEMBERS + SLOTS
_NONE = -1
FOLDER = Path("/dev/shm")


class Ring:
    """The shared memory of the trainings with one `name`; slots of `room` bytes."""

    def __init__(self, name: str, room: int, folder: Path = FOLDER) -> None:
        """Raises UserError where the folder has no room for it, or the file is somebody else's."""
        digest = hashlib.sha256(f"{name} {room} {SLOTS}".encode()).hexdigest()[:16]
        self.path = folder / f"saliencyswap-{os.getuid()}-{digest}"
        size = _HEAD + SLOTS * room
        self._shared = SharedFile(self.path)
        self._locks, file = self._shared.locks, self._shared.file
        try:
            alone = not any(self._alive(i) for i in range(MEMBERS))
            try:
                os.posix_fallocate(file, 0, size)  # a full memory is an error here, and not a SIGBUS later
            except OSError as error:
                os.ftruncate(file, 0) if alone else None
                raise UserError(
                    f"{folder}: no room for {size / 1e6:.0f} MB of shared batches ({error.strerror}). Give it more "
                    "(docker run --shm-size), or train with --jobs 1"
                ) from error
            self._map = mmap.mmap(file, size)
            self._positions = np.frombuffer(self._map, np.int64, MEMBERS)
            self._numbers = np.frombuffer(self._map, np.int64, SLOTS, 8 * MEMBERS)
            self._slots = [np.frombuffer(self._map, np.uint8, room, _HEAD + i * room) for i in range(SLOTS)]
            if alone:  # also where an earlier ring's members were all killed
                self._positions[:], self._numbers[:] = _NONE, _NONE
            self.me = next((i for i in range(MEMBERS) if self._locks.take(_MEMBER + i)), None)
            if self.me is None:
                raise UserError(f"{self.path}: {MEMBERS} trainings share it already, and that is the most")
            self._positions[self.me] = _NONE
        except BaseException:
            os.close(file)
            raise
        self._locks.drop(SETUP)
        self._left: dict[int, int] = {}  # members that were waited for in vain, and where they stood

    def members(self) -> int:
        """How many live, this one included."""
        return sum(i == self.me or self._alive(i) for i in range(MEMBERS))

    def at(self, number: int) -> None:
        """Says that this member has no need of batches before `number`."""
        self._positions[self.me] = number

    def holds(self, number: int) -> int:
        """1: the batch is there; -1: a later one is in its place; 0: neither."""
        now = int(self._numbers[number % SLOTS])
        return 1 if now == number else -1 if now > number else 0

    def read(self, number: int, use: Callable[[np.ndarray], None]) -> bool:
        """Calls `use` on the batch's slot; False where the batch was not there from the beginning to the end of it."""
        slot = number % SLOTS
        for last in (False, True):
            # The lock orders this member's reads behind the writes of the member that made the batch.
            if not self._locks.take(_CONTENT + slot, shared=True):
                return False
            there = int(self._numbers[slot]) == number
            self._locks.drop(_CONTENT + slot)
            if not there or last:
                return there
            use(self._slots[slot])
        return False

    def claim(self, number: int) -> bool:
        """Makes this member the one that makes the batch; False where another is. What is in its slot stays there."""
        return self._locks.take(_MAKING + number % SLOTS)

    def waits_for(self, number: int) -> list[int]:
        """The living members that still need what is in the batch's slot, but for those that were left behind."""
        old = int(self._numbers[number % SLOTS])
        if old == _NONE:
            return []
        positions = self._positions.tolist()
        slow = [i for i, at in enumerate(positions) if i != self.me and _NONE < at <= old]
        return [i for i in slow if self._left.get(i) != positions[i] and self._alive(i)]

    def leave_behind(self, members: list[int]) -> None:
        """Does not wait for these members again before they have gone on."""
        self._left |= {i: int(self._positions[i]) for i in members}

    def write(self, number: int, use: Callable[[np.ndarray], None]) -> bool:
        """Calls `use` on the slot of a claimed batch, which holds that batch then; False while others look at it."""
        slot = number % SLOTS
        if not self._locks.take(_CONTENT + slot):
            return False
        self._numbers[slot] = _NONE
        try:
            use(self._slots[slot])
            self._numbers[slot] = number
        finally:
            self._locks.drop(_CONTENT + slot)
        return True

    def release(self, number: int) -> None:
        """The end of `claim`."""
        self._locks.drop(_MAKING + number % SLOTS)

    def close(self) -> None:
        """Leaves; the last member removes the file."""
        self._shared.setup()
        if self.members() == 1:
            with suppress(FileNotFoundError):
                self.path.unlink()
        del self._positions, self._numbers, self._slots
        self._map.close()
        os.close(self._shared.file)  # and with it all locks

    def _alive(self, member: int) -> bool:
        if self._locks.take(_MEMBER + member):
            self._locks.drop(_MEMBER + member)
            return False
        return True


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
        ring, until, pause = self._ring, time.monotonic() + self.patience, 0.0005
        while time.monotonic() < until:
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
            time.sleep(pause := min(1.3 * pause, 0.004))
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
