"""What all tests share: the real photographs beside the checkout, and programs run as a user runs them."""

import importlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from precompute.base.program import main
from precompute.base.ranks import end_with_launcher

end_with_launcher()  # the benchmarks' programs begin tests too
ROOT = Path(__file__).resolve().parent.parent
# Idle OpenMP threads sleep instead of spinning: with other work on the same cores a step is several times faster.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# A shell starts what it puts into the background (`make test &` in a script) with Ctrl-C ignored, and all processes
# started from there inherit that. Tests send Ctrl-C to themselves and to programs.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _threads() -> tuple[int, str | None]:
    """How many threads torch has before the first test, and what the environment says of it."""
    import torch

    return torch.get_num_threads(), os.environ.get("OMP_NUM_THREADS")


@pytest.fixture(autouse=True)
def _threads_are_put_back(_threads: tuple[int, str | None]) -> Iterator[None]:
    """Sums depend on the number of threads, here and in child processes. The benchmarks' programs set it for good."""
    import torch

    yield  # after each test, so that a module's fixtures have them too
    count, told = _threads
    if torch.get_num_threads() != count:
        torch.set_num_threads(count)
    if told is None:
        os.environ.pop("OMP_NUM_THREADS", None)
    else:
        os.environ["OMP_NUM_THREADS"] = told


@pytest.fixture(autouse=True)
def _folders_are_not_waited_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that a test takes away stays away: users' programs wait a minute for it, most tests a moment."""
    monkeypatch.setattr("precompute.base.away.LIMIT", 3.0)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real photographs, `../shared/data`; tests that need it are skipped where it is absent."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no real photographs here: {folder} does not exist")
    return folder


@pytest.fixture(scope="session")
def run_module() -> Callable[..., subprocess.CompletedProcess]:
    """`run_module("precompute.boxes", "--dataset", "cub", cwd=..., timeout=...)` as a subprocess of the checkout."""

    def run(module: str, *arguments: object, cwd: Path = ROOT, timeout: float = 300, **env: str):
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))  # packages may lie there
        environment = os.environ | {"PYTHONPATH": path} | env
        command = [sys.executable, "-m", module, *map(str, arguments)]
        return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=timeout)

    return run


@pytest.fixture
def run_here(capsys: pytest.CaptureFixture[str]) -> Callable[..., subprocess.CompletedProcess]:
    """`run_here("precompute.boxes", "--dataset", "cub", ...)`: `main` without a process of its own."""

    def run(module: str, *arguments: object) -> subprocess.CompletedProcess:
        program = importlib.import_module(module).program
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main(program, [*map(str, arguments)])
        shown = capsys.readouterr()
        assert isinstance(stopped.value.code, int)
        return subprocess.CompletedProcess([module], stopped.value.code, shown.out, shown.err)

    return run


@pytest.fixture(scope="session")
def demo_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small demo set (96 images), made once a session."""
    from precompute.demo import make_demo

    root = tmp_path_factory.mktemp("demo") / "demo"
    make_demo(root, images=96, quiet=True)
    return root


@pytest.fixture(scope="session")
def demo_boxes(
    demo_root: Path, tmp_path_factory: pytest.TempPathFactory, run_module: Callable[..., subprocess.CompletedProcess]
) -> Path:
    """The box file of `demo_root`, made by the program once a session."""
    out = tmp_path_factory.mktemp("boxes") / "demo.h5"
    done = run_module("precompute.boxes", "--dataset", "demo", "--root", demo_root, "--out", out)
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="session")
def cub_boxes(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The box file of the real CUB photographs, their annotated boxes, made once a session."""
    from precompute.boxes import make_boxes

    out = tmp_path_factory.mktemp("cub") / "cub.h5"
    make_boxes("cub", root=str(shared_data / "CUB_200_2011"), out=str(out), say=lambda line: None)
    return out
