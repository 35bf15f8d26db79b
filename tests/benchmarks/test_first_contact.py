"""The first contact with a GPU, on the CPU: all its stages run, and what befalls one costs the others nothing."""

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import pytest

from benchmarks import first_contact, results, stages
from precompute.base.errors import UsageError

ROOT = Path(__file__).parents[2]
ALL = [(device, name) for device, table in first_contact.STAGES.items() for name in table]
FLAGS = ["--batch", "8", "--size", "32", "--threads", "2", "--minutes", "30"]


class Parsed(Exception):
    """The command line was understood."""


def shown(device: str, name: str) -> str:
    return first_contact.STAGES[device][name][1].format(batch=8, size=32, threads=2)


@pytest.mark.parametrize(("device", "name"), ALL, ids=[f"{device}-{name}" for device, name in ALL])
def test_stages_are_understood(device: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also those that only a GPU can run."""
    command = first_contact.command_of(shown(device, name), first_contact.Photographs(boxes=str(tmp_path / "x.h5")))
    if command[1] == "pytest":
        collected = subprocess.run([sys.executable, *command, "--collect-only"], cwd=ROOT, capture_output=True)
        assert collected.returncode == 0
        return
    if command[0].endswith(".py"):
        assert Path(command[0]).is_file()
        monkeypatch.syspath_prepend(str(Path(command[0]).parent))
        module, flags = importlib.import_module(Path(command[0]).stem), command[1:]
        monkeypatch.setattr(module, "compare", lambda config: (_ for _ in ()).throw(Parsed))
    else:
        module, flags = importlib.import_module(command[1]), command[2:]

        def parse(*arguments):
            from benchmarks import program

            program.parse(*arguments)
            raise Parsed

        monkeypatch.setattr(module, "parse", parse)
    with pytest.raises(Parsed):
        module.program(flags)


def run(boxes: Path, root: Path, out: Path, *more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.first_contact", "--boxes", str(boxes), "--root", str(root)]
    return subprocess.run([*command, "--out", str(out), *FLAGS, *more], cwd=ROOT, capture_output=True, text=True)


def document(folder: Path, name: str) -> dict:
    return json.loads((folder / f"{name}.json").read_text())


def test_a_killed_stage_costs_the_others_nothing(boxes: Path, demo_root: Path, tmp_path: Path) -> None:
    """The decoder's stage is killed from outside as soon as it runs, as the kernel does where memory is short."""
    killed: list[int] = []

    def kill() -> None:
        while not killed:
            time.sleep(0.02)
            if (tmp_path / "decoder.json").exists() and "process" in (now := document(tmp_path, "decoder")):
                assert now["status"] == "running"
                os.kill(now["process"], signal.SIGKILL)
                killed.append(now["process"])

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    done = run(boxes, demo_root, tmp_path, "--only", "decoder", "device")
    assert done.returncode == 1, done.stderr
    assert killed
    assert document(tmp_path, "decoder")["status"] == "failed"
    assert document(tmp_path, "decoder")["exit"] == -signal.SIGKILL
    imports, facts, photographs, rates = document(tmp_path, "device")["results"]
    assert imports["imports"]["torch"] > 0
    assert facts["machine"]["cores"] > 0
    assert photographs["photographs"]["count"] == 96
    assert rates["rates"]["copy_gigabytes_per_second"] > 0
    states = {"decoder": "failed", "device": "done"}
    assert document(tmp_path, "summary") == {"device": "cpu", "stages": states}


def test_a_stage_that_hangs_is_cut_off_with_its_processes(tmp_path: Path) -> None:
    code = """
import json, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(json.dumps({"child": child.pid}), flush=True)
print('{"half": ', end="", flush=True)
time.sleep(600)
"""
    done = stages.run_stage("slow", ["-c", code], "slow", 3.0, {}, tmp_path)
    assert done == document(tmp_path, "slow")
    assert (done["status"], done["exit"]) == ("cut off", None)
    (kept,) = done["results"]
    deadline = time.monotonic() + 10
    while Path(f"/proc/{kept['child']}").exists() and time.monotonic() < deadline:
        if "State:\tZ" in Path(f"/proc/{kept['child']}/status").read_text():  # nobody has waited for it yet
            break
        time.sleep(0.05)
    else:
        assert not Path(f"/proc/{kept['child']}").exists()


def test_what_there_is_no_time_for_is_named(boxes: Path, demo_root: Path, tmp_path: Path) -> None:
    flags = ["--boxes", str(boxes), "--root", str(demo_root), "--out", str(tmp_path)]
    assert first_contact.program([*flags, "--minutes", "0.01", "--only", "step", "device"]) == 1
    assert document(tmp_path, "step")["status"] == document(tmp_path, "device")["status"] == "left for want of time"
    with pytest.raises(UsageError, match="--only typo"):
        first_contact.program([*flags, "--only", "typo"])


def in_this_process(command, limit, environment, out, begun):
    """As `stages.run_limited`, but what everybody imports is imported once. Triton's interpreter needs a process."""
    if "--run" in command:
        return run_limited(command, limit, environment, out, begun)
    begun(os.getpid())
    if command[0] == "-m":
        module, flags = importlib.import_module(command[1]), command[2:]
    else:
        module, flags = importlib.import_module(Path(command[0]).stem), command[1:]
    with warnings.catch_warnings(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        warnings.simplefilter("default")
        return module.program(flags)


run_limited = stages.run_limited
COMPILED = "modes"  # takes a minute: the slow test has it


def check_all_done(folder: Path, names: list[str]) -> None:
    """Every stage has its file, and in it what it measured."""
    said = "\n".join(document(folder, name).get("said", "") for name in names)
    assert document(folder, "summary")["stages"] == dict.fromkeys(names, "done"), said
    for name, benchmark in (("decoder", "decoder"), ("stream", "stream"), ("step", "step"), (COMPILED, "step")):
        if name in names:
            whole = document(folder, name)["results"][-1]
            results.validate(whole)
            assert whole["benchmark"] == benchmark
            assert (whole.get("choice") in ("eager", "default")) == (name == COMPILED)
    (views,) = document(folder, "views-fused")["results"]
    assert {row["stage"] for row in views["rows"]} == {"all, linear", "zoom", "jitter, torchvision"}
    compiled = document(folder, "kernels")["results"]
    assert len(compiled) == 13
    assert not any(line["faults"] for line in compiled)
    timed = document(folder, "kernel-times")["results"][1:]
    assert [set(line["ms"]) for line in timed] == [{"crop_kernel", "mean_kernel", "view_kernel", "blur_kernel"}] * 3


def test_all_stages_run_in_one_process(
    boxes: Path, demo_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("nvidia.dali")
    pytest.importorskip("triton")
    monkeypatch.setattr(stages, "run_limited", in_this_process)
    monkeypatch.syspath_prepend(str(ROOT / "tests/augment"))
    names = [name for name in first_contact.STAGES["cpu"] if name != COMPILED]
    flags = ["--boxes", str(boxes), "--root", str(demo_root), "--out", str(tmp_path), "--only", *names]
    assert first_contact.program([*flags, "--batch", "4", "--size", "32", "--threads", "2", "--minutes", "30"]) == 0
    check_all_done(tmp_path, names)


@pytest.mark.slow
def test_all_stages_run_on_a_cpu(boxes: Path, demo_root: Path, tmp_path: Path) -> None:
    pytest.importorskip("nvidia.dali")
    pytest.importorskip("triton")
    done = run(boxes, demo_root, tmp_path)
    assert done.returncode == 0, done.stdout
    check_all_done(tmp_path, list(first_contact.STAGES["cpu"]))
