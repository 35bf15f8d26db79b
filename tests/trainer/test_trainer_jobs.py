"""Runs of a comparison side by side: as those of one after the other, to the byte.

What is imported here every run's process imports too.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors import safe_open

from trainer.compare import run_one
from trainer.comparison.arms import arm_of
from trainer.comparison.jobs import side_by_side, waves
from trainer.config.run import RunConfig

ROOT = Path(__file__).resolve().parents[2]
ARMS = ("byol:saliencyswap", "cvsa:saliencyswap")


def test_side_by_side_equals_one_after_the_other(
    demo_boxes: Path, demo_root: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    memory = tmp_path / "memory"
    memory.mkdir()
    flags = ["--boxes", demo_boxes, "--root", demo_root, "--arch", "resnet10w8", "--size", 32, "--epochs", 1,
             "--batch-size", 16, "--device", "cpu", "--pipeline", "fused", "--workers", 1,
             "--log-every", 1]  # fmt: skip
    encoders = []
    for jobs in (1, 3):
        out = tmp_path / str(jobs)
        shared = ["--cache", "shared", "--shared-dir", memory] if jobs > 1 else []
        arms = [
            arm_of(name, [*map(str, flags + shared)], out) for name in (*ARMS, "byol:rrc")
        ]  # the last has other views
        for wave in waves([(replace(arm, values=arm.values | {"evaluate": False}), 0) for arm in arms], jobs):
            assert (run_one(wave[0][0][0], 0) if jobs == 1 else side_by_side(run_one, wave)) == 0
        encoders.append([(path.parent.name, path.read_bytes()) for path in sorted(out.glob("*/encoder.safetensors"))])
    assert encoders[0] == encoders[1]
    assert len(encoders[0]) == len(ARMS) + 1
    shown = capfd.readouterr().out
    assert len(re.findall(r"decoded pictures take .* for them", shown)) == 3
    assert re.search(r"2 trainings share: \d+ batches made, \d+ taken, 0 made alone", shown)
    assert not list(memory.iterdir())
    assert all(f"\n[{name} seed 0] == {name}" in "\n" + shown for name in ARMS)


def runs(tmp_path: Path, *names: str) -> list:
    flags = ["--boxes", str(tmp_path / "none.h5"), "--device", "cpu"]
    return [(arm_of(name, flags, tmp_path), 0) for name in names]


def test_runs_of_equal_views_share_a_ring(tmp_path: Path) -> None:
    first, second = waves(runs(tmp_path, "byol:rrc", *ARMS), 2)
    assert [arm.name for (arm, _), _ in first] == [*ARMS]
    (name, count), other = (ring for _, ring in first)
    assert (bool(name), count) == (True, 2)
    assert other == (name, 2)
    assert [(arm.name, ring) for (arm, _), ring in second] == [("byol:rrc", ("", 1))]
    for wave in waves(runs(tmp_path, *ARMS), 1):
        assert [ring for _, ring in wave] == [("", 1)]


def test_runs_side_by_side_decode_each_picture_once(tmp_path: Path) -> None:
    from trainer.comparison.jobs import _with_pictures_in_common as shared

    def caches(*names: str) -> list[str]:
        (wave,) = waves(runs(tmp_path, *names), len(names))
        return sorted(arm.config(seed).making.cache for (arm, seed), _ in shared(wave))

    assert caches(*ARMS, "byol:rrc") == ["shared"] * 3
    assert caches("byol:rrc") == ["off"]  # alone
    chosen = (
        "byol:rrc --cache ram",
        "byol:saliencyswap --cache off",
        "simclr:rrc --decode scaled",
        "mocov2:rrc --pipeline kornia",
    )
    assert caches(*chosen) == ["off"] * 3 + ["ram"]


def one_fails(arm, seed, ring) -> int:
    """A run of no training: the second arm's fails."""
    (arm.out / seed_file(arm.name)).write_text(json.dumps(ring))
    return 3 if arm.name == ARMS[1] else 0


def seed_file(name: str) -> str:
    return name.replace(":", "-") + ".json"


def test_a_run_that_fails_gives_its_status_and_the_others_end(tmp_path: Path) -> None:
    (wave,) = waves(runs(tmp_path, *ARMS), 2)
    assert side_by_side(one_fails, wave) == 3
    told = [json.loads((tmp_path / seed_file(name)).read_text()) for name in ARMS]
    assert told[0] == told[1]


def test_files_of_equal_weights_are_equal(tmp_path: Path) -> None:
    """safetensors writes a file's metadata in a random order."""
    from trainer.model.resnets import build_encoder
    from trainer.record.export import save_encoder

    encoder, config = build_encoder("resnet10w8"), RunConfig()
    files = {save_encoder(encoder, tmp_path, config).read_bytes() for _ in range(8)}
    assert len(files) == 1
    with safe_open(tmp_path / "encoder.safetensors", "pt") as file:
        assert file.metadata()["arch"] == config.model.arch
        assert file.get_tensor("conv1.weight").equal(encoder.state_dict()["conv1.weight"])


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc here: processes cannot be seen")
def test_runs_of_a_killed_comparison_save_and_end(demo_boxes: Path, demo_root: Path, tmp_path: Path) -> None:
    """A folder that one still trains in would be locked against the comparison that goes on."""
    flags = ["--boxes", demo_boxes, "--root", demo_root, "--arch", "resnet10w8", "--size", 32, "--epochs", 9999,
             "--batch-size", 16, "--device", "cpu", "--workers", 1, "--save-every", 10**6]  # fmt: skip
    command = ["trainer.compare", "--jobs", 2, "--seeds", 1, "--out", tmp_path, "--arms", *ARMS, "--", *flags]
    log = tmp_path / "log"
    with log.open("wb") as said:
        comparison = subprocess.Popen(
            [sys.executable, "-m", *map(str, command)], cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=said, stderr=subprocess.STDOUT,
        )  # fmt: skip
    begun: list[str] = []
    try:
        wait(lambda: all(f"[{name} seed 0] epoch 2" in log.read_text() for name in ARMS))
        begun = subprocess.run(["pgrep", "-P", str(comparison.pid)], capture_output=True, text=True).stdout.split()
        comparison.kill()
        comparison.wait()
        wait(lambda: not any(Path(f"/proc/{pid}").exists() for pid in begun))
    finally:
        comparison.kill()
        for pid in begun:
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
    assert log.read_text().count("and saved. Go on with") == 2


def wait(until: Callable[[], object]) -> None:
    """Fails after two minutes."""
    deadline = time.monotonic() + 120
    while not until():
        assert time.monotonic() < deadline
        time.sleep(0.1)
