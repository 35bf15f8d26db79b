"""Epochs of batches, made in the background while the training loop computes."""

import time
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np

from augment.stream.batch import Batch
from augment.stream.imageset import ImageSet
from augment.stream.producer import COUNTS, Maker, Producer
from augment.views.policy import Policy
from augment.views.schedule import Schedule
from precompute.base.errors import UserError
from precompute.base.options import whole


class ViewLoader:
    """Iterates over the batches of one epoch, as a `DataLoader` does; `open_views` makes it.

    `for batch in loader` goes through the current epoch, and the next loop through the next one. Leaving a loop early
    and starting another begins the same epoch again; `state_dict` and `load_state_dict` go on in the middle of one, and
    make the loader a `torch.distributed.checkpoint.stateful.Stateful`. Close it, or use it in a `with` statement.

    A file that went bad after the boxes were made is named on stderr, counted in `report()`, and replaced by the next
    good image of its group in the epoch's order (`on_bad="replace"`, the default; as a background, by the next one
    that is not the source), or raises `BadFile` (`on_bad="fail"`). The other views do not change.
    """

    def __init__(self, schedule: Schedule, images: ImageSet, maker: Maker, prefetch: int = 2) -> None:
        """`maker` makes the batches of `schedule`, whose rows are those of `images`; `prefetch` of them ahead."""
        self.schedule, self.images, self.prefetch = schedule, images, prefetch
        used = (schedule.rows,) if schedule.backgrounds is None else (schedule.rows, schedule.backgrounds)
        self._digest = images.digest(np.concatenate(used))
        self.epoch = 0
        self.wait_seconds = 0.0  # how long the training loop has waited for batches
        self._step = 0  # batches of this epoch that have been handed out
        self._start = 0  # where the next loop begins
        self._counts: dict[str, int] = dict.fromkeys(COUNTS, 0)
        self._maker = maker
        self._producers: list[Producer] = []  # the present one, if any
        # Also when the loader is forgotten, and before the interpreter ends: threads in the midst of native code then
        # would take it down.
        self._end = weakref.finalize(self, _shut_down, maker, self._producers)

    @property
    def policy(self) -> Policy:
        """The policy of the views."""
        return self.schedule.policy

    def __len__(self) -> int:
        """Batches of one epoch on this rank."""
        return len(self.schedule)

    def __enter__(self) -> "ViewLoader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends all threads and frees the backend; safe to call twice."""
        self._end()

    def set_epoch(self, epoch: int) -> None:
        """The epoch that the next loop goes through: from its start, or from where `load_state_dict` put it."""
        epoch = whole("epoch", epoch)
        if epoch != self.epoch:
            self.epoch, self._step, self._start = epoch, 0, 0

    def __iter__(self) -> Iterator[Batch]:
        if not self._end.alive:
            raise RuntimeError("this loader has been closed")
        self._maker.begin_here()
        epoch, start = self.epoch, self._start
        self._step, self._start = start, 0
        if not self._producers or self._producers[0].next != (epoch, start):
            _stop(self._producers)
            self._producers.append(Producer(self._maker, (epoch, start), len(self), self.prefetch))
        producer = self._producers[0]
        for step in range(start, len(self)):
            began = time.perf_counter()
            made = producer.get()
            self.wait_seconds += time.perf_counter() - began
            for name, more in made.counts.items():
                self._counts[name] += more
            # Before the batch is handed out: a state taken while it is in use counts it as done.
            self.epoch, self._step, self._start = epoch, step + 1, 0
            if self._step == len(self):
                self.epoch, self._step = epoch + 1, 0
            yield made.take()

    def state_dict(self) -> dict[str, Any]:
        """Where the loader stands, as plain values: batches handed out so far count as done."""
        s = self.schedule
        return {
            "epoch": self.epoch,
            "step": self._step,
            "seed": s.seed,
            "batch_size": s.batch_size,
            "drop_last": s.drop_last,
            "images": len(s.rows),
            "backgrounds": len(s.rows) if s.backgrounds is None else len(s.backgrounds),
            "policy": s.policy.to_json(),
            "boxes": self._digest,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on where `state_dict` was taken, on any backend and number of ranks.

        Raises UserError where the seed, policy, images, their boxes or global batch differ, since the views would then
        differ too. A state of a version that kept nothing of the boxes is taken as it is. The state is for the next
        loop: one that is not left goes on as it was.
        """
        mine = self.state_dict()
        what = "" if isinstance(state, dict) else f"is a {type(state).__name__}"
        if not what and (missing := sorted(mine.keys() - {"boxes"} - state.keys())):
            what = f"lacks {', '.join(missing)}"
        if what:
            raise UserError(f"cannot resume: the state {what}; give load_state_dict what state_dict returned")
        if state.get("boxes", mine["boxes"]) != mine["boxes"]:
            raise UserError(
                "cannot resume: the images or their boxes are not those that the views began with. Use the box file of "
                "then, or start anew"
            )
        for name in ("seed", "batch_size", "drop_last", "images", "backgrounds", "policy"):
            was = Policy.from_json(state[name]).to_json() if name == "policy" else state[name]
            if was != mine[name] and name == "policy":
                differ = (key for key in was if was[key] != mine[name][key])
                told = "; ".join(f"{key} was {was[key]}, now it is {mine[name][key]}" for key in differ)
                raise UserError(f"cannot resume: the policy's {told}")
            if was != mine[name]:
                raise UserError(f"cannot resume: {name} was {was}, now it is {mine[name]}")
        for name, end in (("epoch", float("inf")), ("step", len(self))):
            if not isinstance(state[name], int) or not 0 <= state[name] < end:
                last = "" if end == float("inf") else f", below {end}"
                raise UserError(f"cannot resume: {name}={state[name]!r}: must be a whole number, at least 0{last}")
        self.epoch, self._step = state["epoch"], state["step"]
        self._start = self._step

    def report(self) -> dict[str, Any]:
        """Counts so far: batches, samples, images decoded, views whose rectangle was capped, images replaced."""
        bad = {self.images.path(row): reason for row, reason in sorted(self._maker.bad.items())}
        return {**self._counts, "bad_files": bad, "wait_seconds": round(self.wait_seconds, 3)}


def _shut_down(maker: Maker, producers: list[Producer]) -> None:
    _stop(producers)
    maker.close()


def _stop(producers: list[Producer]) -> None:
    while producers:
        producers.pop().stop()
