"""Three processes, where two would hide a mistake: a ring of two turns the same way round in both directions."""

import json
import os
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from trainer_runs import assert_same_training
from trainer_three_ranks import DEADLINE, WORLD, store, whole_run

from trainer.parallel.batchnorm import AllReduceBatchNorm, synchronise_batch_norm
from trainer.parallel.stop_vote import StopVote
from trainer.run import program

ROOT = Path(__file__).resolve().parent.parent.parent
RANKS = range(WORLD)
WHOLE = torch.arange(24.0).view(12, 2)


@pytest.fixture(scope="module")
def folder(demo_boxes: Path, demo_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What all of them wrote."""
    out, stores = tmp_path_factory.mktemp("three"), [store() for _ in range(3)]
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    script = Path(__file__).with_name("trainer_three_ranks.py")
    command = [sys.executable, script, out, demo_boxes, demo_root, *(one.port for one in stores)]
    done = subprocess.run(
        list(map(str, command)), cwd=ROOT, env=env, capture_output=True, text=True, timeout=3 * DEADLINE
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return out


@pytest.fixture(scope="module")
def seen(folder: Path) -> dict[str, list[Any]]:
    """Of every part, what each process saw, by rank."""
    found = [json.loads((folder / f"parts-{rank}.json").read_text()) for rank in RANKS]
    return {part: [one[part] for one in found] for part in found[0]}


def test_every_sample_gets_what_the_one_before_it_has(seen: dict[str, list[Any]]) -> None:
    """The batch of all processes is one ring, and it turns one way."""
    for name, expected in (("own_rows", WHOLE), ("rolled", WHOLE.roll(1, 0))):
        assert torch.equal(torch.tensor([one[name] for one in seen["rows"]]).flatten(0, 1), expected), name


@pytest.mark.parametrize("name", ["gather", "gather_columns", "gather_differentiable"])
def test_what_is_gathered_lies_by_rank(seen: dict[str, list[Any]], name: str) -> None:
    assert all(torch.equal(torch.tensor(one[name]), WHOLE) for one in seen["rows"])
    assert all(one["gradient_is_of_all"] for one in seen["rows"])


def test_means_are_of_all_processes(seen: dict[str, list[Any]]) -> None:
    assert [one["average_of_known"] for one in seen["rows"]] == [{"a": 3.5}] * WORLD
    assert [one["average"] for one in seen["rows"]] == [{"a": 1.0, "b": 10.0}] * WORLD


def test_all_stop_at_the_same_step_whoever_was_asked(seen: dict[str, list[Any]]) -> None:
    (step, _), *others = [one["one"] for one in seen["votes"]]
    assert 6 < step <= 6 + 2 * StopVote.EVERY
    assert [other for other, _ in others] == [step] * (WORLD - 1)
    assert [one["nobody"] for one in seen["votes"]] == [[None, [False, False]]] * WORLD


def test_all_save_at_the_same_steps_whosever_clock_asked(seen: dict[str, list[Any]]) -> None:
    steps, *others = [one["steps"] for one in seen["saves"]]
    assert others == [steps] * (WORLD - 1)
    assert len(steps) > 3
    assert all(6 < after - before <= 6 + 2 * StopVote.EVERY for before, after in pairwise(steps))


def test_a_checkpoints_means_are_of_all_processes(seen: dict[str, list[Any]]) -> None:
    assert [one["means"] for one in seen["sums"]] == [{"loss": 6.0, "alignment": 1.0}] * WORLD
    assert [one["empty"] for one in seen["sums"]] == [{}] * WORLD


def test_a_request_with_the_last_step_is_heard_by_all_after_it(seen: dict[str, list[Any]]) -> None:
    """And once: a vote that was read is over."""
    assert [one["with_the_last_step"] for one in seen["votes"]] == [[None, [True, False]]] * WORLD
    assert [one["after_the_last_vote"] for one in seen["votes"]] == [[None, [False, True]]] * WORLD


def test_a_run_that_is_stopped_with_its_last_step_is_stopped_in_all(folder: Path) -> None:
    """Nobody goes on to the export and the evaluation, which may take long."""
    assert [json.loads((folder / f"run-{rank}.json").read_text()) for rank in RANKS] == [130] * WORLD
    assert (folder / "run" / "checkpoint.pt").exists()
    assert not (folder / "run" / "encoder.safetensors").exists()


def test_three_processes_equal_one(folder: Path, demo_boxes: Path, demo_root: Path, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    assert program(whole_run(str(demo_boxes), str(demo_root), tmp_path / "one")) == 0
    said, errors = ([(folder / f"{name}-{rank}.txt").read_text() for rank in RANKS] for name in ("said", "errors"))
    assert not any(f"{ROOT}/trainer" in text for text in errors), "a warning about a line of ours"
    assert [text.count("training: ") for text in said] == [1, 0, 0]  # the first process alone talks
    assert (folder / "three" / "evaluation.json").exists()
    assert_same_training(tmp_path / "one", folder / "three")


def test_a_run_that_goes_on_with_fewer_processes_says_so(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    shutil.copytree(folder / "three", tmp_path / "three")
    for note in (True, False):
        assert program(["--resume", str(tmp_path / "three"), "--no-evaluate"]) == 0
        said = capsys.readouterr().out
        assert ("note: begun with 3 ranks, now with 1; only as many as then are bit-equal" in said) == note
        header = tmp_path / "three" / "metrics.jsonl"
        header.write_text(header.read_text().replace('"world": 3, ', ""))  # as an older run's


def test_the_first_is_alone_in_the_block_and_the_others_follow(seen: dict[str, list[Any]]) -> None:
    first, *others = seen["alone"]
    assert first["ended"] - first["began"] >= 0.4
    assert all(other["began"] >= first["ended"] for other in others)


def test_where_the_first_fails_the_others_do_not_begin(seen: dict[str, list[Any]]) -> None:
    first, *others = seen["refused"]
    assert (first["entered"], first["error"]) == (True, "FileExistsError")
    assert [other["entered"] for other in others] == [False] * (WORLD - 1)
    assert all(other["error"] is not None for other in others)


def test_batch_norm_over_three_processes_is_batch_norm_of_the_whole_batch(seen: dict[str, list[Any]]) -> None:
    for rank, one in enumerate(seen["batch_norm"]):
        assert all(one.values()), (rank, one)


def test_synchronised_layers_have_the_parameters_that_they_had() -> None:
    """The very same ones, which an optimizer may hold; frozen ones stay frozen, numbers and kinds stay."""
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Sequential(nn.BatchNorm1d(4, eps=0.1))).double()
    net[1].requires_grad_(False).eval()
    for buffer in net.buffers():
        buffer += torch.randint(2, 5, buffer.shape)
    parameters, state = dict(net.named_parameters()), {k: v.clone() for k, v in net.state_dict().items()}
    assert synchronise_batch_norm(net, "cpu") is net
    first, second = net[1], net[2][0]  # type: ignore[index]
    assert all(isinstance(layer, AllReduceBatchNorm) for layer in (first, second))
    now = dict(net.named_parameters())
    assert list(now) == list(parameters)
    assert all(now[name] is p for name, p in parameters.items())
    assert [p.requires_grad for p in first.parameters()] == [False, False]
    assert (first.training, second.training) == (False, True)
    assert (first.eps, second.eps) == (1e-5, 0.1)
    assert state.keys() == net.state_dict().keys()
    assert all(v.dtype == state[k].dtype and torch.equal(v, state[k]) for k, v in net.state_dict().items())
