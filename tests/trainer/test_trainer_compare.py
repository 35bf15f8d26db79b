"""Comparison of arms: the arithmetic by hand, and two arms for real."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from precompute.base.errors import UsageError
from trainer import run
from trainer.compare import program
from trainer.comparison.arms import arm_of
from trainer.comparison.table import missing_controls, paired, summarise, table

OTHERS = ", another image's keys"


def test_paired_interval_equals_students_t_by_hand() -> None:
    found = paired([0.5, 0.7, 0.6], [0.4, 0.5, 0.6])
    assert found["mean"] == pytest.approx(0.1)
    half = 4.302652729911275 * 0.1 / 3**0.5  # t(0.975, 2) × sd / √n; differences 0.1, 0.2, 0.0
    assert found["low"] == pytest.approx(0.1 - half)
    assert found["high"] == pytest.approx(0.1 + half)
    assert paired([0.5], [0.4])["low"] is None


def test_summary_is_about_the_files(tmp_path: Path) -> None:
    for arm, values in (("byol-rrc", (0.1, 0.3)), ("cvsa-saliencyswap-direct-head", (0.2, 0.5))):
        for seed, value in enumerate(values):
            folder = tmp_path / f"{arm}-seed{seed}"
            folder.mkdir()
            (folder / "evaluation.json").write_text(json.dumps({"knn": {"accuracy": value}, "localisation": None}))
            about = {"commit": f"c{seed}", "torch": "2", "python": "3", "threads": 2, "cores": 8}
            (folder / "metrics.jsonl").write_text(
                json.dumps({"kind": "config", "config": {}, "settings": {}, "about": about}) + "\n"
            )
    result = summarise(["byol:rrc", "cvsa:saliencyswap:direct-head"], range(2), "byol:rrc", tmp_path, [])
    assert result["about"] == {"commit": ["c0", "c1"], "torch": ["2"], "python": ["3"], "threads": [2]}
    found = result["measures"]
    assert set(found) == {"kNN accuracy"}
    other = found["kNN accuracy"]["cvsa:saliencyswap:direct-head"]
    assert other["mean"] == pytest.approx(0.35)
    assert other["paired"]["mean"] == pytest.approx(0.15)


def test_keys_that_matter_and_controls_that_are_missing_are_said(tmp_path: Path) -> None:
    """Correspondence is claimed where another image's keys make C worse in all of the interval, and nowhere else."""
    arms = ("cvsa:saliencyswap", "cvsa:copy-paste", "byol:rrc", "cvsa:saliencyswap:rolled-keys")
    worse, better = ((0.90, 0.91, 0.92), (0.70, 0.72, 0.71)), ((0.70, 0.72, 0.71), (0.90, 0.91, 0.92))
    auc = dict(zip(arms, (worse, better, None, None), strict=True))
    for arm, values in auc.items():
        for seed in range(3):
            folder = tmp_path / f"{arm.replace(':', '-')}-seed{seed}"
            folder.mkdir()
            found: dict = {"knn": {"accuracy": 0.1 * (1 + seed) + 0.01 * arms.index(arm)}, "localisation": None}
            if values is not None:
                names = [f"views: {what}{keys}" for what in ("C map", "relative C map") for keys in ("", OTHERS)]
                both = (*values, *reversed(values))
                found["localisation"] = {name: {"auc": v[seed]} for name, v in zip(names, both, strict=True)}
            (folder / "evaluation.json").write_text(json.dumps(found))
    result = summarise(arms, range(3), arms[1], tmp_path, ["--maps", "maps"])
    said = table(result).splitlines()
    keys = [line for line in said if "another image's keys change" in line]
    assert [line.split(":", 2)[1] for line in keys] == ["saliencyswap", "copy-paste"] * 2
    assert ["relative C's AUC" in line for line in keys] == [False, False, True, True]
    fall, rise = "by -0.200, -0.225 to -0.175: some correspondence", "by +0.200, +0.175 to +0.225: no correspondence"
    assert all(change in line for change, line in zip((fall, rise, rise, fall), keys, strict=True))
    (missing,) = (line for line in said if "not among --arms" in line)
    assert missing == "control arms that are not among --arms: " + ", ".join(result["missing_controls"])
    assert result["missing_controls"] == [
        *(f"cvsa:saliencyswap:{control}" for control in ("shuffled-masks", "direct-head")),
        *(f"cvsa:copy-paste:{control}" for control in ("shuffled-masks", "rolled-keys", "direct-head")),
    ]
    assert missing_controls(("cvsa:saliencyswap --own 0.25", "byol:saliencyswap", "cvsa:rrc:direct-head")) == []
    assert "in brackets the paired difference to cvsa:copy-paste" in said[0]
    accuracy = said[said.index("kNN accuracy") + 1 :][:4]
    assert [line.split()[0] for line in accuracy] == list(arms)
    assert [line.split()[1:4] for line in accuracy] == [[f"0.2{i}0", "±", "0.100"] for i in range(4)]
    assert ["(" in line for line in accuracy] == [True, False, True, True]
    assert [line.split("(")[1].split(",")[0] for line in accuracy if "(" in line] == ["-0.010", "+0.010", "+0.020"]
    shown = table(result, ("kNN accuracy",))
    assert "another image's keys" not in shown
    assert "not among --arms" not in shown


