"""What would show only after hours of training: found before it, or told with what is there and how to go on."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from trainer_runs import TINY

from augment.request import Making
from precompute.base.boxfile import BoxCache, write
from precompute.base.errors import UsageError, UserError
from trainer import compare, evaluate, run
from trainer.config import command_line
from trainer.engine.data import Data
from trainer.evaluation.bench import Bench
from trainer.evaluation.protocols import features
from trainer.methods.byol import Alignment
from trainer.model.encoders import untrained
from trainer.record import checkpoint, metrics

SHORT = [*TINY, "--epochs", "1"]


@pytest.fixture
def spoilt(demo_boxes: Path, demo_root: Path, tmp_path: Path) -> tuple[list[str], dict[str, str]]:
    """Flags of the demo set with a file cut off and one removed in each split, and by split the first of them."""
    cache, root = BoxCache.open(demo_boxes), tmp_path / "demo"
    shutil.copytree(demo_root, root)
    first = {}
    for split in ("train", "test"):
        short, gone = (cache.path(int(row)) for row in cache.indices(split)[[3, 5]])
        data = (root / short).read_bytes()
        (root / short).write_bytes(data[: len(data) // 2])
        (root / gone).unlink()
        first[split] = short
    return ["--boxes", str(demo_boxes), "--root", str(root)], first


def test_files_that_went_bad_are_left_out_of_the_evaluation_and_named(
    spoilt: tuple[list[str], dict[str, str]], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    flags, bad = spoilt
    assert run.program([*flags, *SHORT, "--out", str(tmp_path / "run")]) == 0
    told = capsys.readouterr().out
    assert "left out of the evaluation: 4 pictures" in told
    found = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert set(bad.values()) < set(found["left_out"])
    cache = BoxCache.open(flags[1])
    assert found["knn"]["images"] == found["matching"]["pairs"] == len(cache.indices("test")) - 2
    assert all(path in (tmp_path / "run" / "MODEL_CARD.md").read_text() for path in found["left_out"])
    evaluation = [row for row in metrics.read(tmp_path / "run" / metrics.NAME) if row["kind"] == "evaluation"]
    assert evaluation[0]["left_out"] == found["left_out"]


def test_where_bad_files_are_errors_the_run_tells_how_to_have_its_evaluation(
    spoilt: tuple[list[str], dict[str, str]], demo_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    flags, bad = spoilt
    out = tmp_path / "run"
    for path in (tmp_path / "demo").rglob("*.jpg"):  # the training's files are whole again
        if bad["train"] in str(path):
            shutil.copy(demo_root / bad["train"], path)
    cache = BoxCache.open(flags[1])
    gone = cache.path(int(cache.indices("train")[5]))
    shutil.copy(demo_root / gone, tmp_path / "demo" / gone)
    with pytest.raises(UserError, match=f"{bad['test']}: changed since .*precompute.boxes"):
        run.program([*flags, *SHORT, "--on-bad", "fail", "--out", str(out)])
    told = capsys.readouterr().out
    assert f"not evaluated. For that: python -m trainer.run --resume {out} --on-bad replace\n" in told
    assert (out / "encoder.safetensors").exists()
    shutil.copytree(out, tmp_path / "copy")
    assert run.program(["--resume", str(tmp_path / "copy"), "--on-bad", "replace"]) == 0
    assert len(json.loads((tmp_path / "copy" / "evaluation.json").read_text())["left_out"]) == 2
    shutil.copytree(demo_root, tmp_path / "demo", dirs_exist_ok=True)
    assert run.program(["--resume", str(out)]) == 0
    assert "left_out" not in json.loads((out / "evaluation.json").read_text())


def test_an_evaluation_names_a_file_that_went_bad(spoilt: tuple[list[str], dict[str, str]]) -> None:
    flags, bad = spoilt
    random = ["random", "--arch", "resnet10w4", *flags, "--size", "32", "--device", "cpu"]
    with pytest.raises(UserError, match=f"{bad['train']}: changed since"):
        evaluate.program([*random, "--protocol", "knn"])
    with pytest.raises(UserError, match=r"changed since|cannot be read"):
        evaluate.program([*random, "--protocol", "finetune", "--finetune-epochs", "1"])


def test_a_split_without_a_readable_image_says_so(demo_boxes: Path, tmp_path: Path, monkeypatch) -> None:
    cache = BoxCache.open(demo_boxes)
    encoder, _ = untrained("resnet10w4", 32)
    (tmp_path / "images").mkdir()  # an empty folder would be waited for, as one that is not mounted
    bench = Bench(Data(cache, demo_boxes, tmp_path), "train", "test", 32, making=Making(device="cpu"))
    monkeypatch.setattr("augment.stream.evaluation.ImageSet.open", lambda *_: _no_folder(cache, tmp_path))
    with pytest.raises(UserError, match="split 'test': none of its images can be read"):
        features(encoder, bench, "test")
    assert len(bench.left_out) == len(cache.indices("test"))


def _no_folder(cache: BoxCache, root: Path):
    from augment.stream.imageset import ImageSet

    return ImageSet([(cache, root)])


def test_maps_of_the_held_out_pictures_are_missed_before_the_training(
    demo_boxes: Path, demo_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    from PIL import Image

    cache = BoxCache.open(demo_boxes)
    for row in cache.indices("train").tolist():
        path = (tmp_path / "maps" / cache.path(row)).with_suffix(".png")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), 255).save(path)
    flags = ["--boxes", str(demo_boxes), "--root", str(demo_root), *SHORT, "--policy", "copy-paste",
             "--maps", str(tmp_path / "maps")]  # fmt: skip
    with pytest.raises(UserError, match=r"maps of split 'test' too.*no map for \d+ of \d+ images.*--no-evaluate"):
        run.program([*flags, "--out", str(tmp_path / "run")])
    assert "step 1/" not in capsys.readouterr().out
    assert not (tmp_path / "run").exists()
    assert run.program([*flags, "--out", str(tmp_path / "run"), "--no-evaluate"]) == 0
    assert run.program([*flags, "--out", str(tmp_path / "byol"), "--method", "byol"]) == 0  # which needs no views of it


def usage(argv: list[str]) -> None:
    command_line.config_of(command_line.parse(argv)[0])


@pytest.mark.parametrize(
    ("program", "flags", "match"),
    [
        (usage, "--dim 1000000000000", "--dim 1000000000000: must be within 1 and 65536"),
        (usage, "--conv-hidden 65537", "--conv-hidden 65537: must be within 1 and 65536"),
        (evaluate.program, "random --size 4 --protocol linear", "--size 4: must be within 8 and 4096"),
        (
            evaluate.program,
            "random --batch-size 1 --protocol finetune",
            "--batch-size 1: must be at least 2 for --protocol finetune",
        ),
        (
            evaluate.program,
            "random --batch-size 1 --protocol all",
            "--batch-size 1: must be at least 2 for --protocol finetune",
        ),
    ],
)
def test_values_out_of_range_are_usage_errors(program: Callable, flags: str, match: str) -> None:
    with pytest.raises(UsageError, match=match):
        program(flags.split())


def test_warm_up_is_at_most_the_run(demo_boxes: Path, demo_root: Path, tmp_path: Path, capsys) -> None:
    flags = ["--boxes", str(demo_boxes), "--root", str(demo_root), *SHORT, "--no-evaluate"]
    assert run.program([*flags, "--warmup-epochs", "1e308", "--out", str(tmp_path / "run")]) == 0
    assert "--warmup-epochs 1e+308 is the whole run" in capsys.readouterr().out
    assert "(1 epoch)" in (tmp_path / "run" / "MODEL_CARD.md").read_text()


def test_a_gallery_of_one_cell_has_no_auc(demo_boxes: Path, demo_root: Path, tmp_path: Path, capsys) -> None:
    sheet = tmp_path / "g.png"
    torch.manual_seed(0)
    assert evaluate.program(
        ["random", "--arch", "resnet10w4", "--boxes", str(demo_boxes), "--root", str(demo_root), "--size", "8",
         "--device", "cpu", "--protocol", "knn", "--gallery", str(sheet)]
    ) == 0  # fmt: skip
    told = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("gallery:"))
    assert "nan" not in told
    assert "there is none" in told
    assert sheet.exists()


def test_views_without_both_kinds_of_cells_have_no_figure_of_rolled_keys(
    demo_boxes: Path, demo_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    flags = ["--boxes", str(demo_boxes), "--root", str(demo_root), *SHORT, "--size", "8"]  # maps of one cell
    assert run.program([*flags, "--out", str(tmp_path / "run")]) == 0
    assert "nan" not in capsys.readouterr().out
    assert json.loads((tmp_path / "run" / "evaluation.json").read_text())["localisation"] is None
    assert "nan" not in (tmp_path / "run" / "MODEL_CARD.md").read_text()


@pytest.mark.parametrize(
    ("pictures", "match"),
    [(1, "its controls need another held-out picture; split 'test' has 1"), (4, "there are no held-out images with")],
)
def test_why_a_run_has_no_localisation(
    pictures: int, match: str, demo_boxes: Path, demo_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """A single held-out picture, with its box; several, of which no box is known."""
    cache = BoxCache.open(demo_boxes)
    test, splits, scores = cache.indices("test"), cache.splits.copy(), cache.scores.copy()
    splits[test[pictures:]] = 2
    if pictures > 1:
        scores[test] = 0
    write(tmp_path / "few.h5", replace(cache, splits=splits, scores=scores, split_names=(*cache.split_names, "spare")))
    flags = ["--boxes", str(tmp_path / "few.h5"), "--root", str(demo_root), *SHORT]
    assert run.program([*flags, "--out", str(tmp_path / "run")]) == 0
    assert f"localisation: left out, {match}" in capsys.readouterr().out


def test_a_file_that_fails_a_run_is_told_with_its_way_out(
    spoilt: tuple[list[str], dict[str, str]], tmp_path: Path
) -> None:
    flags, _ = spoilt
    with pytest.raises(UserError, match=r"\.jpg: .*\(on_bad=replace would take another image instead\)"):
        run.program([*flags, *SHORT, "--epochs", "2", "--on-bad", "fail", "--out", str(tmp_path / "run")])


@pytest.mark.parametrize(
    ("mistake", "match"),
    [
        ("--init nofile.pth", "nofile.pth"),
        ("--batch-size 100", "--batch-size 100 is more than the 48 images"),
        ("--pipeline dali --colour torchvision", "dali.*colour.*linear"),
        ("--cache gpu --device cpu", "cache=.?gpu.*ram, disk, shared or off"),
        ("--workers 1 --backgrounds none.h5 .", "none.h5"),
        ("--arch resnet99", "resnet99"),
    ],
)
def test_a_mistake_of_a_later_arm_shows_before_the_first_has_trained(
    demo_boxes: Path, demo_root: Path, tmp_path: Path, mistake: str, match: str
) -> None:
    flags = ["--seeds", "1", "--out", str(tmp_path / "out"), "--", "--boxes", str(demo_boxes), "--root", str(demo_root)]
    with pytest.raises(UserError, match=match):
        compare.program(["--arms", "byol:rrc", f"byol:rrc {mistake}", *flags, *SHORT])
    assert not (tmp_path / "out").exists()


def test_a_picture_alone_in_the_last_batch_gets_another_ones_keys(
    demo_boxes: Path, demo_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """48 held-out images in batches of 47: rolled within its batch, the last one's keys would be its own."""
    real, seen = Alignment.correspondence, []

    def correspondence(self: Alignment, online, keys, stage: int):
        seen.append(keys.maps[stage])
        return real(self, online, keys, stage)

    monkeypatch.setattr(Alignment, "correspondence", correspondence)
    flags = ["--boxes", str(demo_boxes), "--root", str(demo_root), *SHORT, "--batch-size", "47"]
    assert run.program([*flags, "--out", str(tmp_path / "run")]) == 0
    (own, rolled), (last, others) = seen[-4:-2], seen[-2:]
    assert (len(own), len(last), len(others)) == (47, 1, 1)
    assert torch.equal(rolled, own.roll(1, 0))
    assert torch.equal(others, own[-1:])


