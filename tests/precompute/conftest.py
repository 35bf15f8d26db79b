"""Commands run inside the test process: the same `main` as on the command line, without the seconds of start-up."""

import importlib
import subprocess
from collections.abc import Callable

import pytest

from precompute.base import program as programs


@pytest.fixture
def run_here(capsys: pytest.CaptureFixture[str]) -> Callable[..., subprocess.CompletedProcess]:
    """`run_here("precompute.boxes", "--dataset", "cub", ...)`, with the outcome as `run_module` gives it."""

    def run(module: str, *arguments: object) -> subprocess.CompletedProcess:
        program = importlib.import_module(module).program
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            programs.main(program, [*map(str, arguments)])
        shown = capsys.readouterr()
        assert isinstance(stopped.value.code, int)
        return subprocess.CompletedProcess([module], stopped.value.code, shown.out, shown.err)

    return run


@pytest.fixture
def boxes(run_here: Callable[..., subprocess.CompletedProcess]) -> Callable[..., subprocess.CompletedProcess]:
    """`boxes(*flags, status=0)` runs the boxes command, which must end with that status and without a traceback."""

    def run(*arguments: object, status: int = 0):
        done = run_here("precompute.boxes", *arguments)
        assert done.returncode == status, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done

    return run
