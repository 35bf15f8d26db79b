"""What a loader needs of whoever makes its batches (`Maker`), and the thread that makes them ahead of it."""

import os
import queue
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from augment.stream.batch import Batch
from augment.stream.handover import Handover

Place = tuple[int, int]  # epoch, and step within it
COUNTS = ("batches", "samples", "decoded", "capped", "replaced")


@dataclass(frozen=True, eq=False)
class Made:
    """A batch on its way to the consumer."""

    batch: Batch
    counts: Mapping[str, int]  # what it adds to the loader's report, by the names of COUNTS
    event: Any  # of CUDA, recorded behind the work that makes the batch; None on a CPU

    def take(self) -> Batch:
        """The batch, for the caller's current stream."""
        batch = self.batch
        Handover.take(self.event, (*batch.views, batch.rects, batch.sources, batch.backgrounds, batch.labels))
        return batch


class Maker(Protocol):
    """Makes the batches of a `ViewLoader`, which knows nothing else of it: here (`BatchMaker`), or in another process.

    `make(places)` yields the batch of each place in the order of `places`, and may take some places ahead; a batch is a
    pure function of its place. It runs in the thread of a `Producer`; an error ends it, and the loader raises it. When
    the loader turns to another place, it drops this iterator and calls `make` again. An event `wanted`, where the maker
    has one, is set while the loader waits for a batch.
    `begin_here()` is called before every loop: it raises RuntimeError in a process that cannot make batches.
    `bad` maps rows to the reasons why their files were replaced. `status()` is what else the loader's report shows.
    `close()` frees everything; it may be called twice.
    """

    @property
    def bad(self) -> Mapping[int, str]: ...

    def begin_here(self) -> None: ...

    def make(self, places: Iterator[Place]) -> Iterator[Made]: ...

    def status(self) -> Mapping[str, Any]: ...

    def close(self) -> None: ...


def check_process(begun: int | None) -> None:
    """RuntimeError in another process than `begun`, the one whose threads have begun (None: none have)."""
    if begun not in (None, os.getpid()):
        raise RuntimeError(
            "views were opened and begun in another process, whose threads a fork does not copy: "
            "call open_views in the process that uses them, or start processes by spawn"
        )


class Producer:
    """A thread that makes batches from a place onwards, epoch after epoch, a few ahead of the consumer."""

    def __init__(self, maker: Maker, start: Place, steps: int, ahead: int) -> None:
        """`steps`: batches of an epoch; `ahead`: how many may lie ready."""
        self.next = start  # the place whose batch `get` returns next
        self._steps = steps
        self._queue: queue.Queue[Any] = queue.Queue(max(ahead, 1))
        self._stopping = threading.Event()
        self._process = os.getpid()
        self._wanted: threading.Event = getattr(maker, "wanted", threading.Event())
        self._thread = threading.Thread(target=self._run, args=(maker, start), name="augment-produce", daemon=True)
        self._thread.start()

    def get(self) -> Made:
        """The next batch; raises what its making raised, RuntimeError in a forked process, which has no thread."""
        self._wanted.set()
        try:
            item = self._wait()
        finally:
            self._wanted.clear()
        if isinstance(item, BaseException):
            self._queue.put(item)  # for the next call
            raise item
        self.next = self._after(self.next)
        return item

    def _wait(self) -> Any:
        """The queue's next item; never waits for a thread that is gone."""
        check_process(self._process)
        while True:
            alive = self._thread.is_alive()  # asked first: what it put before it ended is in the queue by then
            try:
                return self._queue.get(timeout=1.0)
            except queue.Empty:
                if not alive:
                    raise RuntimeError("the thread that makes batches is gone: open the views again") from None

    def stop(self) -> None:
        """Ends the thread; batches that were made ahead are thrown away."""
        self._stopping.set()
        while self._thread.is_alive():
            while not self._queue.empty():
                self._queue.get_nowait()
            self._thread.join(0.01)

    def _after(self, place: Place) -> Place:
        epoch, step = place
        return (epoch, step + 1) if step + 1 < self._steps else (epoch + 1, 0)

    def _places(self, place: Place) -> Iterator[Place]:
        while not self._stopping.is_set():
            yield place
            place = self._after(place)

    def _run(self, maker: Maker, start: Place) -> None:
        try:
            for item in maker.make(self._places(start)):
                self._put(item)
                if self._stopping.is_set():
                    return
        except BaseException as error:
            self._put(error)

    def _put(self, item: Any) -> None:
        while not self._stopping.is_set():
            try:
                return self._queue.put(item, timeout=0.1)
            except queue.Full:
                continue
