"""Trainings on one machine that want the same views make each batch once: a ring of made batches in shared memory.

Whoever needs a batch first makes it, in its slot; the others copy it out. Each training is a member: it holds a record
lock on a byte of its own as long as it lives (of the open-file-description kind: the system drops it with the process),
and writes down its position. A slot is only overwritten when all living members are past its batch; one that is waited
for longer than `patience` is left behind. It makes what it misses itself: a batch is a pure function of its place.
"""

import hashlib
import mmap
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np

from precompute.base.errors import UserError
from precompute.base.locks import SETUP, USERS, SharedFile, private_prefix, sweep

SLOTS = 4
MEMBERS = len(USERS)  # the most of one ring
_HEAD = 8 * (MEMBERS + SLOTS)
# The bytes that are locked, besides `SETUP`: by a living member, by who makes a slot's next batch, and by who
# writes to the slot or looks whether it may be read.
_MEMBER, _MAKING, _CONTENT = USERS[0], USERS[-1] + 1, USERS[-1] + 1 + SLOTS
_NONE = -1
FOLDER = Path("/dev/shm")


class Ring:
    """The shared memory of the trainings with one `name`; slots of `room` bytes."""

    def __init__(self, name: str, room: int, folder: Path = FOLDER) -> None:
        """Raises UserError where the folder has no room for it, or the file is somebody else's."""
        digest = hashlib.sha256(f"{name} {room} {SLOTS}".encode()).hexdigest()[:16]
        self.path = folder / f"{private_prefix()}{digest}"
        size = _HEAD + SLOTS * room
        sweep(folder)
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
