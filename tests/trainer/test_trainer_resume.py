"""Going on with a run that ended badly: before its first checkpoint, on a full disk, with files lost or altered."""

import json
import os
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from trainer_runs import TINY, assert_same_run, other_boxes, rows_of

from precompute.base.errors import UserError
from trainer.config.run import RunConfig
from trainer.engine.state import Saver
from trainer.model.resnets import build_encoder
from trainer.record import FINDINGS, WRITTEN, checkpoint, export, metrics
from trainer.record.folder import run_folder
from trainer.run import program


@pytest.fixture(scope="module")
def flags(demo_boxes: Path, demo_root: Path) -> list[str]:
    """A run of three steps with a checkpoint at each."""
    return ["--boxes", str(demo_boxes), "--root", str(demo_root), *TINY, "--pipeline", "kornia", "--epochs", "1",
            "--save-every", "1", "--no-evaluate"]  # fmt: skip


@pytest.fixture(scope="module")
def unbroken(flags: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("unbroken") / "run"
    assert program([*flags, "--out", str(out)]) == 0
    return out


@pytest.fixture
def copy(unbroken: Path, tmp_path: Path) -> Path:
    """The finished run in a folder of its own, to be spoilt."""
    return Path(shutil.copytree(unbroken, tmp_path / "run"))


def test_a_run_without_a_checkpoint_begins_anew(
    flags: list[str], unbroken: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "run"
    out.mkdir()
    (out / metrics.NAME).write_text((unbroken / metrics.NAME).read_text().splitlines()[0] + "\n")
    for name in {*WRITTEN, *(path.name for path in unbroken.iterdir())}:
        (out / f".{name}.k1ll3d.tmp").touch()  # removed, whichever file was being written
    with pytest.raises(UserError, match=r"no checkpoint there.*Without --resume a new run starts, also in the folder"):
        program(["--resume", str(out)])
    assert program([*flags, "--out", str(out)]) == 0
    assert "stopped before its first checkpoint" in capsys.readouterr().out
    assert_same_run(out, unbroken)
    with pytest.raises(UserError, match="holds a run already"):
        program([*flags, "--out", str(out)])


def test_a_run_goes_on_in_another_folder(unbroken: Path, copy: Path, tmp_path: Path) -> None:
    os.remove(copy / checkpoint.NAME)
    os.rename(copy / checkpoint.PREVIOUS, copy / checkpoint.NAME)  # the checkpoint of step 2
    assert program(["--resume", str(copy), "--out", str(tmp_path / "other")]) == 0
    assert rows_of(tmp_path / "other") == rows_of(unbroken)
    with pytest.raises(UserError, match=f"--out {unbroken} holds a run already"):
        program(["--resume", str(copy), "--out", str(unbroken)])
    os.remove(copy / metrics.NAME)
    assert program(["--resume", str(copy)]) == 0
    assert [row["kind"] for row in metrics.read(copy / metrics.NAME)] == ["config", "step"]


@pytest.mark.parametrize(
    ("what", "match"), [("labels", "splits or labels"), ("splits", "splits or labels"), ("boxes", "pictures or boxes")]
)
def test_a_run_does_not_go_on_with_other_held_out_pictures_or_labels(
    what: str, match: str, copy: Path, demo_boxes: Path, tmp_path: Path
) -> None:
    other = other_boxes(demo_boxes, tmp_path / "other.h5", what)
    before = (copy / metrics.NAME).read_bytes()
    with pytest.raises(UserError, match=rf"--boxes \S+other.h5: .*was trained with other {match}, .*another --out"):
        program(["--resume", str(copy), *other])
    assert (copy / metrics.NAME).read_bytes() == before


@pytest.mark.parametrize("begun", ["anew", "from an earlier step", "elsewhere"])
def test_what_is_found_of_another_run_does_not_stay(begun: str, flags: list[str], copy: Path) -> None:
    """`trainer.compare` would call the run done by it."""
    for name in FINDINGS:
        (copy / name).write_text("{}")
    flags = flags if begun == "anew" else ["--resume", str(copy), "--no-evaluate"]
    if begun == "anew":
        for name in (metrics.NAME, checkpoint.NAME, checkpoint.PREVIOUS, export.NAME):
            (copy / name).unlink()
    elif begun == "from an earlier step":
        os.rename(copy / checkpoint.PREVIOUS, copy / checkpoint.NAME)
    else:
        other = copy.with_name("other")
        other.mkdir()
        for name in FINDINGS:
            os.rename(copy / name, other / name)
        header = json.dumps({"kind": "config", "config": {}, "settings": {}, "about": {"torch": "another run's"}})
        (other / metrics.NAME).write_text(header + "\n")  # which was stopped before its first checkpoint
        copy = other
    assert program([*flags, "--out", str(copy)]) == 0
    assert {name for name in FINDINGS if (copy / name).exists()} == {"MODEL_CARD.md"}
    assert "Not evaluated" in (copy / "MODEL_CARD.md").read_text()
    assert metrics.header(copy / metrics.NAME)["about"]["torch"] == torch.__version__


def test_a_kill_after_falling_back_leaves_the_good_checkpoint(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The damaged newest must not take the place of the good one before it."""
    (copy / checkpoint.NAME).write_bytes((copy / checkpoint.NAME).read_bytes()[:-100])
    rename = os.replace

    def killed(source: Path, target: Path) -> None:
        if Path(target).name == checkpoint.NAME:
            raise KeyboardInterrupt
        rename(source, target)

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        program(["--resume", str(copy)])
    monkeypatch.undo()
    assert checkpoint.load_latest(copy)[0]["step"] == 2
    assert program(["--resume", str(copy)]) == 0


def test_the_checkpoint_that_a_run_goes_on_from_is_kept(copy: Path) -> None:
    os.remove(copy / checkpoint.PREVIOUS)
    assert program(["--resume", str(copy)]) == 0
    assert checkpoint.load(copy / checkpoint.PREVIOUS)["step"] == 3


def test_two_names_of_one_checkpoint_leave_nothing_behind(unbroken: Path, copy: Path) -> None:
    """What a kill between the two renames leaves."""
    os.remove(copy / checkpoint.PREVIOUS)
    os.link(copy / checkpoint.NAME, copy / checkpoint.PREVIOUS)
    assert program(["--resume", str(copy)]) == 0
    assert_same_run(copy, unbroken)


@pytest.mark.parametrize(
    ("name", "value", "match"),
    [
        ("arch", 5, r"was altered: its config has --arch 5: must be of type str"),
        ("method", "foo", r"config has --method foo: must be one of cvsa, byol"),
        ("epochs", "many", r"config has --epochs many: must be of type int"),
        ("ema", float("nan"), r"config has --ema nan: must be within 0 and 1"),
        ("dim", 8, r"cannot be taken up .*size mismatch.*altered, or written by another version"),
        ("base_lr", 0.1, r"does not fit this continuation: peak_lr was"),
        ("seed", 5, r"cannot resume: seed was 0, now it is 5"),
    ],
)
def test_an_altered_config_names_itself(copy: Path, name: str, value: Any, match: str) -> None:
    state = torch.load(copy / checkpoint.NAME, weights_only=True)
    state["config"][name] = value
    torch.save(state, copy / checkpoint.NAME)
    with pytest.raises(UserError, match=match):
        program(["--resume", str(copy)])


@pytest.mark.parametrize("key", ["config", "loader", "rng"])
def test_a_checkpoint_that_lacks_something_says_so(copy: Path, key: str) -> None:
    state = torch.load(copy / checkpoint.NAME, weights_only=True)
    del state[key]
    torch.save(state, copy / checkpoint.NAME)
    with pytest.raises(UserError, match=f"lacks {key}"):
        program(["--resume", str(copy)])
    state[key], state["step"] = {"config": None, "loader": {}, "rng": 0}[key], 99
    if key == "rng":
        torch.save(state, copy / checkpoint.NAME)
        with pytest.raises(UserError, match="step is 99 of 3"):
            program(["--resume", str(copy)])


@contextmanager
def files_at_most(size: int) -> Iterator[None]:
    """No file can grow beyond `size` bytes: what a full disk does, without one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_names_the_file_and_the_last_good_checkpoint(flags: list[str], unbroken: Path, copy: Path) -> None:
    out = copy.parent / "new"
    with files_at_most(20_000), pytest.raises(UserError, match=r"checkpoint\.pt: .* step 0 .*There is none before it"):
        program([*flags, "--out", str(out)])
    assert [p.name for p in out.iterdir()] == [metrics.NAME]
    room = (copy / checkpoint.NAME).stat().st_size - 1000  # enough for step 0, which has no momentum yet
    with files_at_most(room), pytest.raises(UserError, match=r"step 1 was not written .*Last good checkpoint: step 0"):
        program([*flags, "--out", str(out)])
    assert program(["--resume", str(out)]) == 0
    assert_same_run(out, unbroken)
    with files_at_most(room), pytest.raises(UserError, match=r"step 3 was not written .*Last good checkpoint: step 3"):
        program(["--resume", str(copy)])
    assert_same_run(copy, unbroken)
    with files_at_most(1000), pytest.raises(OSError, match="File too large") as error:
        export.save_encoder(build_encoder("resnet10w4"), copy, RunConfig.of())
    assert error.value.filename == str(copy / export.NAME)
    with files_at_most(10), pytest.raises(OSError, match="File too large") as error:
        metrics.Journal(copy).add("step", step=4)
    assert error.value.filename == str(copy / metrics.NAME)


def test_two_processes_never_train_into_one_folder(copy: Path) -> None:
    asked = (copy, copy / checkpoint.NAME)
    with run_folder(*asked, True, print), pytest.raises(UserError, match="another process is training into it"):
        program(["--resume", str(copy)])
    with run_folder(*asked, True, print), run_folder(*asked, False, print):
        pass  # the other ranks of a run do not ask
    assert copy.is_dir()


def test_a_run_that_cannot_begin_leaves_no_folder(flags: list[str], tmp_path: Path) -> None:
    out = tmp_path / "runs" / "one"
    for mistake in (["--init", str(tmp_path / "none.pth")], ["--pipeline", "dali", "--colour", "torchvision"]):
        with pytest.raises(UserError):
            program([*flags, *mistake, "--out", str(out)])
        assert not out.parent.exists()
    out.mkdir(parents=True)
    with pytest.raises(UserError):
        program([*flags, "--init", str(tmp_path / "none.pth"), "--out", str(out)])
    assert out.is_dir()  # it was there before


def test_the_weights_of_the_beginning_are_not_needed_again(flags: list[str], unbroken: Path, tmp_path: Path) -> None:
    """--init names a file that may be gone when the run goes on; what was frozen stays frozen, in the target too."""
    start = tmp_path / "start.safetensors"
    shutil.copy(unbroken / export.NAME, start)
    out = tmp_path / "run"
    assert program([*flags, "--init", str(start), "--freeze-stages", "2", "--out", str(out)]) == 0
    os.remove(start)
    os.rename(out / checkpoint.PREVIOUS, out / checkpoint.NAME)
    assert program(["--resume", str(out)]) == 0
    state = checkpoint.load(out / checkpoint.NAME)["method"]
    frozen = ("conv1", "bn1", "layer1", "layer2")
    for name, before in load_file(unbroken / export.NAME).items():
        if name.startswith(frozen):
            assert torch.equal(state[f"online.encoder.{name}"], before)
            assert torch.equal(state[f"target.encoder.{name}"], before)


def test_a_stop_that_comes_with_the_last_step_is_heard(
    flags: list[str], unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The evaluation, which may take long, is left to the continuation."""
    import signal

    add = metrics.Journal.add

    def add_and_stop(self: metrics.Journal, kind: str, **values: Any) -> None:
        add(self, kind, **values)
        if values["step"] == 3:
            signal.raise_signal(signal.SIGTERM)

    out = tmp_path / "run"
    monkeypatch.setattr(metrics.Journal, "add", add_and_stop)
    assert program([*flags, "--out", str(out)]) == 130
    assert not (out / export.NAME).exists()
    assert checkpoint.load(out / checkpoint.NAME)["step"] == 3
    monkeypatch.undo()
    assert program(["--resume", str(out)]) == 0
    assert_same_run(out, unbroken)


def test_a_stop_that_comes_while_the_last_step_is_saved_is_heard(
    flags: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the last time that the loop asks."""
    import signal

    save = Saver.save

    def save_and_stop(self: Saver, state: Any, keep: bool = True) -> None:
        save(self, state, keep)
        if state.step == 3:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(Saver, "save", save_and_stop)
    assert program([*flags, "--out", str(tmp_path / "run")]) == 130
    assert not (tmp_path / "run" / export.NAME).exists()


def test_methods_that_draw_in_the_step_depend_on_their_seed_alone(flags: list[str], tmp_path: Path) -> None:
    """As trainer.compare runs them: several in one process."""
    told = []
    for name, seed in (("a", 0), ("b", 1), ("c", 0)):
        out = tmp_path / name
        more = ["--method", "relloc", "--policy", "rrc", "--size", "48", "--seed", str(seed), "--out", str(out)]
        assert program([*flags, *more]) == 0
        told.append(rows_of(out))
    assert told[0] == told[2] != told[1]