def test_an_arm_may_have_flags_of_its_own(tmp_path: Path) -> None:
    arm = "cvsa:saliencyswap:rolled-keys --own 0.25 --init 'a b.pth'"
    config = arm_of(arm, ["--size", "32", "--own", "0"], tmp_path).config(1)
    assert (config.views.own, config.views.size) == (0.25, 32)
    assert (config.loss.control, config.model.init) == ("rolled-keys", "a b.pth")
    assert Path(config.run.out).parent == tmp_path
    assert Path(config.run.out).name == "cvsa-saliencyswap-rolled-keys-own-0.25-init-a-b.pth-seed1"


def test_a_table_of_some_measures(tmp_path: Path) -> None:
    figures = {"values": [0.5, 0.7], "mean": 0.6, "sd": 0.1414, "paired": None}
    measures = {"kNN accuracy": {"byol:rrc": figures}, "probe AUC, whole images": {"byol:rrc": figures}}
    result = {"arms": ["byol:rrc"], "seeds": 2, "against": "byol:rrc", "measures": measures}
    lines = table(result, ("kNN accuracy",)).splitlines()
    assert [line.split() for line in lines[1:]] == [["kNN", "accuracy"], ["byol:rrc", "0.600", "±", "0.141"]]


@pytest.mark.parametrize(
    ("flags", "match"),
    [
        (["--arms", "byol:tets"], "byol:tets"),
        (["--arms", "byol:rrc", "--seeds", "0"], "--seeds 0"),
        (["--arms", "byol:rrc", "--first-seed", "-1"], "--first-seed -1"),
        (["--arms", "byol:rrc", "--against", "cvsa:saliencyswap"], "must be one of the arms"),
        (["--arms", "byol:rrc", "--", "--seed", "3"], "--seed after --"),
        (["--arms", "byol:rrc --seed 3"], "--seed --arms 'byol:rrc --seed 3'"),
        (["--arms", "matching:rrc"], "--align-weight 0. Flags of an arm alone stand within its quotes"),
        (["--arms", "byol:rrc --init 'x"], "No closing quotation"),
        (["--arms", "byol:rrc --size 32", "byol:rrc  --size  32"], "one folder"),
        (["--arms", "byol:rrc", "--show", "accuracy"], "'kNN accuracy'"),
    ],
)
def test_mistakes_name_themselves(flags: list[str], match: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=match):
        program(["--out", str(tmp_path), *flags])


def test_runs_that_were_trained_without_evaluation_are_evaluated(
    demo_boxes: Path, demo_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Trained where a minute is dear, evaluated and compared elsewhere."""
    flags = ["--boxes", str(demo_boxes), "--root", str(demo_root), "--arch", "resnet10w8", "--size", "32", "--epochs",
             "1", "--batch-size", "16", "--device", "cpu", "--pipeline", "kornia"]  # fmt: skip
    folder = tmp_path / "byol-rrc-seed0"
    assert run.program([*flags, "--method", "byol", "--policy", "rrc", "--no-evaluate", "--out", str(folder)]) == 0
    assert not (folder / "evaluation.json").exists()
    assert program(["--arms", "byol:rrc", "--seeds", "1", "--out", str(tmp_path), "--", *flags]) == 0
    assert "resumed at step 3 of 3" in capsys.readouterr().out
    assert "kNN accuracy" in json.loads((tmp_path / "compare.json").read_text())["measures"]


@pytest.mark.slow
def test_it_localises_with_controls(tmp_path: Path, run_module: Callable) -> None:
    """On the whole demo set: C finds the object on held-out views, and the twin with shuffled masks does not."""
    boxes = tmp_path / "demo.h5"
    root = tmp_path / "demo"
    assert run_module("precompute.boxes", "--dataset", "demo", "--root", root, "--out", boxes).returncode == 0
    arms = ["cvsa:saliencyswap", "cvsa:saliencyswap:shuffled-masks"]
    flags = ["--preset", "demo", "--boxes", boxes, "--root", root, "--size", 64, "--scene", "whole", "--own", 0,
             "--epochs", 22, "--device", "cpu"]  # fmt: skip
    done = run_module(
        "trainer.compare", "--arms", *arms, "--seeds", 1, "--out", tmp_path, "--json", "--", *flags, timeout=1200
    )
    assert done.returncode == 0, done.stderr
    auc = json.loads(done.stdout.splitlines()[-1])["measures"]["C map AUC, held-out views"]
    real, shuffled = (auc[arm]["mean"] for arm in arms)
    assert real >= 0.93
    assert real >= shuffled + 0.08
    found = json.loads((tmp_path / "cvsa-saliencyswap-seed0" / "evaluation.json").read_text())["localisation"]
    assert found["squared_error"] <= 0.5 * found["squared_error_of_constant"]
    assert found["images"]["probe"]["auc"] > found["images"]["centre prior"]["auc"] + 0.05
    assert found["views: centre prior"]["auc"] < real - 0.2
