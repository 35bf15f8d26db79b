"""trainer.run as a user runs it: metrics, export, resume after every kind of end, and mistakes that name themselves."""

import json
import math
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from trainer_runs import start_and_signal

from precompute.base.errors import UsageError, UserError
from trainer.record import checkpoint, metrics
from trainer.run import program

TINY = ("--arch", "resnet10w8", "--size", "32", "--batch-size", "16", "--device", "cpu", "--pipeline", "kornia",
        "--workers", "1")  # fmt: skip


@pytest.fixture
def flags(demo_boxes: Path, demo_root: Path) -> list[str]:
    """A run of 3 steps an epoch."""
    return ["--boxes", str(demo_boxes), "--root", str(demo_root), *TINY]


def losses(out: Path) -> list[tuple]:
    """What must be bit-equal: step, losses and rate of every line."""
    rows = [r for r in metrics.read(out / metrics.NAME) if r["kind"] == "step"]
    return [tuple(r[name] for name in ("step", "loss", "contrastive", "alignment", "dense", "lr")) for r in rows]


@pytest.fixture(scope="module")
def unbroken(demo_boxes: Path, demo_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 4 epochs, 12 steps, that nobody stopped."""
    out = tmp_path_factory.mktemp("unbroken") / "run"
    flags = ["--boxes", str(demo_boxes), "--root", str(demo_root), *TINY]
    assert program([*flags, "--epochs", "4", "--log-every", "2", "--out", str(out)]) == 0
    return out


def test_a_run_leaves_what_it_says(unbroken: Path) -> None:
    rows = metrics.read(unbroken / metrics.NAME)
    assert [r["kind"] for r in rows] == ["config", *["step"] * 6, "evaluation"]
    assert rows[0]["config"]["arch"] == "resnet10w8"
    assert rows[0]["settings"]["steps"] == 12
    assert [r["step"] for r in rows[1:-1]] == [2, 4, 6, 8, 10, 12]
    assert all(math.isfinite(r["loss"]) and 0 <= r["data_wait"] <= 1 and r["images_per_second"] > 0 for r in rows[1:-1])
    for row in rows[1:-1]:
        assert row["loss"] == pytest.approx(row["contrastive"] + 0.1 * row["alignment"] + row["dense"], rel=1e-5)
    found = json.loads((unbroken / "evaluation.json").read_text())
    assert 0 <= found["knn"]["accuracy"] <= 1
    assert {"views: C map", "views: centre prior", "images: linear probe"} <= set(found["localisation"])
    assert (unbroken / "localisation.png").stat().st_size > 10_000
    card = (unbroken / "MODEL_CARD.md").read_text()
    assert f"{found['knn']['accuracy']:.4f} of 48" in card
    assert "| views: centre prior |" in card


def test_the_encoder_is_the_trained_one_with_torchvisions_names(unbroken: Path) -> None:
    weights = load_file(unbroken / "encoder.safetensors")
    state = checkpoint.load(unbroken / checkpoint.NAME)
    assert state["step"] == 12
    prefix = "online.encoder."
    expected = {k.removeprefix(prefix): v for k, v in state["method"].items() if k.startswith(prefix)}
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[k], expected[k]) for k in weights)
    assert all(w.is_contiguous() for w in weights.values())


@pytest.mark.parametrize("pipeline", ["dali", pytest.param("kornia", marks=pytest.mark.slow)])
def test_killed_in_mid_epoch_and_resumed_is_bit_equal(
    flags: list[str], unbroken: Path, tmp_path: Path, pipeline: str
) -> None:
    """SIGKILL between two checkpoints and in the middle of a log interval; nothing repeated, nothing lost."""
    command = [*flags, "--pipeline", pipeline, "--epochs", "4", "--log-every", "2", "--no-evaluate"]
    if pipeline == "dali":
        pytest.importorskip("nvidia.dali")
        unbroken = tmp_path / "straight"
        assert program([*command, "--out", str(unbroken)]) == 0
    out = tmp_path / "run"
    command += ["--save-every", "5", "--out", str(out)]
    status, _ = start_and_signal(command, lambda said: "step 8/12" in said, signal.SIGKILL, tmp_path / "log")
    assert status == -signal.SIGKILL
    assert checkpoint.load(out / checkpoint.NAME)["step"] == 5  # mid-epoch, the first of a log interval
    assert program(["--resume", str(out)]) == 0
    assert losses(out) == losses(unbroken)
    ours, theirs = load_file(out / "encoder.safetensors"), load_file(unbroken / "encoder.safetensors")
    assert all(torch.equal(ours[k], theirs[k]) for k in theirs)


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_signal_saves_and_ends_with_130(flags: list[str], unbroken: Path, tmp_path: Path, number: int) -> None:
    out = tmp_path / "run"
    command = [*flags, "--epochs", "4", "--log-every", "2", "--no-evaluate", "--out", str(out)]
    status, said = start_and_signal(command, lambda said: "step 4/12" in said, number, tmp_path / "log")
    assert status == 130
    assert "--resume" in said.split("step 4/12")[1]
    assert 4 <= checkpoint.load(out / checkpoint.NAME)["step"] < 12
    assert program([*command, "--resume"]) == 0
    assert losses(out) == losses(unbroken)


def test_resume_falls_back_from_a_damaged_checkpoint(
    flags: list[str], unbroken: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "run"
    assert (
        program([*flags, "--epochs", "4", "--log-every", "2", "--save-every", "3", "--no-evaluate", "--out", str(out)])
        == 0
    )
    path = out / checkpoint.NAME
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert program(["--resume", str(out)]) == 0
    said = capsys.readouterr().out
    assert "resumed at step 9 of 12" in said
    assert "damaged" in said
    assert losses(out) == losses(unbroken)


def test_a_finished_run_resumes_to_its_evaluation(unbroken: Path) -> None:
    before = (unbroken / metrics.NAME).read_text()
    assert program(["--resume", str(unbroken)]) == 0
    after = (unbroken / metrics.NAME).read_text()
    assert after == before


def test_a_finished_run_keeps_its_evaluation_where_none_is_wanted(unbroken: Path, tmp_path: Path) -> None:
    """What is said of it stays one: evaluation.json, metrics.jsonl and the card."""
    out = Path(shutil.copytree(unbroken, tmp_path / "run"))
    assert program(["--resume", str(out), "--no-evaluate"]) == 0
    for name in ("evaluation.json", metrics.NAME, "MODEL_CARD.md"):
        assert (out / name).read_text() == (unbroken / name).read_text()
    (out / "evaluation.json").write_text("[]")  # damaged, so there is none
    assert program(["--resume", str(out), "--no-evaluate"]) == 0
    assert "Not evaluated" in (out / "MODEL_CARD.md").read_text()


def test_mistakes_name_themselves(flags: list[str], unbroken: Path, tmp_path: Path) -> None:
    def fails(*more: str, match: str, kind: type = UserError) -> None:
        with pytest.raises(kind, match=match):
            program([*flags, "--epochs", "1", "--out", str(tmp_path / "x"), *more])

    fails("--out", str(unbroken), match="holds a run already.*--resume")
    fails("--resume", str(tmp_path / "nothing.pt"), match="no checkpoint there")
    fails("--resume", match="no checkpoint there")
    fails("--batch-size", "64", match=r"more than the 48 images.*Use --batch-size 32 or less")
    fails("--resume", str(unbroken), "--epochs", "4", "--seed", "3", match="--seed 3: .* was trained with --seed 0")
    fails("--train-split", "tets", match="tets.*train.*test")
    fails("--arch", "resnet19", match="resnet19.*Valid")
    fails("--policy", "rrc", match="--align-weight 0")
    fails("--method", "cvsa", "--policy", "rrc", match="--method byol")
    fails("--root", str(tmp_path / "absent"), match="no such folder")
    fails("--boxes", str(tmp_path / "absent.h5"), match="absent.h5")
    fails("--epochs", "0", match="--epochs 0: must be greater than 0", kind=UsageError)
    fails("--method", "byol", "--control", "rolled-keys", match="needs --method cvsa", kind=UsageError)
    assert not (tmp_path / "x").exists() or not list((tmp_path / "x").iterdir())


def test_divergence_stops_and_names_the_last_good_checkpoint(flags: list[str], tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(UserError, match=r"diverged.*Last good checkpoint: .*checkpoint.pt \(step 0\)"):
        program([*flags, "--epochs", "4", "--optimizer", "sgd", "--base-lr", "1e30", "--out", str(out)])
    state = checkpoint.load(out / checkpoint.NAME)["method"]
    assert all(v.isfinite().all() for v in state.values())


@pytest.mark.parametrize(
    ("method", "policy"),
    [
        *((method, policy) for method in ("byol", "mocov2", "simclr") for policy in ("saliencyswap", "rrc")),
        ("instloc", "instloc"), ("looc", "rrc"), ("rotpred", "rrc"), ("relloc", "rrc"),
    ],
)  # fmt: skip
def test_every_method_trains_with_every_policy(flags: list[str], tmp_path: Path, method: str, policy: str) -> None:
    out = tmp_path / "run"
    assert (
        program([*flags, "--method", method, "--policy", policy, "--epochs", "1", "--no-evaluate", "--out", str(out)])
        == 0
    )
    rows = [r for r in metrics.read(out / metrics.NAME) if r["kind"] == "step"]
    assert rows[-1]["step"] == 3
    assert "alignment" not in rows[-1]


def test_accumulation_splits_the_batch(flags: list[str], tmp_path: Path) -> None:
    assert program([*flags, "--accumulate", "2", "--epochs", "1", "--no-evaluate", "--out", str(tmp_path / "run")]) == 0
    first = losses(tmp_path / "run")[0]
    assert first[1] == pytest.approx(first[2] + 0.1 * first[3] + first[4], rel=1e-5)


def test_nothing_named_means_the_demo_set(
    demo_boxes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    """Said aloud. (That it is made when missing is what `make demo` shows; here its boxes are in their usual place.)"""
    (tmp_path / "cache").mkdir()
    shutil.copy(demo_boxes, tmp_path / "cache" / "demo.h5")
    monkeypatch.chdir(tmp_path)
    assert program([*TINY, "--epochs", "1", "--no-evaluate", "--out", "run"]) == 0
    assert "data: none named" in capsys.readouterr().out
    assert (tmp_path / "run" / "encoder.safetensors").exists()


def test_second_stage_keeps_the_frozen_stages(flags: list[str], unbroken: Path, tmp_path: Path, capsys) -> None:
    """--init with --freeze-stages 2: weights and BN statistics of the first two stages stay what they were."""
    start, out = unbroken / "encoder.safetensors", tmp_path / "second"
    more = ["--init", str(start), "--freeze-stages", "2", "--epochs", "1", "--no-evaluate", "--out", str(out)]
    assert program([*flags, *more]) == 0
    assert "weights: all" in capsys.readouterr().out
    before, after = load_file(start), load_file(out / "encoder.safetensors")
    changed = {k.split(".")[0] for k in before if not torch.equal(before[k], after[k])}
    assert changed == {"layer3", "layer4"}


def test_evaluate_gives_every_protocol_as_json(
    demo_boxes: Path, demo_root: Path, unbroken: Path, run_here: Callable
) -> None:
    done = run_here(
        "trainer.evaluate", unbroken / "encoder.safetensors", "--boxes", demo_boxes, "--root", demo_root,
        "--protocol", "all", "--size", 32, "--batch-size", 16, "--linear-epochs", 2, "--finetune-epochs", 1,
        "--pipeline", "kornia",
        "--device", "cpu", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["arch"] == "resnet10w8"
    assert all(0 <= found[name]["accuracy"] <= 1 for name in ("knn", "linear", "finetune"))
    # Of 48, those whose box covers some of the cells and not all.
    assert 40 <= found["localise"]["probe"]["images"] == found["localise"]["centre prior"]["images"] <= 48
    assert set(found["localise"]["probe"]["max_box_accuracy"]) == {"0.3", "0.5", "0.7"}
    expected = json.loads((unbroken / "evaluation.json").read_text())
    assert found["knn"]["accuracy"] == pytest.approx(expected["knn"]["accuracy"])


@pytest.mark.parametrize("compiled", [False, True])
def test_a_first_step_that_compiles_is_left_out_of_the_rates(compiled: bool) -> None:
    from types import SimpleNamespace as Record

    from trainer.engine.meter import Meter
    from trainer.train import _leave_out

    meter, said = Meter(), []
    meter.started -= 100.0  # a first step of 100 s
    meter.timed = 1
    run = Record(
        hardware=Record(device="cpu"), config=Record(run=Record(compile=compiled)), state=Record(meter=meter),
        say=said.append,
    )  # fmt: skip
    _leave_out(run, meter.started)
    assert (meter.timed == 0) == compiled == bool(said)
    assert not said or said[0].startswith("first step: 100.0 s with compiling the networks, left out of the rates")
