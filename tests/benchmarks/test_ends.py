"""A benchmark that is killed leaves no process behind that measures on and disturbs the next one."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# Says that it is there, and works for long.
LONG = "import os, time\ndef work(*_):\n    open('pid', 'w').write(str(os.getpid()))\n    time.sleep(600)\n"
PROGRAM = f"{LONG}from precompute.base.program import main\nmain(work)\n"
FILES = {
    "benchmarks/__init__.py": "",
    "benchmarks/throughput.py": PROGRAM,  # in place of the real one
    "worker.py": f"{LONG}serve = work\nclass Reader:\n    __init__ = work\n",
}
# How a benchmark begins a process of its own: what is imported, and what is done in the folder of these files.
BEGINNINGS = {
    "round": ("from benchmarks import throughput as t", "t._round(t.ThroughputSettings(), 0)"),
    "stage": ("from benchmarks import stages", f"stages.run_limited(['-c', {PROGRAM!r}], 600, {{}})"),
    "checkout": ("from benchmarks import child as c", "c.__file__ = 'child.py'; c.Child('worker.py', c.ROOT)"),
    "reader": (
        "from benchmarks import readers",
        "import contextlib, worker; readers.Readers(worker.Reader, [{}], contextlib.ExitStack())",
    ),
}


@pytest.mark.parametrize("what", BEGINNINGS)
def test_what_a_killed_benchmark_began_ends_too(what: str, tmp_path: Path) -> None:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    imports, begin = BEGINNINGS[what]
    code = f"import os\n{imports}\nos.chdir({str(tmp_path)!r})\n{begin}"
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"}
    benchmark = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=environment)
    pid = tmp_path / "pid"
    try:
        wait(lambda: pid.exists() and pid.read_text() and benchmark.poll() is None)
        benchmark.kill()
        wait(lambda: ended(int(pid.read_text())))
    finally:
        benchmark.kill()
        benchmark.wait()
        if pid.exists() and not ended(int(pid.read_text())):
            os.kill(int(pid.read_text()), signal.SIGKILL)


def wait(until: Callable[[], object]) -> None:
    """Fails after half a minute."""
    deadline = time.monotonic() + 30
    while not until():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def ended(pid: int) -> bool:
    """Also where nobody has waited for it yet."""
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text().rsplit(")", 1)[1].split()[0] == "Z"
