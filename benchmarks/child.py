"""A process that runs the code of one checkout and measures it, asked and answering in lines of JSON.

Two of them, of two checkouts, take turns: so what a change costs is seen on a machine that is not quiet.
"""

import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from precompute.base import parent
from precompute.base.errors import UserError

ROOT = Path(__file__).resolve().parent.parent  # of this checkout
# It ends with its parent, by this checkout's code: others may be older than that.
START = """import json, runpy, sys
runpy.run_path(sys.argv[3])["end_with_parent"]()
runpy.run_path(sys.argv[1])["serve"](**json.loads(sys.argv[2]))"""


class Child:
    """A process that runs `serve` of a file of this folder; what that imports of the project is the checkout's.

    It runs in the virtual environment .venv of another checkout, where there is one.
    """

    def __init__(self, worker: str, checkout: Path, **given: Any) -> None:
        """`worker`: the file's name, `given`: arguments of its `serve`. UserError where the process ends."""
        self._checkout = checkout
        python = checkout / ".venv" / "bin" / "python"
        own = python.exists() and checkout.resolve() != ROOT
        command = [str(python) if own else sys.executable, "-P", "-c", START, str(Path(__file__).with_name(worker))]
        self._process = subprocess.Popen(
            [*command, json.dumps(given), parent.__file__],
            env=os.environ | {"PYTHONPATH": str(checkout.resolve()), "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.about = self._answer()  # what it says of itself

    def ask(self, question: Any) -> Any:
        """The answer to a JSON value. UserError where the process has ended."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # `_answer` says it
            print(json.dumps(question), file=self._process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        if not (line := self._process.stdout.readline()):
            raise UserError(f"{self._checkout}: its worker ended with status {self._process.wait()}; see above")
        return json.loads(line)

    def end(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.communicate()
