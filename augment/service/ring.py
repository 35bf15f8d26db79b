"""Trainings on one machine that want the same views make each batch once: a ring of made batches in shared memory.

Whoever needs a batch first makes it, in a free slot; all read it where it lies. Each training is a member: it holds a
record lock on a byte of its own as long as it lives (of the open-file-description kind: the system drops it with the
process), and writes down its position. A slot is free when all living members are past its batch and nobody holds it;
a member that is waited for longer than `patience` is left behind. It makes what it misses itself: a batch is a pure
function of its place. What a member reads it holds, by a shared record lock on the slot, so that nothing is ever
written where somebody reads, be that one stopped or left behind.
"""

import hashlib
import mmap
import os
import threading
import weakref
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from precompute.base.errors import UserError
from precompute.base.locks import SETUP, USERS, SharedFile, private_prefix, sweep

SLOTS = 7
HELD = 4  # batches that a member may hold: of its consumer, and ready ahead of it; what is more it copies
MEMBERS = len(USERS)  # the most of one ring
_HEAD = -(-8 * (MEMBERS + SLOTS) // mmap.PAGESIZE) * mmap.PAGESIZE
# The bytes that are locked, besides `SETUP`: by a living member, by who makes a batch, and by who writes to a slot or
# reads it.
_MEMBER, _MAKING, _CONTENT = USERS[0], USERS[-1] + 1, USERS[-1] + 1 + MEMBERS
_NONE = -1


class Ring:
    """The shared memory of the trainings with one `name`; slots of `room` bytes, a multiple of the page."""

    def __init__(self, name: str, room: int, folder: Path) -> None:
        """Raises UserError where the folder has no room for it, or the file is somebody else's."""
        digest = hashlib.sha256(f"{name} {room} {SLOTS}".encode()).hexdigest()[:16]
        self.path, self._room = folder / f"{private_prefix()}{digest}", room
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
                    "(docker run --shm-size), name another folder (--cache shared --shared-dir), or train with --jobs 1"
                ) from error
            # All pages at once: to meet each for the first time while writing costs far more.
            self._map = mmap.mmap(file, size, mmap.MAP_SHARED | mmap.MAP_POPULATE)
            self._positions = np.frombuffer(self._map, np.int64, MEMBERS)
            self._numbers = np.frombuffer(self._map, np.int64, SLOTS, 8 * MEMBERS)
            if alone:  # also where an earlier ring's members were all killed
                self._positions[:], self._numbers[:] = _NONE, _NONE
            self.me = next((i for i in range(MEMBERS) if self._locks.take(_MEMBER + i)), -1)
            if self.me < 0:
                raise UserError(f"{self.path}: {MEMBERS} trainings share it already, and that is the most")
            self._positions[self.me] = _NONE
        except BaseException:
            os.close(file)
            raise
        self._locks.drop(SETUP)
        self._left: dict[int, int] = {}  # members that were waited for in vain, and where they stood
        self._holds = [0] * SLOTS  # arrays of this member, by slot
        # An array may end in any thread and at any instant, also in the middle of what another thread does to its slot.
        self._guard, self._ended = threading.Lock(), deque[int]()
        self._closed = False

    def members(self) -> int:
        """How many live, this one included."""
        return sum(i == self.me or self._alive(i) for i in range(MEMBERS))

    def at(self, number: int) -> None:
        """Says that this member has no need of batches before `number`."""
        self._positions[self.me] = number

    def has(self, number: int) -> bool:
        """Whether the batch is there."""
        return number in self.contents()

    def is_past(self, number: int) -> bool:
        """Whether the others are so far on that nobody needs the batch but this member."""
        return number + SLOTS <= int(self._numbers.max())

    @property
    def held(self) -> int:
        """How many batches this member holds."""
        return sum(map(bool, self._holds))

    def read(self, number: int) -> np.ndarray | None:
        """The batch's bytes, uint8 [room], held as long as the array lives; None where the batch is not there.

        All members read the same memory: it must not be written to.
        """
        contents = self.contents()
        if number not in contents:
            return None
        slot = contents.index(number)
        # The lock orders this member's reads behind the writes of the member that made the batch.
        there = self._hold(slot)
        return there if int(self._numbers[slot]) == number else None

    def claim(self, number: int) -> bool:
        """Makes this member the one that makes the batch; False where another is."""
        return self._locks.take(_MAKING + number % MEMBERS)

    def release(self, number: int) -> None:
        """The end of `claim`."""
        self._locks.drop(_MAKING + number % MEMBERS)

    def free(self) -> int | None:
        """A slot that nobody needs or holds, the oldest first, taken for `share` or `give_up`."""
        with self._alone():
            for slot in np.argsort(self._numbers).tolist():
                unused = not self._holds[slot] and not self._slow(int(self._numbers[slot]))
                if unused and self._locks.take(_CONTENT + slot):
                    self._numbers[slot] = _NONE
                    return slot
        return None

    def waits_for(self) -> list[int]:
        """The slowest of the other living members that need a batch which is there, but for those left behind."""
        slow = self._slow(max(self.contents()))
        return [i for i in slow if self._positions[i] == min(self._positions[slow])]

    def leave_behind(self, members: list[int]) -> None:
        """Does not wait for these members again before they have gone on."""
        self._left |= {i: int(self._positions[i]) for i in members}

    def contents(self) -> list[int]:
        """The number of each slot's batch, -1 where there is none."""
        return self._numbers.tolist()

    def memory(self, slot: int) -> np.ndarray:
        """The bytes of a slot, uint8 [room], to be written where it is free."""
        return np.frombuffer(self._map, np.uint8, self._room, _HEAD + slot * self._room)

    def share(self, slot: int, number: int) -> np.ndarray:
        """What was written to the slot is the batch, for all members; as `read` returns it."""
        self._numbers[slot] = number
        memory = self._hold(slot)
        assert memory is not None, "this member has the slot's lock"
        return memory

    def give_up(self, slot: int) -> None:
        """The slot stays free."""
        self._locks.drop(_CONTENT + slot)

    def close(self) -> None:
        """Leaves; the last member removes the file. What it holds stays as it is."""
        self._shared.setup()
        if self.members() == 1:
            with suppress(FileNotFoundError):
                self.path.unlink()
        del self._positions, self._numbers, self._map  # unmapped with the last array
        with self._alone():
            for lock in (_MEMBER + self.me, SETUP):
                self._locks.drop(lock)
            self._closed = True
            self._end()

    def _alive(self, member: int) -> bool:
        if self._locks.take(_MEMBER + member):
            self._locks.drop(_MEMBER + member)
            return False
        return True

    def _slow(self, number: int) -> list[int]:
        """The other living members that need the batch `number`, but for those that were left behind."""
        positions = self._positions.tolist()
        slow = [i for i, at in enumerate(positions) if i != self.me and _NONE < at <= number]
        return [i for i in slow if self._left.get(i) != positions[i] and self._alive(i)]

    def _hold(self, slot: int) -> np.ndarray | None:
        """The slot's memory, which nobody writes to as long as the array lives; None where one does so now."""
        with self._alone():
            if not self._holds[slot] and not self._locks.take(_CONTENT + slot, shared=True):
                return None
            self._holds[slot] += 1
            memory = self.memory(slot)
            weakref.finalize(memory, self._end_of_array, slot).atexit = False
        return memory

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One thread at a time: to look at a slot's holds and to change its lock is one act."""
        with self._guard:
            yield
        self._let_go()

    def _end_of_array(self, slot: int) -> None:
        self._ended.append(slot)
        self._let_go()

    def _let_go(self) -> None:
        """Lets go of what has ended, unless a thread (this one too) is within `_alone`: then it does so afterwards."""
        while self._ended and self._guard.acquire(blocking=False):
            try:
                while self._ended:
                    slot = self._ended.popleft()
                    self._holds[slot] -= 1
                    if not self._holds[slot]:
                        self._locks.drop(_CONTENT + slot)
                self._end()
            finally:
                self._guard.release()

    def _end(self) -> None:
        """Closes the file, and with it all locks, when the member has left and holds nothing."""
        if self._closed and not self.held:
            self._closed = False
            os.close(self._shared.file)
