"""Lets a process end soon after the one that began it. Imports nothing of the project: it is run beside older code."""

import os
import signal
import threading
import time

PARENT = os.getppid()  # as early as can be: the parent may die while this process imports
LOOK_EVERY = 1.0  # seconds between two looks at the parent
GRACE = 10.0  # seconds to end in
ASKED = "END_WITH_PARENT"  # set in the environment of a program: it is to end so, and so are those that it begins


def end_with_parent(ask: int = signal.SIGTERM, grace: float = GRACE) -> None:
    """Lets this process get the signal `ask` once its parent has ended; it is killed where that has not ended it.

    Every system with processes has a parent's number to look at; Linux alone has a signal for its death, which could
    not wait for what a program does at its end.
    """

    def watch() -> None:
        while os.getppid() == PARENT:
            time.sleep(LOOK_EVERY)
        os.kill(os.getpid(), ask)
        time.sleep(grace)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="watch-parent", daemon=True).start()
