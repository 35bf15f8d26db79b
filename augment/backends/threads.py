"""Runs many small tasks on a pool of threads."""

import itertools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any


def share_out(
    threads: ThreadPoolExecutor,
    count: int,
    function: Callable[..., Any],
    tasks: Sequence[tuple[Any, ...]],
    here: bool = False,
) -> list[Any]:
    """The results of `function(*task)` for all tasks, in order, computed by `count` of the threads.

    `here`: the caller is one of them, which saves a change of threads.

    Each thread takes the next task by itself: with one future a task, the waiting thread would wake up each time
    (measured: 0.1 ms a decoded image, 0.04 ms a file read). All threads are done when this returns. Raises the first
    error of a task; the tasks that are left are then skipped.
    """
    numbers = itertools.count()
    results: list[Any] = [None] * len(tasks)

    def work() -> None:
        while (i := next(numbers)) < len(tasks):
            try:
                results[i] = function(*tasks[i])
            except BaseException:
                for _ in range(len(tasks)):  # leaves no task for the other threads
                    next(numbers)
                raise

    futures = [threads.submit(work) for _ in range(min(count, len(tasks)) - here)]
    try:
        if here:
            work()
    finally:
        errors = [error for future in futures if (error := future.exception()) is not None]
    if errors:
        raise errors[0]
    return results
