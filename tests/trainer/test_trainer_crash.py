"""Every prefix of a training run's system calls, replayed as what a kill or a power cut would leave; then a resume.

How they are recorded and replayed: crash_disk.py. Kills of a real process by the clock: test_trainer_kills.py.
"""

import random
import shutil
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from crash_disk import Disk, Inode, Replay, lay_out, outcomes, record
from trainer_runs import TINY, assert_same_run

from trainer.record import checkpoint, metrics
from trainer.run import program

CHECKPOINTS = (checkpoint.NAME, checkpoint.PREVIOUS)


def steps_in(body: bytes) -> list[int]:
    """The steps of the whole lines of a metrics.jsonl."""
    lines = [line for line in body.decode(errors="replace").splitlines() if line.startswith("{") and line.endswith("}")]
    rows = [row for line in lines if "\x00" not in line for row in [metrics.json.loads(line)]]
    return [row["step"] for row in rows if row["kind"] == "step"]


def replay(calls: list, top: Path, rng: random.Random) -> tuple[list[dict[str, bytes | None]], Disk]:
    """The different outcomes of all prefixes of the calls, each checked; and the disk after the last call."""
    disk = Disk(str(top))
    apply, before, seen = Replay(disk), deepcopy(disk), {}
    whole: dict[int, int] = {}  # hash of every checkpoint that was renamed into place: its step
    for call in calls:
        if not apply(*call):
            continue
        if call[0] == "rename" and call[2][1].decode().endswith("/" + checkpoint.NAME):
            inode = disk.at(call[2][1].decode())
            assert inode is not None
            whole[hash(inode.written)] = len(whole)  # --save-every 1: one at each step, from 0 on
        for state, names, data in outcomes(disk, before, 1, rng):
            files = state.contents(state.folders if names == "folders" else state.lasting, data, rng)
            seen.setdefault(tuple(sorted((path, hash(body)) for path, body in files.items())), files)
            found = {name: files.get(f"run/{name}") for name in CHECKPOINTS}
            steps = {name: whole[hash(body)] for name, body in found.items() if body is not None}  # whole, or KeyError
            if checkpoint.NAME in steps:
                newest = steps[checkpoint.NAME]
                assert newest - steps.get(checkpoint.PREVIOUS, newest) in (0, 1)
                assert set(range(1, newest + 1)) <= set(steps_in(files[f"run/{metrics.NAME}"] or b""))
            else:
                assert checkpoint.PREVIOUS not in steps
        before = deepcopy(disk)
    return list(seen.values()), disk


def kill_everywhere(boxes: Path, demo_root: Path, tmp_path: Path, flags: list[str], resumes: int) -> None:
    """Replays a run; goes on from `resumes` of the outcomes to the same end as the unbroken run."""
    top = tmp_path / "top"
    top.mkdir()
    (tmp_path / "log").mkdir()
    start = ["--boxes", str(boxes), "--root", str(demo_root), *TINY, "--save-every", "1", *flags, "--out"]
    calls = record("trainer.run", [*start, str(top / "run")], tmp_path / "log" / "calls")
    shutil.move(top / "run", tmp_path / "unbroken")
    different, disk = replay(calls, top, random.Random(0))
    files = disk.contents(disk.folders, "written", random.Random(0))  # the replay ends where the run did
    unbroken = {f"run/{p.name}": p.read_bytes() for p in (tmp_path / "unbroken").iterdir()}
    assert {path: body for path, body in files.items() if body is not None} == unbroken
    assert all(isinstance(inode, Inode) for inode in disk.folders[str(top / "run")].values())
    # Evenly over the run's life, with its first and last instants.
    chosen = [different[round(i)] for i in torch.linspace(0, len(different) - 1, resumes).tolist()]
    for files in chosen:
        shutil.rmtree(top)
        lay_out(top, files)
        begun = f"run/{checkpoint.NAME}" in files
        assert program(["--resume", str(top / "run")] if begun else [*start, str(top / "run")]) == 0
        assert_same_run(top / "run", tmp_path / "unbroken")
    print(f"{len(calls)} calls, {len(different)} different outcomes, {len(chosen)} of them resumed")


def test_prefixes_of_a_runs_calls(demo_boxes: Path, demo_root: Path, tmp_path: Path) -> None:
    flags = ["--pipeline", "kornia", "--epochs", "1", "--no-evaluate"]
    kill_everywhere(demo_boxes, demo_root, tmp_path, flags, resumes=4)


@pytest.mark.slow
@pytest.mark.parametrize("pipeline", ["kornia", "fused"])
def test_prefixes_of_a_runs_calls_with_its_evaluation(
    demo_boxes: Path, demo_root: Path, tmp_path: Path, pipeline: str
) -> None:
    flags = ["--pipeline", pipeline, "--epochs", "2"]
    kill_everywhere(demo_boxes, demo_root, tmp_path, flags, resumes=60)
