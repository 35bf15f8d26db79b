"""Carrying made batches from one process to another: our way on Ray, Ray Data's and Arrow Flight's.

The bytes of a batch lie ready where they come from, so that all CPU time is that of the carrying. Where they arrive, a
byte of every page is read: all of it must be there.
"""

import importlib
import threading
import time
from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np

from benchmarks.readers import Worker
from precompute.base.errors import UserError
from precompute.base.parent import end_with_parent

PAGE = 4096
BLOCKS = 256  # batches of a data set of Ray Data's; then it begins another
AHEAD = 2  # batches under way, as the service has them for one helper


def payload(count: int) -> np.ndarray:
    """The bytes of a batch, uint8 [count]: no byte is like the next, and pages differ."""
    return np.random.default_rng(0).integers(0, 256, count, np.uint8)


class Carrier(Worker):
    """The process where batches arrive; `begin` starts the one they come from."""

    def __init__(self, count: int) -> None:
        """`count`: bytes of a batch."""
        self.count = count
        self._expected = int(payload(count)[::PAGE].sum())
        self._batches = self.begin()

    def begin(self) -> Iterator[np.ndarray]:
        """Endless batches, uint8 [count]."""
        raise NotImplementedError

    def carry(self, batches: int) -> None:
        """Takes so many batches. UserError where one is not what was sent."""
        for _ in range(batches):
            if int(next(self._batches)[::PAGE].sum()) != self._expected:
                raise UserError(f"{type(self).__name__}: other bytes came than were sent")


class Sender:
    """A helper whose batches lie ready, for the service's own client."""

    def __init__(self, count: int) -> None:
        self._crops = payload(count)

    def admit(self, stream: str) -> str:
        """Takes every stream."""
        return ""

    def cut(self, stream: str, epoch: int, step: int) -> tuple[np.ndarray, str]:
        """As `Helper.cut`."""
        return self._crops, "{}"


class Ours(Carrier):
    """As the service carries crops: a helper's answers, a few asked for ahead."""

    def begin(self) -> Iterator[np.ndarray]:
        from augment.service.cluster import Fleet, as_helper, connect

        ray = connect(None)
        sender = as_helper(ray, Sender, ray.get_runtime_context().get_node_id(), "benchmark").remote(self.count)
        fleet = Fleet(ray, "", lambda line: None, [sender])
        while not fleet.ready:
            time.sleep(0.05)
        (name,) = fleet.ready

        def batches() -> Iterator[np.ndarray]:
            asked = deque(fleet.ask(name, 0, step) for step in range(AHEAD))
            while True:
                reference = asked.popleft()
                while not fleet.done(reference, 1):
                    continue
                crops, _ = fleet.take(reference)
                asked.append(fleet.ask(name, 0, 0))
                yield crops

        return batches()


class RayData(Carrier):
    """Ray Data: a data set of batches that an actor makes, read ahead. It begins before the timer does."""

    def begin(self) -> Iterator[np.ndarray]:
        from augment.service.cluster import connect

        connect(None, cpus=2)
        data: Any = importlib.import_module("ray.data")

        data.DataContext.get_current().enable_progress_bars = False
        count = self.count

        class Make:
            def __init__(self) -> None:
                self._crops = payload(count)[None]

            def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
                return {"crops": self._crops}

        def batches() -> Iterator[np.ndarray]:
            while True:
                made = data.range(BLOCKS, override_num_blocks=BLOCKS)
                made = made.map_batches(Make, batch_size=1, compute=data.ActorPoolStrategy(size=1))
                for batch in made.iter_batches(batch_size=1, prefetch_batches=AHEAD, batch_format="numpy"):
                    yield batch["crops"][0]

        return batches()


class Flight(Carrier):
    """Arrow Flight: a server that streams record batches, on loopback."""

    def begin(self) -> Iterator[np.ndarray]:
        import multiprocessing

        flight: Any = importlib.import_module("pyarrow.flight")
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        self._server = context.Process(target=serve_flight, args=(self.count, theirs), daemon=True)
        self._server.start()
        self._client = flight.connect(f"grpc://127.0.0.1:{ours.recv()}")

        def batches() -> Iterator[np.ndarray]:
            reader = self._client.do_get(flight.Ticket(b"crops"))
            while True:
                yield reader.read_chunk().data.column(0).to_numpy()

        return batches()

    def close(self) -> None:
        self._server.kill()
        self._server.join()


def serve_flight(count: int, pipe: Any) -> None:
    """A Flight server that streams a batch of `count` bytes without end; its port goes to `pipe`."""
    end_with_parent()
    pa: Any = importlib.import_module("pyarrow")
    flight: Any = importlib.import_module("pyarrow.flight")
    batch = pa.record_batch([pa.array(payload(count))], names=["crops"])

    class Server(flight.FlightServerBase):
        def do_get(self, context: Any, ticket: Any) -> Any:
            def forever() -> Iterator[Any]:
                while True:
                    yield batch

            return flight.GeneratorStream(batch.schema, forever())

    server = Server("grpc://127.0.0.1:0")
    pipe.send(server.port)
    threading.Event().wait()


# Name of an arm: the process, and what it needs.
CARRIERS: dict[str, tuple[type[Carrier], tuple[str, ...]]] = {
    "ours: crops on Ray": (Ours, ("ray",)),
    "Ray Data": (RayData, ("ray", "pyarrow", "pandas")),
    "Arrow Flight": (Flight, ("pyarrow",)),
}
