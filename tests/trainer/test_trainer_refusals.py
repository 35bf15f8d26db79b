"""What a user may get wrong in a run, its comparison and its evaluation: no figure that means nothing, no traceback."""

import argparse
import json
import re
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from trainer_runs import TINY

from precompute.base.boxfile import BoxCache, write
from precompute.base.errors import UsageError, UserError
from precompute.base.options import as_json
from trainer import compare, evaluate, run
from trainer.config import command_line
from trainer.config.run import RunConfig
from trainer.model.auc import cell_auc
from trainer.model.resnets import build_encoder
from trainer.model.weights import read_said
from trainer.record import metrics
from trainer.record.model_card import write_card


@pytest.fixture
def data(demo_boxes: Path, demo_root: Path) -> list[str]:
    return ["--boxes", str(demo_boxes), "--root", str(demo_root)]


@pytest.fixture
def whole(demo_boxes: Path, tmp_path: Path) -> Path:
    """The demo set's box file, every box its whole picture."""
    cache = BoxCache.open(demo_boxes)
    write(tmp_path / "whole.h5", replace(cache, boxes=np.tile(np.float32([0, 0, 1, 1]), (len(cache), 1))))
    return tmp_path / "whole.h5"


@pytest.mark.parametrize(
    ("flags", "match"),
    [
        ("--own 2", "--own 2.0: must be within 0 and 1"),
        ("--size 7", "--size 7: must be within 8 and 4096"),
        ("--seed -1", "--seed -1: must be within 0 and"),
        ("--group 1", "--group 1: must be"),
        ("--box-cap 0", "--box-cap 0.0: must be above 0"),
        ("--paste-scale 2", "--paste-scale 2.0: must be"),
        ("--scene-scale 0", "--scene-scale 0.0: must be"),
        ("--device tpu", "--device tpu: must be auto, cpu, cuda or cuda:N"),
        ("--method cvsa --policy rrc", "--policy saliencyswap, or --method byol"),
    ],
)
def test_values_that_no_run_could_have_are_usage_errors(flags: str, match: str) -> None:
    with pytest.raises(UsageError, match=match):
        command_line.config_of(command_line.parse(flags.split())[0])


def test_flags_are_not_abbreviated(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        command_line.parse(["--no-eval"])
    assert "--no-eval" in capsys.readouterr().err


def test_weights_are_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "encoder.safetensors").write_bytes(b"x")
    with pytest.raises(UserError, match=r"weights, nothing to resume. .* --init \S*encoder.safetensors$"):
        run.program(["--resume", str(tmp_path / "encoder.safetensors")])


