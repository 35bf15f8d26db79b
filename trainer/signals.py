"""SIGTERM and SIGINT: within the training loop they are heard after the step, elsewhere they end the program."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from precompute.cli import Interrupted, raised


@dataclass
class Stop:
    """Whether a signal asked to stop."""

    is_set: bool = False


@contextmanager
def stop_signal() -> Iterator[Stop]:
    """SIGTERM and SIGINT ask the loop to save and end after its step; a second one ends it at once."""
    stop = Stop()
    before: dict[int, Any] = {int(n): signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)}

    def ask(number: int, _: object) -> None:
        stop.is_set = True
        signal.signal(number, before[number])

    with _handled(before, ask):
        yield stop


@contextmanager
def ending() -> Iterator[None]:
    """SIGTERM ends the program as Ctrl-C does: KeyboardInterrupt comes out of the block, files half written are gone.

    Under torchrun SIGTERM keeps its own meaning: it must end a process that waits in native code for one that died.
    """
    numbers = [signal.SIGINT] if int(os.environ.get("WORLD_SIZE", 1)) > 1 else [signal.SIGTERM, signal.SIGINT]
    with raised(numbers) as came:
        try:
            yield
        except BaseException as error:
            if came:  # whatever follows it: within `threading` it may come out as a lock that was not acquired
                raise Interrupted from error
            raise


@contextmanager
def held_back() -> Iterator[None]:
    """SIGTERM and SIGINT wait for the end of the block: of heavy imports, where C code swallows what a handler raises.

    (NumPy, asked for by torch, is then there by half: "module 'numpy' has no attribute 'matrix'".)
    """
    came: list[int] = []
    before: dict[int, Any] = {int(n): signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)}
    with _handled(before, lambda number, _: came.append(number)):
        yield
    if came:
        signal.raise_signal(came[0])


@contextmanager
def _handled(before: dict[int, Any], handler: Any) -> Iterator[None]:
    """`handler` in place of those in `before`, by signal number, for the length of the block."""
    for number in before:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
