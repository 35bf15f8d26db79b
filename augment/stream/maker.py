"""Making batches: plans, files, pixels, and stand-ins for files that went bad.

    place (epoch, step)
      → plan: draw, read the files (× workers)      thread augment-prepare, threads augment-read
      → begin                                       the backend may decode ahead (× 2 batches on CUDA)
      → render: decode, cut, colour, blur, turn     the backend's threads, or the GPU
      → queue (× prefetch)                          `augment.stream.producer.Producer`
      → the training loop

Three batches are under way at once: one is rendered, the next is begun, and the files of the one after that are read.
Nothing here refers to the loader, so a loader that is dropped without being closed can end its threads.
"""

import itertools
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import numpy as np
import torch
from torch import Tensor

from augment.backends import native
from augment.backends.protocol import Backend
from augment.backends.threads import share_out
from augment.request import Making
from augment.stream.alpha import MapFolder, with_alpha
from augment.stream.batch import Batch
from augment.stream.files import FileReader
from augment.stream.handover import Handover, put
from augment.stream.imageset import ImageSet
from augment.stream.producer import Made, Place, check_process
from augment.views.plan import Plan, draw
from augment.views.schedule import Schedule
from precompute.base.errors import BadFile, UserError

T = TypeVar("T")
Data: TypeAlias = Any  # bytes, or a memoryview of some: see `Backend.buffers`


def turned(views: tuple[Tensor, ...], turns: np.ndarray) -> tuple[Tensor, ...]:
    """Views [N, 3, S, S] turned in place by `turns` [N, V] quarter turns each, counter-clockwise.

    The last step, and the same pixels moved: so one function serves every backend.
    """
    if not turns.any():
        return views
    for v, view in enumerate(views):
        for turn in (1, 2, 3):
            rows = np.flatnonzero(turns[:, v] == turn)
            if len(rows):
                chosen = torch.from_numpy(rows).to(view.device, non_blocking=True)
                view[chosen] = view[chosen].rot90(turn, (2, 3))
    return views


@dataclass(frozen=True, eq=False)
class Prepared:
    """A plan and the checked bytes of its images; empty bytes for images that the backend holds decoded."""

    place: Place
    plan: Plan
    files: list[Data]
    bad: tuple[int, ...]  # rows whose files are bad, among those that this batch asked for
    replaced: int


