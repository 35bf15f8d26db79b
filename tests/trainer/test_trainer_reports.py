"""Every report of localisation stands beside its controls, and figures that do not exist break none of them."""

import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from trainer_runs import TINY

from precompute.base.errors import UserError
from precompute.boxes import make_boxes
from trainer import compare, evaluate, record
from trainer.comparison.table import missing_controls
from trainer.evaluation.localise import Figures
from trainer.record import metrics, model_card
from trainer.record.figures import area_shares, keys_sentence, localisation_table
from trainer.run import program

CONTROLS = (
    "C map, another image's keys", "C map, another image's mask", "linear direct head, no keys", "centre prior",
    "relative C map", "relative C map, another image's keys",
)  # fmt: skip


@pytest.fixture(scope="module")
def birds(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Twenty-four photographs whose boxes are all in the middle: none is off-centre."""
    root, source = tmp_path_factory.mktemp("birds") / "CUB", shared_data / "CUB_200_2011"
    rows = (source / "images.txt").read_text().splitlines()[:24]
    numbers = [row.split()[0] for row in rows]
    for row in rows:
        path = Path("images") / row.split()[1]
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source / path, root / path)
    (root / "images.txt").write_text("\n".join(rows) + "\n")
    shutil.copy(source / "classes.txt", root)
    labels = dict(line.split() for line in (source / "image_class_labels.txt").read_text().splitlines())
    (root / "image_class_labels.txt").write_text("".join(f"{n} {labels[n]}\n" for n in numbers))
    (root / "train_test_split.txt").write_text("".join(f"{n} {i % 2}\n" for i, n in enumerate(numbers)))
    from PIL import Image

    boxes = []
    for row in rows:
        with Image.open(root / "images" / row.split()[1]) as image:
            w, h = image.size
        boxes.append(f"{row.split()[0]} {w / 4} {h / 4} {w / 2} {h / 2}\n")
    (root / "bounding_boxes.txt").write_text("".join(boxes))
    out = root.parent / "birds.h5"
    make_boxes("cub", root=str(root), out=str(out), say=lambda _: None)
    return ["--boxes", str(out), "--root", str(root)]


@pytest.fixture(scope="module")
def run(birds: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one step with its evaluation."""
    out = tmp_path_factory.mktemp("run") / "run"
    assert program([*birds, *TINY, "--batch-size", "8", "--epochs", "1", "--out", str(out)]) == 0
    return out


def test_a_run_shows_its_controls_and_survives_figures_that_do_not_exist(run: Path) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    found = json.loads((run / "evaluation.json").read_text(), parse_constant=refuse)["localisation"]
    assert {f"views: {name}" for name in CONTROLS} <= found.keys()
    assert found["images"]["off_centre_images"] == 0
    assert found["images"]["probe"]["off_centre"]["auc"] is None
    rows = [json.loads(line, parse_constant=refuse) for line in (run / metrics.NAME).read_text().splitlines()]
    assert rows[-1]["kind"] == "evaluation"
    said = (run / record.CARD).read_text()
    assert all(f"| views: {name} |" in said for name in CONTROLS)
    assert "| off-centre crops: shuffled probe |" in said
    assert "Box area share (chance for pointing and energy): whole images 0.2" in said
    assert "another image's keys change C's AUC by" in said
    assert "another image's keys change relative C's AUC by" in said
    assert (
        "- alignment: preset `stable`, reduction scaled, align_weight 0.1; stage 4; whole views: infonce; dense" in said
    )


def test_the_card_has_each_figure_under_its_heading(run: Path) -> None:
    found = json.loads((run / "evaluation.json").read_text())
    said = (run / record.CARD).read_text().splitlines()
    start = said.index("| map | AUC per cell | pointing | energy in box |") + 2
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in said[start:] if line.startswith("|")]
    wanted = {name: f for name, f in found["localisation"].items() if isinstance(f, dict) and "auc" in f}
    assert [name for name, *_ in rows] == list(wanted)
    for name, *cells in rows:
        assert cells == [f"{wanted[name][key]:.3f}" for key in ("auc", "pointing", "energy")], name
    assert any(len(set(cells)) == 3 for _, *cells in rows), "figures that are all alike show no order"
    knn = {"accuracy": 0.125, "images": 12, "untrained": 0.25, "majority": 0.375}
    sentence = model_card._results({"knn": knn, "localisation": None})
    assert sentence.rstrip() == "- kNN (k=20) top-1 0.1250 of 12; untrained net 0.2500, most frequent class 0.3750"
    images, crops = {"area_share": 0.1}, {"area_share": 0.2}
    shares = area_shares({"images": {**images, "crops": crops}, "mask_share": 0.3})
    assert shares == "whole images 0.100, off-centre crops 0.200, views 0.300"


def test_a_runs_figures_are_of_the_images_that_they_name(run: Path) -> None:
    found = json.loads((run / "evaluation.json").read_text())["localisation"]
    keys = {"linear probe": "probe", "shuffled probe": "shuffled probe", "feature energy": "energy"}
    for name, key in keys.items():
        for where, of in (("images", found["images"]), ("off-centre crops", found["images"]["crops"])):
            shown = found[f"{where}: {name}"]
            assert shown == {figure: of[key][figure] for figure in shown}, (where, name)
        assert found[f"images: {name}"] != found[f"off-centre crops: {name}"]
    assert str(Figures(0.1, 0.2, 0.3, 4)) == "AUC 0.100  pointing 0.200  energy 0.300"


