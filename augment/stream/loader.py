"""Epochs of batches, made in the background while the training loop computes."""

import time
import weakref
from collections.abc import Iterable, Iterator, Mapping
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

    A file that went bad after the boxes were made is reported once and counted in `report()`. With on_bad="replace"
    (the default) the next good image of its group in the epoch's order replaces it (a background: the next that is not
    the source); with on_bad="fail" it raises `BadFile`. The other views do not change.
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
        self._producers: list[Producer] = []  # the present producer, if there is one
        # Runs also when the loader is garbage, and before the interpreter ends: it would crash if threads were then in
        # native code.
        self._end = weakref.finalize(self, _shut_down, images, maker, self._producers)

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
        """Makes the next loop go on where `state_dict` was taken, on any backend and number of ranks.

        Raises UserError where the seed, policy, images, boxes or global batch differ, since the views would then differ
        too. States of older versions have no fingerprint of the boxes; they are accepted without it.
        """
        now = self.state_dict()
        wrong = "" if isinstance(state, dict) else f"is a {type(state).__name__}"
        if not wrong and (missing := sorted(now.keys() - {"boxes"} - state.keys())):
            wrong = f"lacks {', '.join(missing)}"
        if wrong:
            raise UserError(f"cannot resume: the state {wrong}; give load_state_dict what state_dict returned")
        if state.get("boxes", now["boxes"]) != now["boxes"]:
            raise UserError(
                "cannot resume: the images or their boxes are not those that the views began with. Use the box file of "
                "then, or start anew"
            )
        policy = Policy.from_json(state["policy"]).to_json()
        _compare("the policy's ", policy, now["policy"], policy)
        _compare("", state, now, ("seed", "batch_size", "drop_last", "images", "backgrounds"))
        for name, end in (("epoch", float("inf")), ("step", len(self))):
            if not isinstance(state[name], int) or not 0 <= state[name] < end:
                last = "" if end == float("inf") else f", below {end}"
                raise UserError(f"cannot resume: {name}={state[name]!r}: must be a whole number, at least 0{last}")
        self.epoch, self._step = state["epoch"], state["step"]
        self._start = self._step

    def report(self) -> dict[str, Any]:
        """Counts so far: batches, samples, images decoded, views whose rectangle was capped, images replaced."""
        bad = {self.images.path(row): reason for row, reason in sorted(self._maker.bad.items())}
        waited = round(self.wait_seconds, 3)
        return {**self._counts, "bad_files": bad, "wait_seconds": waited, **self._maker.status()}


def _compare(what: str, was: Mapping[str, Any], now: Mapping[str, Any], names: Iterable[str]) -> None:
    """Raises UserError with all values of those names that differ."""
    if changes := [f"{name} was {was[name]}, now it is {now[name]}" for name in names if was[name] != now[name]]:
        raise UserError(f"cannot resume: {what}{'; '.join(changes)}")


def _shut_down(images: ImageSet, maker: Maker, producers: list[Producer]) -> None:
    images.close()  # first: the producer may wait for a folder
    _stop(producers)
    maker.close()


def _stop(producers: list[Producer]) -> None:
    while producers:
        producers.pop().stop()