def test_without_labels_the_default_protocols_are_those_that_need_none(
    demo_boxes: Path, demo_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    cache = BoxCache.open(demo_boxes)
    write(tmp_path / "bare.h5", replace(cache, labels=np.full(len(cache), -1, cache.labels.dtype)))
    flags = ["random", "--arch", "resnet10w4", "--root", str(demo_root), "--size", "32", "--device", "cpu"]
    assert evaluate.program([*flags, "--boxes", str(tmp_path / "bare.h5"), "--json"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert "--protocol localise: the default where there are no labels" in told
    assert "knn" not in json.loads(told[-1])
    with pytest.raises(UserError, match=r"no labels in train or test\. --protocol localise needs none"):
        evaluate.program([*flags, "--boxes", str(tmp_path / "bare.h5"), "--protocol", "knn"])
    assert evaluate.program([*flags, "--boxes", str(demo_boxes)]) == 0
    assert "--protocol knn localise: the default" in capsys.readouterr().out.splitlines()


def test_a_run_goes_on_where_its_maps_and_backgrounds_are_now(
    demo_boxes: Path, demo_root: Path, tmp_path: Path
) -> None:
    from PIL import Image

    cache, maps, out = BoxCache.open(demo_boxes), tmp_path / "maps", tmp_path / "run"
    for row in range(len(cache)):
        path = (maps / cache.path(row)).with_suffix(".png")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), 255).save(path)
    other = tmp_path / "other.h5"
    shutil.copy(demo_boxes, other)
    flags = ["--boxes", str(demo_boxes), "--root", str(demo_root), *SHORT, "--policy", "copy-paste", "--no-evaluate"]
    assert (
        run.program([*flags, "--maps", str(maps), "--backgrounds", str(other), str(demo_root), "--out", str(out)]) == 0
    )
    os.rename(out / checkpoint.PREVIOUS, out / checkpoint.NAME)
    maps.rename(tmp_path / "moved")
    with pytest.raises(UserError, match=f"--maps {maps}, and from .* there is none. .*with --maps"):
        run.program(["--resume", str(out)])
    other.rename(tmp_path / "elsewhere.h5")
    moved = ["--maps", str(tmp_path / "moved")]
    with pytest.raises(UserError, match=f"--backgrounds {other}, and from .* there is none. .*with --backgrounds"):
        run.program(["--resume", str(out), *moved])
    backgrounds = ["--backgrounds", str(tmp_path / "elsewhere.h5"), str(demo_root)]
    assert run.program(["--resume", str(out), *moved, *backgrounds]) == 0


def test_figures_of_no_image_are_dashes(
    demo_boxes: Path, demo_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Views whose patch covers no cell by half, and a set whose boxes all lie in the middle."""
    flags = ["--boxes", str(demo_boxes), "--root", str(demo_root), *SHORT, "--box-cap", "0.0001", "--own", "0"]
    assert run.program([*flags, "--out", str(tmp_path / "run")]) == 0
    told, card = capsys.readouterr().out, (tmp_path / "run" / "MODEL_CARD.md").read_text()
    assert "AUC -  pointing -  energy -  (0 images)" in told
    assert "| views: C map | - | - | - |" in card
    assert "nan" not in told + card
    cache = BoxCache.open(demo_boxes)
    middle = np.tile(np.float32([0.3, 0.3, 0.7, 0.7]), (len(cache), 1))
    write(tmp_path / "middle.h5", replace(cache, boxes=middle))
    flags = ["--boxes", str(tmp_path / "middle.h5"), "--root", str(demo_root), "--size", "64", "--device", "cpu"]
    assert evaluate.program(["random", "--arch", "resnet10w4", *flags, "--protocol", "localise"]) == 0
    told = capsys.readouterr().out
    assert "0 images off-centre" in told
    assert "nan" not in told


def test_maps_that_a_run_does_not_use_are_not_missed(demo_boxes: Path, demo_root: Path, tmp_path: Path) -> None:
    """As those of a comparison, which hands them to all arms."""
    flags = ["--boxes", str(demo_boxes), "--root", str(demo_root), *SHORT, "--method", "byol", "--policy", "rrc"]
    out = tmp_path / "run"
    assert run.program([*flags, "--maps", str(tmp_path / "gone"), "--no-evaluate", "--out", str(out)]) == 0
    os.rename(out / checkpoint.PREVIOUS, out / checkpoint.NAME)
    assert run.program(["--resume", str(out)]) == 0
