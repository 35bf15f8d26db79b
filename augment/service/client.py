"""A trainer's side of the service: crops from helpers, in order, whatever becomes of the helpers.

    place (epoch, step)
      → asked of the helper that has least to do        k places at once over all helpers
      → its turn: the crops are here                    → paste, colour, blur here → queue
      → its turn: they are late                         → begun here too; whichever is there first → queue
      → its turn: its helper was lost                   → made here, its other places are asked of other helpers

A batch is a pure function of its place, so who makes it, and how often it was asked for, cannot be seen in it. Each
place is waited for once, in order: that is why none is lost or doubled. While the training waits, nothing here waits
for one helper longer than the patience; to make a batch in vain costs CPU time, and no helper its work.
"""

import math
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from augment.backends.fused import FusedBackend
from augment.service.cluster import Fleet
from augment.service.helper import Answer
from augment.stream.maker import BatchMaker
from augment.stream.producer import Made, Place
from precompute.base.errors import BadFile

EACH = 2  # places that a helper is asked for at once: one that it makes, one that waits
MOST = 16  # places in flight; each takes the crops of a batch in memory
SLACK = 0.3  # seconds that an answer is waited for longer than usual, before its batch is begun here
AT_EASE = 5.0  # seconds more, as long as the training has other batches to work on
QUIET = 30.0  # seconds between two lines about the same late helper


@dataclass
class _Asked:
    """A place in flight."""

    place: Place
    helper: str = ""  # none: it is made here when its turn comes
    reference: Any = None
    answered: bool = False  # read by the thread that makes it here