def test_a_flag_without_an_effect_is_said_by_the_run(
    data: list[str], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    flags = [*data, *TINY, "--epochs", "1", "--no-evaluate", "--method", "byol", "--policy", "rrc", "--own", "0.5"]
    assert run.program([*flags, "--out", str(tmp_path / "run")]) == 0
    said = capsys.readouterr().out
    assert "note: --own changes nothing in this run" in said
    assert "note: --scene" not in said, "nobody gave it"


def test_a_gallery_that_could_not_be_written_shows_at_once(data: list[str], demo_boxes: Path) -> None:
    with pytest.raises(UsageError, match=r"--gallery .*is no folder that can be written to"):
        evaluate.program(["random", "--arch", "resnet10w4", *data, "--gallery", str(demo_boxes / "g.png")])


def test_data_named_twice_is_a_usage_error(data: list[str]) -> None:
    for program, flags in ((run.program, []), (evaluate.program, ["random", "--arch", "resnet10w4"])):
        with pytest.raises(UsageError, match="--dataset and --boxes each name the data"):
            program([*flags, "--dataset", "demo", *data])


def test_a_run_that_cannot_be_leaves_no_folder(data: list[str], tmp_path: Path) -> None:
    for flags in (
        ["--boxes", "no.h5", "--root", "x"],
        [*data, "--train-split", "tran"],
        [*data, "--batch-size", "999"],
    ):
        with pytest.raises(UserError):
            run.program([*TINY, *flags, "--out", str(tmp_path / "run")])
        assert not (tmp_path / "run").exists()


def renamed(boxes: Path, out: Path, names: tuple[str, ...]) -> str:
    """The box file with its two splits called otherwise; one name: all in one split."""
    cache = BoxCache.open(boxes)
    splits = cache.splits if len(names) == 2 else np.zeros_like(cache.splits)
    write(out, replace(cache, split_names=names, splits=splits))
    return str(out)


def test_a_set_of_one_split_is_trained_on_and_not_evaluated(
    demo_boxes: Path, demo_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    data = ["--boxes", renamed(demo_boxes, tmp_path / "one.h5", ("train",)), "--root", str(demo_root)]
    flags = [*data, *TINY, "--epochs", "1"]
    assert run.program([*flags, "--out", str(tmp_path / "run")]) == 0
    assert (
        "chosen: no evaluation: the set 'demo' has no split test or val, only train. To hold" in capsys.readouterr().out
    )
    assert not (tmp_path / "run" / "evaluation.json").exists()
    match = r"has no split test or val, only train\. .*--train-split train/fit --eval-split train/dev"
    with pytest.raises(UserError, match=match):
        evaluate.program(["random", "--arch", "resnet10w4", *data])
    with pytest.raises(UserError, match=match):
        compare.program(["--arms", "byol:rrc", "--seeds", "1", "--out", str(tmp_path / "runs"), "--", *flags])
    assert not (tmp_path / "runs").exists()
    with pytest.raises(UserError, match="train_split='tran': must be one of train, all"):
        run.program([*flags, "--train-split", "tran", "--out", str(tmp_path / "other")])


def test_val_is_held_out_where_there_is_no_test(demo_boxes: Path, demo_root: Path, tmp_path: Path) -> None:
    data = ["--boxes", renamed(demo_boxes, tmp_path / "val.h5", ("train", "val"))]  # below the folder they were made in
    assert run.program([*data, *TINY, "--epochs", "1", "--out", str(tmp_path / "run")]) == 0
    assert json.loads((tmp_path / "run" / "evaluation.json").read_text())["eval_split"] == "val"


def test_a_run_resumed_from_elsewhere_asks_where_its_data_are(
    demo_boxes: Path, demo_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").symlink_to(demo_root)
    (tmp_path / "b.h5").write_bytes(demo_boxes.read_bytes())
    monkeypatch.chdir(tmp_path)
    assert (
        run.program(["--boxes", "b.h5", "--root", "here", *TINY, "--epochs", "1", "--no-evaluate", "--out", "r"]) == 0
    )
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"was trained with --boxes b\.h5, and from \S+/elsewhere there is none"):
        run.program(["--resume", "../r"])
    assert run.program(["--resume", "../r", "--boxes", "../b.h5", "--root", "../here"]) == 0


def test_an_interrupted_evaluation_says_how_to_have_it(
    data: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    from trainer.evaluation import run_report

    flags = [*data, *TINY, "--epochs", "1", "--out", str(tmp_path / "run")]
    with monkeypatch.context() as patch:
        patch.setattr(run_report, "evaluate_run", lambda *_: signal.raise_signal(signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            run.program(flags)
    assert f"not evaluated. For that: python -m trainer.run --resume {tmp_path / 'run'}\n" in capsys.readouterr().out
    assert not (tmp_path / "run" / "evaluation.json").exists()
    assert run.program(["--resume", str(tmp_path / "run")]) == 0
    assert "checkpoint.pt: nothing is left to train" in capsys.readouterr().out
    assert (tmp_path / "run" / "evaluation.json").exists()


@pytest.mark.parametrize("flags", [["--train-split", "all"], ["--eval-split", "train"]])
def test_splits_that_share_pictures_are_refused(data: list[str], tmp_path: Path, flags: list[str]) -> None:
    match = "share .* images, which would not be held out"
    with pytest.raises(UserError, match=match):
        run.program([*data, *TINY, *flags, "--out", str(tmp_path / "run")])
    assert not (tmp_path / "run" / "checkpoint.pt").exists()
    with pytest.raises(UserError, match=match):
        evaluate.program(["random", "--arch", "resnet10w4", *data, *flags])


def test_compare_refuses_runs_of_other_boxes(
    data: list[str], whole: Path, demo_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    flags = ["--arms", "byol:rrc", "--seeds", "1", "--out", str(tmp_path / "runs"), "--json", "--"]
    more = [*TINY, "--epochs", "1"]
    assert compare.program([*flags, *data, *more]) == 0
    said = capsys.readouterr().out
    found = json.loads(said.splitlines()[-1])["measures"]["kNN accuracy"]["byol:rrc"]
    assert found["sd"] is None
    assert "±" not in said.split("one seed, so no spread")[1].split("plot:")[0]
    with pytest.raises(UserError, match="trained on other pictures or boxes"):
        compare.program([*flags, "--boxes", str(whole), "--root", str(demo_root), *more])
    assert compare.program([*flags, *data, *more]) == 0
    assert "done before" in capsys.readouterr().out
    for name in ("checkpoint.pt", "evaluation.json"):
        (tmp_path / "runs" / "byol-rrc-seed0" / name).unlink()
    assert compare.program([*flags, *data, *more]) == 0
    assert "is gone; the one before it is used" in capsys.readouterr().out


def test_boxes_that_are_whole_pictures_have_no_localisation(
    whole: Path, demo_root: Path, capsys: pytest.CaptureFixture
) -> None:
    flags = ["--boxes", str(whole), "--root", str(demo_root), "--size", "32", "--device", "cpu"]
    assert evaluate.program(["random", "--arch", "resnet10w4", *flags, "--protocol", "localise"]) == 0
    said = capsys.readouterr().out
    assert "localise: left out" in said
    assert "nan" not in said


def test_few_cells_are_said_to_be_few(data: list[str], capsys: pytest.CaptureFixture) -> None:
    assert evaluate.program(["random", "--arch", "resnet10w4", *data, "--size", "16", "--protocol", "localise"]) == 0
    assert "maps of 2×2 cells are few" in capsys.readouterr().out


def test_finetuning_that_diverges_names_its_rate(data: list[str]) -> None:
    flags = [*data, "--size", "32", "--protocol", "finetune", "--finetune-epochs", "3", "--finetune-lr", "1e30"]
    with pytest.raises(UserError, match=r"diverged in epoch .*--finetune-lr"):
        evaluate.program(["random", "--arch", "resnet10w4", *flags])


def test_scores_that_are_no_numbers_have_no_auc() -> None:
    masks = torch.zeros(2, 4, 4)
    masks[:, 1:3, 1:3] = 1
    scores = torch.rand(2, 4, 4)
    scores[1, 0, 0] = float("nan")
    assert cell_auc(scores, masks).isnan().tolist() == [False, True]


def test_a_damaged_journal_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    path = tmp_path / metrics.NAME
    first = {"kind": "config", "config": {}, "settings": {}, "about": {}}
    step = json.dumps({"kind": "step", "step": 1}).encode()
    damaged = [b"[1, 2]", b'{"kind": "step", "st\xff', b'{"kind": ["x"]}', b"7", b'{"kind": "step"}']
    path.write_bytes(b"\n".join([json.dumps(first).encode(), *damaged, step]))
    assert [row["kind"] for row in metrics.read(path)] == ["config", "step"]
    path.write_bytes(b'{"kind": "config", "config": {}}\n' + step)
    with pytest.raises(UserError, match="first line is damaged"):
        metrics.header(path)


def test_weights_beside_other_objects_are_refused_with_the_way_out(tmp_path: Path) -> None:
    weights = build_encoder("resnet10w4").state_dict()
    torch.save({"model": weights, "args": argparse.Namespace(lr=1)}, tmp_path / "args.pth")
    with pytest.raises(UserError, match=r"holds a argparse.Namespace .*torch.save\(torch.load"):
        read_said(tmp_path / "args.pth")
    torch.save({0: torch.ones(1), **weights}, tmp_path / "keys.pth")
    assert read_said(tmp_path / "keys.pth")[0].keys() == weights.keys()


@pytest.mark.parametrize(
    ("method", "said"),
    [
        ("mocov2", ["target momentum 0.999,", "d 16, hidden 16 (MLP)\n"]),
        ("looc", ["target momentum 0.999,", "d 2 x 16,"]),
        ("rotpred", ["no target network", "d 4 (set by the method)"]),
        ("byol", ["target momentum 0.996 rising to 1", "d 16, hidden 16 (MLP)\n"]),
        (
            "cvsa",
            ["(MLP), 16 (1x1 conv)", "stem and stages 1 to 2 frozen", "in 2 parts", "backgrounds from b.h5 beside"],
        ),
    ],
)
def test_the_card_says_what_the_method_was(method: str, said: list[str], tmp_path: Path) -> None:
    more = {"freeze_stages": 2, "accumulate": 2, "backgrounds": ("b.h5", "b")} if method == "cvsa" else {}
    config = RunConfig.of(method=method, dim=16, **more)
    settings = {"images": 8, "steps": 1, "batch_size": 8, "optimizer": "sgd", "peak_lr": 0.1, "warmup": 0,
                "weight_decay": 0.0, "amp": "off", "hidden": 16, "conv_hidden": 16}  # fmt: skip
    about = {"policy": {}, "torch": "2", "python": "3", "commit": None, "data": {"name": "demo", "provenance": {}}}
    metrics.Journal(tmp_path).begin({"config": as_json(config), "settings": settings, "about": about})
    card = write_card(tmp_path, None).read_text()
    for words in said:
        assert words in card


@pytest.mark.parametrize("name", ["<script>alert(1)</script>", "[set](http://x.example)", "a|b`c`\n# d"])
def test_the_card_holds_no_markup_of_a_data_sets_names_and_no_folders(name: str, tmp_path: Path) -> None:
    config = as_json(RunConfig.of(method="byol", dim=16, train_split=name, backgrounds=("/home/me/<i>.h5", "b")))
    settings = {"images": 8, "steps": 1, "batch_size": 8, "optimizer": "sgd", "peak_lr": 0.1, "warmup": 0,
                "weight_decay": 0.0, "amp": "off", "hidden": 16, "conv_hidden": 16}  # fmt: skip
    made = {"dataset": name, "root": "/home/me/pictures", "detector": {"folder": "/home/me/maps"}}
    data = {"name": name, "provenance": {"config": made}}
    about = {"policy": {}, "torch": name, "python": "3", "commit": name, "data": data}
    metrics.Journal(tmp_path).begin({"config": config, "settings": settings, "about": about})
    figures = {"auc": 0.5, "pointing": 0.5, "energy": 0.5}
    images = {"area_share": 0.1, "crops": {"area_share": 0.1}}
    evaluation = {"knn": None, "localisation": {name: figures, "images": images}, "left_out": {f"{name}.jpg": "bad"}}
    card = write_card(tmp_path, evaluation).read_text()
    assert "<" not in card
    assert "/home/me" not in card
    bare = re.sub("`[^`]*`", "", re.sub(r"\\.", "", card))  # without what is escaped, then without code
    for markup in ("](", "http:", "|b", "`", "\n# d"):
        assert markup not in bare
    assert '"root": "pictures"' in card
    assert '"folder": "maps"' in card
