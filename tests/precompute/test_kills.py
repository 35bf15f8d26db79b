"""SIGKILL of everything at random instants, launcher and workers alike, for 1, 2 and 4 processes; then completion."""

import os
import random
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
KILLS = {1: 16, 2: 17, 4: 17}  # by number of processes: 50 in all
MARK = "SALIENCYSWAP_TEST_RUN"


class Run:
    """One run of the boxes command with all its descendants, which an own variable in their environment tells apart.

    torchrun's workers are sessions of their own and outlive it, so neither its process group nor its children will do.
    """

    def __init__(self, processes: int, *arguments: object) -> None:
        launch = ["-m", "precompute.boxes"]
        if processes > 1:
            launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), *launch]
        self._mark = f"{MARK}={uuid.uuid4()}"
        name, value = self._mark.split("=")
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", name: value}
        quiet = subprocess.DEVNULL
        command = [sys.executable, *launch, *map(str, arguments)]
        self._launcher = subprocess.Popen(command, env=environment, stdout=quiet, stderr=quiet)

    def running(self) -> bool:
        return self._launcher.poll() is None

    def members(self) -> list[int]:
        """Process ids of all that still live."""
        found = []
        for folder in Path("/proc").iterdir():
            try:
                if folder.name.isdigit() and self._mark.encode() in (folder / "environ").read_bytes().split(b"\0"):
                    found.append(int(folder.name))
            except OSError:  # it ended meanwhile, or is another user's
                continue
        return found

    def kill(self) -> int:
        """SIGKILL to every process, again until none is left. Returns how many there were."""
        killed: set[int] = set()
        while alive := self.members():
            for process in alive:
                try:
                    os.kill(process, signal.SIGKILL)
                    killed.add(process)
                except ProcessLookupError:
                    continue
            self._launcher.poll()
            time.sleep(0.01)
        self._launcher.wait()
        return len(killed)


def duration(processes: int, *arguments: object) -> float:
    """Seconds of an unbroken run."""
    started = time.monotonic()
    run = Run(processes, *arguments)
    try:
        assert run._launcher.wait(timeout=180) == 0
    finally:
        run.kill()
    return time.monotonic() - started


def shards_of(out: Path) -> list[Path]:
    """The parts of `out` that lie there already."""
    return list(out.parent.glob(f".{out.name}.shards/*/*.h5"))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="no /proc here: descendants cannot be found")
def test_fifty_kills_at_random_instants(run_here, demo_root, tmp_path):
    common = ("--dataset", "demo", "--root", demo_root, "--source", "geodesic", "--shard", 2)
    assert run_here("precompute.boxes", *common, "--out", tmp_path / "unbroken.h5").returncode == 0
    expected = (tmp_path / "unbroken.h5").read_bytes()
    rng = random.Random(0)
    told = []
    for processes, wanted in KILLS.items():
        out = tmp_path / f"out{processes}" / "x.h5"
        whole = duration(processes, *common, "--out", tmp_path / f"whole{processes}.h5")
        kills, killed, shards_left, came_through = 0, [], [], 0
        while kills < wanted:
            before = len(shards_of(out))
            run = Run(processes, *common, "--out", out, "--rebuild")
            if kills % 3 == 0:  # among the shards, however short their time is on this machine
                while run.running() and len(shards_of(out)) <= before:
                    time.sleep(0.001)
            else:  # half of the others anywhere, half in the last third, where the file is written
                time.sleep(whole * rng.uniform(0.03 if kills % 2 else 0.65, 1))
            alive = run.running()
            count = run.kill()
            kills += alive
            came_through += not alive
            if alive:
                killed.append(count)
                shards_left.append(len(shards_of(out)))
            assert came_through < 50
            if out.exists():
                assert out.read_bytes() == expected
        done = run_here("precompute.boxes", *common, "--out", out)
        assert done.returncode == 0, done.stderr
        assert out.read_bytes() == expected
        assert os.listdir(out.parent) == ["x.h5"]
        assert max(killed) > processes - 1 + (processes > 1)  # the launcher and all of its workers, at least once
        assert any(0 < left < 48 for left in shards_left)  # some kills fell among the shards
        told.append(
            f"{processes} processes, {whole:.1f} s unbroken: {kills} kills (of {sorted(killed)} processes at a time; "
            f"parts left behind {sorted(shards_left)}), {came_through} runs came through; then the same file"
        )
    print("\n".join(told))
    assert sum(KILLS.values()) == 50