class BatchMaker:
    """The `Maker` of this process: plans, files read ahead by threads of its own, and a backend that renders them.

    `augment.stream.loader.ViewLoader` says what happens to bad files.
    """

    def __init__(
        self, images: ImageSet, schedule: Schedule, backend: Backend, making: Making, maps: MapFolder | None = None
    ) -> None:
        """`making`: where the backend's views are (`device`), and how files are read."""
        self.images, self.schedule, self.backend, self.maps = images, schedule, backend, maps
        self.making = making.settled()
        self._handover = Handover(torch.device(self.making.device))
        self.bad: dict[int, str] = {}  # row: reason, of files that could not be read or decoded
        self._undecodable: set[int] = set()
        self._workers = self.making.workers or 1
        self._readers = ThreadPoolExecutor(self._workers, thread_name_prefix="augment-read")
        self._ahead = ThreadPoolExecutor(1, thread_name_prefix="augment-prepare")
        self._reader = self._at_once() if self.backend.buffers and self.making.check == "size" else None
        self._process: int | None = None  # whose threads these are, once they have begun

    def begin_here(self) -> None:
        """See `Maker`. Raises RuntimeError where batches were begun in another process."""
        check_process(self._process)
        self._process = os.getpid()

    def status(self) -> Mapping[str, Any]:
        """See `Maker`."""
        return {}

    def close(self) -> None:
        """Ends the threads and frees the backend."""
        self._ahead.shutdown(cancel_futures=True)
        self._readers.shutdown(cancel_futures=True)
        self.backend.close()

    def producing(self) -> AbstractContextManager:
        """The context in which batches are made: see `Handover`."""
        return self._handover.producing()

    def make(self, places: Iterator[Place]) -> Iterator[Made]:
        """See `Maker`, and the drawing above."""
        reading: deque[Future[Prepared]] = deque()
        begun: deque[Prepared] = deque()
        with self.producing():
            for place in places:
                reading.append(self._ahead.submit(self.prepare, place))
                if len(reading) == 2:
                    begun.append(reading.popleft().result())
                    try:
                        self.backend.begin(begun[-1].plan, begun[-1].files)
                    except Exception:
                        self.backend.reset()  # `render` will begin it again, meet the same error and find the bad file
                if len(begun) == 2:
                    yield self.render(begun.popleft())

    def render(self, prepared: Prepared) -> Made:
        """The batch of `prepared`, or its like with stand-ins for files that cannot be decoded."""
        prepared, views = self.with_good_files(prepared, self.backend.render)
        decoded = self.backend.decoded(prepared.files)
        return self.finished(prepared.plan, views, decoded, prepared.replaced)

    def with_good_files(self, prepared: Prepared, work: Callable[[Plan, Sequence[Data]], T]) -> tuple[Prepared, T]:
        """`work(plan, files)` and what it was done of: where it fails on a bad file, it is done again without that."""
        while True:
            try:
                return prepared, work(prepared.plan, prepared.files)
            except Exception:
                self.backend.reset()
                if not self._find_undecodable(prepared):
                    raise
            prepared = self.prepare(prepared.place)

    def finished(self, plan: Plan, views: tuple[Tensor, ...], decoded: int, replaced: int) -> Made:
        """The batch of a backend's views, with what it adds to the loader's report."""
        return self.made(plan, turned(views, plan.turns), decoded, replaced)

    def made(self, plan: Plan, views: tuple[Tensor, ...], decoded: int, replaced: int) -> Made:
        """The batch of finished views."""
        numbers = plan.finished_rects, plan.sources, plan.backgrounds, self.images.labels[plan.sources]
        rects, sources, backgrounds, labels = (put(torch.from_numpy(x), self._handover.device) for x in numbers)
        counts = {
            "batches": 1, "samples": len(plan), "decoded": decoded, "capped": int(plan.capped.sum()),
            "replaced": replaced,
        }  # fmt: skip
        return Made(Batch(views, rects, sources, backgrounds, labels, plan), counts, self._handover.give())

    def _find_undecodable(self, prepared: Prepared) -> bool:
        """After a failure: decodes the batch's files one by one, and returns whether one of them is bad."""
        read = zip(prepared.plan.images.tolist(), prepared.files, strict=True)
        files = {row: bytes(data) for row, data in read if data}
        reasons = self._readers.map(self.images.diagnose, files.keys(), files.values())
        bad = {row: reason for row, reason in zip(files, reasons, strict=True) if reason is not None}
        for row, reason in bad.items():
            self.note(row, BadFile(self.images.path(row), reason))
        self._undecodable |= set(bad)
        return bool(bad)

    def prepare(self, place: Place) -> Prepared:
        """Draws the plan of a batch and reads its files; bad ones are replaced."""
        plan, replaced = self.schedule.plan(self.images.pool, *place), 0
        rows = plan.images.tolist()
        files = self._contents(rows)
        if any(data is None for data in files.values()):  # `None in` would compare the contents of buffers
            plan, replaced = self.replanned(plan, place[0], *self._stand_ins(plan, place, files))
        bad = tuple(row for row, data in files.items() if data is None)
        plan = self.with_opacities(plan)
        return Prepared(place, plan, [files[row] or b"" for row in plan.images.tolist()], bad, replaced)

    def _contents(self, rows: list[int]) -> dict[int, Data | None]:
        """What `_read` gives for each of the rows."""
        files: dict[int, Data | None] = {}
        if self._reader is not None:
            left = [row for row in rows if row not in self._undecodable and not self.backend.holds(row)]
            found = self.images.read_many(np.array(left, np.int64), self._reader)
            files = {row: data for row, data in zip(left, found, strict=True) if data is not None}
        left = [row for row in rows if row not in files]
        return files | dict(
            zip(left, share_out(self._readers, self._workers, self._read, [(r,) for r in left]), strict=True)
        )

    def _at_once(self) -> FileReader | None:
        """What reads a batch's files; None, which is said, where it cannot be built."""
        try:
            library = native.load(self.making.say)
        except native.NotBuilt as error:
            self.making.say(f"files are read one by one, which is slower: {error}")
            return None
        readers, workers = self._readers, self._workers
        return FileReader(library, lambda work: share_out(readers, workers, work, [()] * workers, here=True))

    def with_opacities(self, plan: Plan) -> Plan:
        """The plan with the opacities of its patches, where the policy pastes by maps."""
        if self.maps is None:
            return plan
        pool = self.images.pool
        return with_alpha(plan, self.maps, np.stack((pool.widths, pool.heights), axis=1)[plan.sources])

    def replanned(self, plan: Plan, epoch: int, sources: np.ndarray, backgrounds: np.ndarray) -> tuple[Plan, int]:
        """The plan drawn again for stand-ins (rows, as the plan's own), and how many there are."""
        s, pool = self.schedule, self.images.pool
        again = draw(s.policy, pool, sources, backgrounds, seed=s.seed, epoch=epoch, keys=plan.sources)
        return again, int((again.sources != plan.sources).sum() + (again.backgrounds != plan.backgrounds).sum())

    def _stand_ins(self, plan: Plan, place: Place, files: dict[int, Data | None]) -> tuple[np.ndarray, np.ndarray]:
        """Sources and backgrounds of the plan with good images in place of bad ones; adds to `files`."""
        epoch, boxed = place[0], self.images.pool.has_box
        sources, backgrounds = plan.sources.copy(), plan.backgrounds.copy()
        for i, row in enumerate(plan.sources.tolist()):
            sources[i] = good = self._good(epoch, row, files)
            for v, other in enumerate(plan.backgrounds[i].tolist()):
                if other == row and (boxed[good] or not self.schedule.policy.kind.pastes):
                    # A view in its own scene stays in one, that of the stand-in: it needs no other image.
                    backgrounds[i, v] = good
                    continue
                if other == row:  # no scene of its own without a box: the background that it would have had
                    other = int(self.schedule.pick(*place)[1][i, v])
                backgrounds[i, v] = self._good(epoch, other, files, good)
        return sources, backgrounds

    def _good(self, epoch: int, row: int, files: dict[int, Data | None], without: int | None = None) -> int:
        """`row`, or its first stand-in, with a good file and another picture than `without`; adds to `files`."""

        def allowed(other: int) -> bool:
            return without is None or not self.schedule.alike(other, without)

        for other in filter(allowed, itertools.chain([row], self.schedule.stand_ins(row, epoch))):
            if other not in files:
                files[other] = self._read(other)
            if files[other] is not None:
                return other
        raise UserError(
            f"no good image is left to stand in for {self.images.path(row)}; "
            "mend the image folder or run precompute.boxes again"
        )

    def _read(self, row: int) -> bytes | None:
        """The file's bytes; None where it is bad and may be replaced."""
        if row in self._undecodable:
            return None
        if self.backend.holds(row):
            return b""
        try:
            return self.images.read(row, self.making.check)
        except BadFile as error:
            self.note(row, error)
            return None

    def note(self, row: int, error: BadFile) -> None:
        """Reports a bad file, once; raises BadFile where bad files are not replaced."""
        if self.making.on_bad == "fail":
            raise BadFile(error.path, f"{error.reason} (on_bad=replace would take another image instead)")
        if row not in self.bad:
            self.bad[row] = error.reason
            self.making.say(f"bad file, replaced by another image: {error}")