def test_evaluates_table_has_each_figure_under_its_heading() -> None:
    """Every figure is another number."""
    numbers = (i / 1000 for i in itertools.count(100))

    def figures() -> dict[str, Any]:
        three = {key: next(numbers) for key in ("energy", "pointing", "auc")}
        return {**three, "max_box_accuracy": {iou: next(numbers) for iou in ("0.7", "0.5", "0.3")}, "images": 9}

    def tables() -> dict[str, Any]:
        maps = {key: figures() | {"off_centre": figures()} for key in ("centre prior", "energy", "shuffled probe")}
        probe = figures() | {"off_centre": figures()}
        return {"area_share": next(numbers), "off_centre_images": 5, "cells": 7, **maps, "probe": probe}

    found = tables() | {"crops": tables()}
    said = localisation_table(found)
    whole, crops = said.split("localise, off-centre crops: ")
    for text, of in ((whole, found), (crops, found["crops"])):
        about, heading, *rows = text.splitlines()[:6]
        assert about.endswith(f"box area share {of['area_share']:.3f}, 5 images off-centre")
        assert " ".join(heading.split()) == "map AUC point energy off-centre AUC MaxBoxAcc@0.3 @0.5 @0.7"
        for key, row in zip(("probe", "shuffled probe", "energy", "centre prior"), rows, strict=True):
            f, boxes = of[key], of[key]["max_box_accuracy"]
            wanted = [
                f["auc"],
                f["pointing"],
                f["energy"],
                f["off_centre"]["auc"],
                *map(boxes.get, ("0.3", "0.5", "0.7")),
            ]
            assert row.split() == [*key.split(), *(f"{value:.3f}" for value in wanted)]


def test_evaluate_shows_controls_and_strict_json(birds: list[str], run: Path, capsys: pytest.CaptureFixture) -> None:
    flags = [*birds, "--protocol", "localise", "--size", "32", "--device", "cpu", "--workers", "1", "--json"]
    assert evaluate.program([str(run / "encoder.safetensors"), *flags]) == 0
    said = capsys.readouterr().out
    for word in ("box area share", "shuffled probe", "centre prior", "direct head", "Rolled keys", "trainer.compare"):
        assert word in said
    assert json.loads(said.splitlines()[-1])["localise"]["probe"]["off_centre"]["auc"] is None


def test_compare_names_the_control_arms_that_are_missing(birds: list[str], tmp_path: Path, capsys) -> None:
    arms = ["byol:rrc", "cvsa:saliencyswap", "cvsa:saliencyswap:direct-head"]
    assert missing_controls(tuple(arms)) == ["cvsa:saliencyswap:shuffled-masks", "cvsa:saliencyswap:rolled-keys"]
    assert missing_controls(("byol:rrc",)) == []
    assert missing_controls(("matching:rrc",), ["--align-weight", "0"]) == [
        "matching:rrc:rolled-keys", "matching:rrc:wrong-cells",
    ]  # fmt: skip
    flags = [*birds, *TINY, "--batch-size", "8", "--epochs", "1"]
    command = ["--arms", *arms, "--seeds", "1", "--out", str(tmp_path), "--", *flags]
    assert compare.program(command) == 0
    said = capsys.readouterr().out
    assert "not among --arms: cvsa:saliencyswap:shuffled-masks, cvsa:saliencyswap:rolled-keys" in said
    assert "cvsa:saliencyswap: another image's keys change C's AUC by" in said
    for name in ("box area share, held-out views", "C map AUC, another image's mask", "shuffled probe AUC"):
        assert name in said
    (tmp_path / "byol-rrc-seed0" / record.CARD).unlink()  # killed between the evaluation and the card
    for name in ("compare.json", "compare.png"):
        (tmp_path / f".{name}.k1ll3d.tmp").touch()
    assert compare.program(command) == 0
    assert not list(tmp_path.glob(".*.tmp"))
    said = capsys.readouterr().out
    assert said.count("done before") == 2
    assert (tmp_path / "byol-rrc-seed0" / record.CARD).exists()
    with pytest.raises(UserError, match="byol-rrc-seed0 was trained with --epochs 1, and now it would be --epochs 2"):
        compare.program([*command, "--epochs", "2"])
    with pytest.raises(
        UserError, match=r"rrc.*saliencyswap, instloc, copy-paste. With --method cvsa and nothing pasted"
    ):
        compare.program(["--arms", "byol:rrc", "cvsa:rrc", "--out", str(tmp_path / "new"), "--", *flags])
    assert not (tmp_path / "new").exists()


def test_correspondence_is_claimed_only_where_keys_matter() -> None:
    assert "no correspondence" in keys_sentence({"change": -0.01, "standard_error": 0.006})
    assert "no correspondence" in keys_sentence({"change": 0.05, "standard_error": 0.006})
    assert "some correspondence" in keys_sentence({"change": -0.02, "standard_error": 0.006})
    assert "12 images are too few" in keys_sentence({"change": -0.02, "standard_error": 0.006, "images": 12})


def test_a_split_that_is_not_there_shows_before_the_training(birds: list[str], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="tets"):
        program([*birds, *TINY, "--batch-size", "8", "--eval-split", "tets", "--out", str(tmp_path / "run")])
    assert not (tmp_path / "run" / metrics.NAME).exists()