class HelpedMaker:
    """The `Maker` of a training that helpers work for; `here` makes what they do not."""

    def __init__(self, here: BatchMaker, fleet: Fleet) -> None:
        self._here, self._fleet = here, fleet
        self._instead = ThreadPoolExecutor(1, thread_name_prefix="augment-instead")
        self._waited: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=4))  # for a helper's last answers
        self._takes = self._longest = 0.0  # seconds that a batch took here: the last one, and the longest
        self._owed: dict[str, list[Any]] = {}  # by helper: answers that came too late so far; it is not asked for more
        self._said: dict[str, float] = {}  # when, about helpers that are late
        self._counts: Counter[str] = Counter()
        self._patience = 0.0  # the longest
        self._waits_for = ""  # whose answer is waited for now
        self._flying = 0
        self.wanted = threading.Event()  # see `Maker`

    @property
    def bad(self) -> Mapping[int, str]:
        """See `Maker`."""
        return self._here.bad

    def begin_here(self) -> None:
        """See `Maker`."""
        self._here.begin_here()

    def close(self) -> None:
        """Ends all threads; helpers go on for others."""
        self._fleet.close()
        self._instead.shutdown(cancel_futures=True)
        self._here.close()

    def status(self) -> dict[str, Any]:
        """Helpers that serve, places in flight, whose answer is waited for, and batches by how they were made.

        `in_vain`: batches that were begun here, and then their answers came first. In seconds, the longest: `patience`,
        that an answer was given before its batch was begun here, and `takes`, of a batch made here.
        """
        names = "made_there", "made_here", "late", "lost", "asked_again", "in_vain"
        return {
            "service": {
                "helpers": len(self._serving()), "in_flight": self._flying, "waits_for": self._waits_for,
                **{name: self._counts[name] for name in names}, "patience": self._patience, "takes": self._longest,
                "refused": dict(self._fleet.refused),
            }
        }  # fmt: skip

    def make(self, places: Iterator[Place]) -> Iterator[Made]:
        """See `Maker`, and the drawing above."""
        window: deque[_Asked] = deque()
        with self._here.producing():
            for place in places:
                window.append(_Asked(place))
                self._ask(window)
                while len(window) >= max(min(EACH * len(self._serving()), MOST), 1):
                    yield self._deliver(window)
                    self._ask(window)

    def _serving(self) -> list[str]:
        return [name for name in list(self._fleet.ready) if name not in self._owed]

    def _ask(self, window: deque[_Asked]) -> None:
        """Asks helpers that have time for the places that nobody was asked for yet, first to last."""
        self._hear()
        for asked in window:
            if asked.reference is None:
                load = Counter(other.helper for other in window if other.reference is not None)
                free = [name for name in self._serving() if load[name] < EACH]
                if not free:
                    break
                self._ask_of(min(free, key=lambda name: (load[name], self._usual(name))), asked)
        self._flying = sum(asked.reference is not None for asked in window)

    def _ask_of(self, name: str, asked: _Asked) -> None:
        try:
            asked.reference = self._fleet.ask(name, *asked.place)
        except Exception:  # it was lost just now: the place stays without a helper
            self._fleet.lose(name)
            return
        asked.helper = name

    def _hear(self) -> None:
        """Believes helpers again that were late, as soon as all their answers are there."""
        for name, references in list(self._owed.items()):
            self._owed[name] = left = [r for r in references if not self._fleet.done(r, 0)]
            if not left:
                del self._owed[name]
                try:
                    self._fleet.take(references[-1])
                except ConnectionError:
                    self._fleet.lose(name)

    def _usual(self, helper: str) -> float:
        """Seconds that the helper's answers were waited for lately, but for the longest: it may have stood still."""
        return sorted(self._waited[helper])[-2:][0] if self._waited[helper] else 0.0

    def _deliver(self, window: deque[_Asked]) -> Made:
        """The batch of the first place of the window, which is taken from it."""
        head, began, instead = window.popleft(), time.monotonic(), None
        if head.reference is not None:
            self._waits_for = head.helper
            came = self._comes(head)
            if not came:
                instead = self._begun_here(head)
                while not came and not instead.done():
                    came = self._fleet.done(head.reference, 0.01)
            self._waits_for = ""
            if came:
                try:
                    crops, answer = self._fleet.take(head.reference)
                    head.answered = True
                    self._waited[head.helper].append(time.monotonic() - began)
                    self._counts.update(made_there=1, in_vain=instead is not None)
                    return finished(self._here, head.place, crops, Answer.from_json(answer))
                except ConnectionError as error:
                    self._here.making.say(f"helper {head.helper} is lost ({error}): its batches are made elsewhere")
                    self._leave(head.helper, window)
            else:
                self._late(head, time.monotonic() - began)
        self._counts["made_here"] += 1
        made = (instead or self._begun_here(head)).result()
        assert made is not None, "no answer has come for it"
        return made

    def _comes(self, head: _Asked) -> bool:
        """Waits for an answer as long as it is worth it; whether it is there."""
        patience = 0.0 if head.helper in self._owed else SLACK + min(self._usual(head.helper), self._takes)
        until = time.monotonic() + patience + AT_EASE
        came = self._fleet.done(head.reference, patience)
        while not came and not self.wanted.is_set() and time.monotonic() < until:
            came = self._fleet.done(head.reference, 0.02)  # late, and yet nobody waits
        if not came:
            self._patience = max(self._patience, patience)
        return came

    def _begun_here(self, asked: _Asked) -> Future[Made | None]:
        """The batch, made by another thread; None where its answer has come before the work."""

        def work() -> Made | None:
            began = time.monotonic()
            with self._here.producing():
                prepared = self._here.prepare(asked.place)
                made = None if asked.answered else self._here.render(prepared)
            took = time.monotonic() - began  # at least, where it was given up
            self._takes = max(took, self._takes) if made is None else took
            self._longest = max(took, self._longest)
            return made

        return self._instead.submit(work)

    def _late(self, head: _Asked, waited: float) -> None:
        """The batch was made here before its answer came: the helper is not asked for others before it has answered."""
        self._counts["late"] += 1
        self._owed.setdefault(head.helper, []).append(head.reference)
        if (now := time.monotonic()) > self._said.get(head.helper, -math.inf) + QUIET:
            self._said[head.helper] = now
            self._here.making.say(
                f"helper {head.helper} was waited for {waited:.1f} s: until it answers, its batches are made here"
            )

    def _leave(self, helper: str, window: deque[_Asked]) -> None:
        """Takes the places in the window from a helper that was lost, and asks others for them."""
        self._counts["lost"] += 1
        self._fleet.lose(helper)
        self._owed.pop(helper, None)
        for asked in window:
            if asked.helper == helper:
                asked.helper, asked.reference = "", None
                self._counts["asked_again"] += 1
        self._ask(window)


def finished(here: BatchMaker, place: Place, crops: np.ndarray, answer: Answer) -> Made:
    """The batch of a helper's crops, to the bit the one that `here` would make."""
    backend = here.backend
    assert isinstance(backend, FusedBackend)
    plan, replaced = here.schedule.plan(here.images.pool, *place), 0
    if answer.sources is not None:
        for row, reason in answer.bad.items():
            here.note(int(row), BadFile(here.images.path(int(row)), reason))
        there = np.array(answer.sources), np.array(answer.backgrounds)
        plan, replaced = here.replanned(plan, place[0], *there)
    plan = here.with_opacities(plan)
    return here.finished(plan, backend.finish(plan, crops), answer.decoded, replaced)
