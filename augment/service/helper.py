"""A helper: decodes and cuts the batches of other processes' trainings, as a pure function of (stream, place)."""

import json
import os
import platform
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from augment import backends
from augment.backends.fused import FusedBackend
from augment.request import Making, Source
from augment.service.stream import Stream, difference, pictures_of, this_maker
from augment.stream.maker import BatchMaker
from augment.stream.pictures import schedule_of
from augment.views.plan import Plan
from precompute.base.boxfile import BoxCache
from precompute.base.errors import UserError
from precompute.base.program import cores

_NO_ALPHA = np.empty(0, np.uint8)
MOST_STREAMS = 8  # that are kept open; one more closes the one that was asked for longest ago


@dataclass(frozen=True)
class Answer:
    """What a helper says about the crops it sends."""

    decoded: int
    bad: dict[str, str]  # row: reason, of the batch's own images that had to be replaced
    sources: list[int] | None = None  # where images were replaced: the rows that are in the batch
    backgrounds: list[list[int]] | None = None

    def to_json(self) -> str:
        return json.dumps(vars(self))

    @staticmethod
    def from_json(text: str) -> "Answer":
        return Answer(**json.loads(text))


def located(source: Source) -> Source:
    """The source with absolute paths: helpers are begun in other folders than programs that name them."""

    def pair(boxes: Any, root: Any) -> tuple[Any, str]:
        cache = opened(boxes)
        return boxes if cache is boxes else os.path.abspath(boxes), os.path.abspath(cache.folder(root))

    boxes, root = pair(source.boxes, source.root)
    return replace(source, boxes=boxes, root=root, backgrounds=tuple(pair(*one) for one in source.background_sets))


def opened(boxes: Any) -> BoxCache:
    """A box file, which may be open already."""
    return boxes if isinstance(boxes, BoxCache) else BoxCache.open(boxes)


class Helper:
    """Made in a process of its own. It finds box files and images itself; no request names a path."""

    def __init__(self, source: Source, workers: int) -> None:
        """`workers`: threads that decode and cut; 0: one per core."""
        sets = tuple((opened(boxes), root) for boxes, root in source.background_sets)
        self._source = replace(source, boxes=opened(source.boxes), backgrounds=sets, own_backgrounds=True)
        self._workers = workers or cores()
        self._open: OrderedDict[str, BatchMaker] = OrderedDict()
        self._lock = threading.Lock()
        self._began = time.monotonic()
        self._done = {"batches": 0, "samples": 0, "decoded": 0}
        self._busy = 0.0

    def admit(self, stream: str) -> str:
        """Opens a stream. The reason where this helper must not serve it; else empty."""
        try:
            self._maker(stream)
        except UserError as error:
            return str(error)
        return ""

    def cut(self, stream: str, epoch: int, step: int) -> tuple[np.ndarray, str]:
        """The crops of a batch, uint8 [bytes] as `layout.lay_out` describes them, and an `Answer`.

        The array is used again by the next call. Raises UserError where the stream is not admitted.
        """
        maker, began = self._maker(stream), time.monotonic()
        backend = maker.backend
        assert isinstance(backend, FusedBackend)
        alpha = maker.schedule.policy.kind.maps

        def cut(plan: Plan, files: Sequence[bytes]) -> np.ndarray:
            # Opacities stay with the trainer; that there are some decides which scenes are needed.
            return backend.cut(replace(plan, alpha=_NO_ALPHA) if alpha else plan, files)[0]

        prepared, crops = maker.with_good_files(maker.prepare((epoch, step)), cut)
        plan, bad = prepared.plan, {str(row): maker.bad[row] for row in prepared.bad}
        rows = (plan.sources.tolist(), plan.backgrounds.tolist()) if bad else ()
        decoded = backend.decoded(prepared.files)
        for name, more in (("batches", 1), ("samples", len(plan)), ("decoded", decoded)):
            self._done[name] += more
        self._busy += time.monotonic() - began
        return crops, Answer(decoded, bad, *rows).to_json()

    def report(self) -> dict[str, Any]:
        """What it has done since it began: batches, samples, images decoded; seconds, and those of work."""
        seconds = time.monotonic() - self._began
        return {
            **self._done, "seconds": round(seconds, 3), "busy": round(self._busy, 3), "streams": len(self._open),
            "host": platform.node(), "pid": os.getpid(),
        }  # fmt: skip

    def close(self) -> None:
        """Ends all threads."""
        while self._open:
            self._open.popitem()[1].close()

    def _maker(self, text: str) -> BatchMaker:
        with self._lock:
            if text not in self._open:
                self._open[text] = self._opened(Stream.from_json(text))
                if len(self._open) > MOST_STREAMS:
                    self._open.popitem(last=False)[1].close()
            self._open.move_to_end(text)
            return self._open[text]

    def _opened(self, stream: Stream) -> BatchMaker:
        making = Making(
            backend=stream.maker.kernel, device="cpu", workers=self._workers, check=stream.check, say=lambda _: None
        )
        source, policy, batch_size, seed, share = stream.settings(self._source)
        backend = backends.build(making.backend, policy, making, batch_size // share.world)
        try:
            if wrong := difference(this_maker(backend.name), stream.maker):
                raise UserError(wrong)
            images, schedule = schedule_of(source, policy, batch_size, seed, share, making.say)
            if (here := pictures_of(images, schedule)) != stream.pictures:
                raise UserError(
                    f"the helper's box file has other pictures or boxes: their digest is {here}, the trainer's "
                    f"{stream.pictures}"
                )
        except BaseException:
            backend.close()
            raise
        return BatchMaker(images, schedule, backend, making)
