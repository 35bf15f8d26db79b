"""The boxes command, run inside the test process."""

import subprocess
from collections.abc import Callable

import pytest


@pytest.fixture
def boxes(run_here: Callable[..., subprocess.CompletedProcess]) -> Callable[..., subprocess.CompletedProcess]:
    """`boxes(*flags, status=0)` runs the boxes command, which must end with that status and without a traceback."""

    def run(*arguments: object, status: int = 0):
        done = run_here("precompute.boxes", *arguments)
        assert done.returncode == status, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done

    return run
