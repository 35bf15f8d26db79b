"""A trainer's side of the service: crops from helpers, in order, whatever becomes of the helpers.

    place (epoch, step)
      → asked of the helper that has least to do        k places at once over all helpers
      → its turn: the crops are here                    → paste, colour, blur here → queue
      → its turn: its helper was lost, or is late       → made here, its other places are asked of other helpers

A batch is a pure function of its place, so who makes it, and how often it was asked for, cannot be seen in it. Each
place is waited for once, in order: that is why none is lost or doubled.
"""

import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping
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
SLACK = 0.3  # seconds that an answer may come later than usual, and up to 0.2 more, before its batch is made here
AT_EASE = 5.0  # seconds more, as long as the training has other batches to work on
SOON = 0.8  # seconds within which a helper answers again that is only slow: what it was given becomes its usual time


@dataclass
class _Asked:
    """A place in flight."""

    place: Place
    helper: str = ""  # none: it is made here when its turn comes
    reference: Any = None
    since: float = 0.0


class HelpedMaker:
    """The `Maker` of a training that helpers work for; `here` makes what they do not."""

    def __init__(self, here: BatchMaker, fleet: Fleet) -> None:
        self._here, self._fleet = here, fleet
        self._usual: dict[str, float] = {}  # seconds from question to answer, by helper
        self._left: dict[str, tuple[float, float]] = {}  # when, and the seconds that were waited for it
        self._counts: Counter[str] = Counter()
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
        self._here.close()

    def status(self) -> dict[str, Any]:
        """Helpers that serve, places in flight, whose answer is waited for, and batches by how they were made."""
        counts = {name: self._counts[name] for name in ("made_there", "made_here", "late", "lost", "asked_again")}
        return {
            "service": {
                "helpers": len(self._fleet.ready), "in_flight": self._flying, "waits_for": self._waits_for, **counts,
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
                while len(window) >= max(min(EACH * len(self._fleet.ready), MOST), 1):
                    yield self._deliver(window)
                    self._ask(window)

    def _ask(self, window: deque[_Asked]) -> None:
        """Asks helpers that have time for the places that nobody was asked for yet, first to last."""
        for asked in window:
            if asked.reference is None:
                load = Counter(other.helper for other in window if other.reference is not None)
                free = [name for name in list(self._fleet.ready) if load[name] < EACH]
                if not free:
                    break
                self._ask_of(min(free, key=lambda name: (load[name], self._usual.get(name, 0.0))), asked)
        self._flying = sum(asked.reference is not None for asked in window)

    def _ask_of(self, name: str, asked: _Asked) -> None:
        if name in self._left:  # it has come back: at once, or after it was dead or stopped
            when, waited = self._left.pop(name)
            if self._fleet.ready_since[name] - when < SOON:
                self._usual[name] = max(waited, self._usual.get(name, 0.0))
        try:
            asked.reference = self._fleet.ask(name, *asked.place)
        except Exception:  # it was lost just now: the place stays without a helper
            self._fleet.lose(name)
            return
        asked.helper, asked.since = name, time.monotonic()

    def _deliver(self, window: deque[_Asked]) -> Made:
        """The batch of the first place of the window, which is taken from it."""
        head = window.popleft()
        if head.reference is not None:
            usual = self._usual.get(head.helper, 1.0)
            patience = usual + min(usual / 2, 0.2) + SLACK
            self._waits_for = head.helper
            came = self._fleet.done(head.reference, head.since + patience - time.monotonic())
            while not came and not self.wanted.is_set() and time.monotonic() < head.since + patience + AT_EASE:
                came = self._fleet.done(head.reference, 0.02)  # late, and yet nobody waits
            self._waits_for = ""
            why = "late"
            if came:
                try:
                    crops, answer = self._fleet.take(head.reference)
                    took = time.monotonic() - head.since
                    self._usual[head.helper] = usual + (0.5 if took < usual else 0.2) * (took - usual)
                    self._counts["made_there"] += 1
                    return finished(self._here, head.place, crops, Answer.from_json(answer))
                except ConnectionError as error:
                    why = "lost"
                    self._here.making.say(f"helper {head.helper} is lost ({error}): its batches are made elsewhere")
            else:
                self._here.making.say(
                    f"helper {head.helper} has not answered for {time.monotonic() - head.since:.1f} s: its batches are "
                    "made elsewhere"
                )
            self._counts[why] += 1
            self._leave(head.helper, window, patience if why == "late" else 0.0)
        self._counts["made_here"] += 1
        return self._here.render(self._here.prepare(head.place))

    def _leave(self, helper: str, window: deque[_Asked], waited: float) -> None:
        """Takes the places in the window from a helper that was given `waited` seconds, and asks others for them."""
        self._fleet.lose(helper)
        self._left[helper] = time.monotonic(), waited
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
    if plan.alpha is not None:  # patches are blended in place, and shared memory is for reading
        crops = crops.copy()
    return here.finished(plan, backend.finish(plan, crops), answer.decoded, replaced)
