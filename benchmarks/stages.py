"""Programs run one after the other, each in a process of its own with a time limit, and a JSON file of each at once."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from precompute.base.files import replacing
from precompute.base.parent import ASKED

TAIL = 4000  # characters that are kept of what a program says


def run_limited(
    command: Sequence[str],
    limit: float | None,
    environment: Mapping[str, str],
    out: Any = None,
    begun: Callable[[int], object] = lambda pid: None,
) -> int | None:
    """Exit status of `python COMMAND`; None where it took longer than `limit` seconds.

    It is ended with all the processes that it has started. `out`: a file for all that it says; `begun(pid)` is called.
    """
    process = subprocess.Popen(
        [sys.executable, *command],
        env=os.environ | environment | {ASKED: "1"},
        stdout=out,
        stderr=None if out is None else subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        begun(process.pid)
        return process.wait(limit)
    except subprocess.TimeoutExpired:
        return None
    finally:  # also at Ctrl-C, which the session of its own does not get
        with suppress(ProcessLookupError):  # nothing is left of it
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def run_stage(
    name: str, command: Sequence[str], shown: str, limit: float, environment: Mapping[str, str], folder: Path
) -> dict[str, Any]:
    """Runs one stage and writes FOLDER/NAME.json: when it begins, and when it has ended, however it ends.

    `shown`: the command as the file says it. What the stage prints goes to NAME.log while it runs; every line of it
    that is a JSON object is kept as one of its `results`, so a stage that is cut off leaves what it had.
    """
    log, path = folder / f"{name}.log", folder / f"{name}.json"
    folder.mkdir(parents=True, exist_ok=True)
    document: dict[str, Any] = {"stage": name, "command": shown, "limit_s": round(limit, 1), "status": "running"}
    began = time.monotonic()
    with log.open("w") as out:
        status = run_limited(
            command, limit, environment, out, lambda pid: write(path, document | {"process": pid, "results": []})
        )
    text = log.read_text(errors="replace")
    document["status"] = "cut off" if status is None else "failed" if status else "done"
    document |= {"exit": status, "seconds": round(time.monotonic() - began, 1), "results": results_in(text)}
    if document["status"] != "done":
        document["said"] = text[-TAIL:]
    write(path, document)
    return document


def results_in(text: str) -> list[dict[str, Any]]:
    """The lines that are JSON objects."""
    found = []
    for line in text.splitlines():
        if line.startswith("{"):
            try:
                found.append(json.loads(line))
            except ValueError:  # half a line of a stage that was cut off
                continue
    return found


def write(path: Path, document: dict[str, Any]) -> None:
    """Whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(document, indent=1) + "\n")
