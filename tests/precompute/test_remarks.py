"""What is said about a set before anything is trained on it: copies, classes, splits, dark pictures; --strict."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from augment import Making, Policy, open_views
from precompute.base.boxfile import BoxCache
from precompute.boxes import make_boxes, program
from precompute.inspect import program as inspect
from precompute.remarks import remarks
from trainer.engine.data import Data
from trainer.evaluation.bench import Bench


def _picture(path: Path, seed: int) -> Path:
    """A JPEG of noise in blocks, another one for every seed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    blocks = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), np.uint8)
    Image.fromarray(blocks).resize((96, 72), Image.Resampling.NEAREST).save(path, quality=90)
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three classes, four pictures of each to train on and two to test on."""
    for k, name in enumerate(("finch", "heron", "wren")):
        for i in range(6):
            split = "train" if i < 4 else "test"
            _picture(tmp_path / "set" / split / name / f"{i}.jpg", 10 * k + i)
    return tmp_path / "set"


def _boxes(root: Path, **options) -> BoxCache:
    return make_boxes("folder", root=str(root), out=str(root.parent / "set.h5"), say=lambda _: None, **options)


def _said(root: Path) -> list[str]:
    return list(map(str, remarks(_boxes(root))))


def test_a_good_set_has_no_remarks(root, capsys):
    assert _said(root) == []
    assert program(["--dataset", "folder", "--root", str(root), "--out", str(root.parent / "set.h5"), "--strict"]) == 0
    assert "classes: finch, heron, wren" in capsys.readouterr().out


def test_a_picture_in_two_splits_is_named_and_left_out_of_the_evaluation(root):
    shutil.copy(root / "train/wren/0.jpg", root / "test/wren/again.jpg")
    (said,) = _said(root)
    assert said.startswith("1 picture in two splits (such as train/wren/0.jpg = test/wren/again.jpg)")
    cache = BoxCache.open(root.parent / "set.h5")
    bench = Bench(Data(cache, root.parent / "set.h5", root), "train", "test", size=32, batch=4)
    judged = [cache.path(int(row)) for _, rows in bench.images("test", "whole") for row in rows]
    assert len(judged) == 6
    assert "test/wren/again.jpg" not in judged
    assert bench.left_out == {"test/wren/again.jpg": "equals train/wren/0.jpg of split train"}
    assert len(bench.rows("train")) == 12
    assert len(bench.rows("test")) == 6


def test_parts_of_a_split_are_judged_without_copies_too(root):
    shutil.copy(root / "train/finch/0.jpg", root / "train/finch/2-copy.jpg")
    cache = _boxes(root)
    fit, dev = (set(cache.indices(f"train/{part}").tolist()) for part in ("fit", "dev"))
    row = {cache.path(i): i for i in range(len(cache))}
    copy, original = row["train/finch/2-copy.jpg"], row["train/finch/0.jpg"]
    assert (copy in fit) != (copy in dev)
    bench = Bench(Data(cache, root.parent / "set.h5", root), "train/fit", "train/dev", size=32, batch=4)
    assert set(bench.rows("train/fit").tolist()) == fit
    expected = dev - {copy, original} if (copy in fit) != (original in fit) else dev
    assert set(bench.rows("train/dev").tolist()) == expected


def test_nothing_held_out_is_refused(root, run_here):
    shutil.rmtree(root / "test")
    shutil.copytree(root / "train", root / "test")
    (said,) = _said(root)
    assert said.startswith("12 pictures in two splits")
    done = run_here(
        "trainer.evaluate", "random", "--arch", "resnet10w8", "--boxes", root.parent / "set.h5", "--root", root
    )
    assert done.returncode == 1
    assert "all 12 pictures of --eval-split test are in --train-split train too" in done.stderr


def test_one_picture_in_two_classes_and_twice_in_one(root):
    shutil.copy(root / "train/wren/0.jpg", root / "train/heron/x.jpg")
    shutil.copy(root / "train/finch/1.jpg", root / "train/finch/1 (copy).jpg")
    said = _said(root)
    assert [text.split(" (such")[0] for text in said] == [
        "1 picture in two classes", "1 picture with the contents of another of their class",
    ]  # fmt: skip


def test_a_copy_is_no_background_of_its_picture(root):
    for name in ("finch", "heron", "wren"):
        for i in range(3):
            shutil.copy(root / f"train/{name}/{i}.jpg", root / f"train/{name}/copy-{i}.jpg")
    cache = _boxes(root)
    keys = [key.tobytes() for key in cache.hashes]
    views = open_views(
        root.parent / "set.h5",
        root,
        policy=Policy(size=32),
        batch_size=7,
        making=Making(device="cpu", backend="kornia"),
    )
    pairs = 0
    with views:
        for _ in range(4):
            for batch in views:
                for source, others in zip(batch.sources.tolist(), batch.backgrounds.tolist(), strict=True):
                    assert all(keys[other] != keys[source] for other in others)
                    pairs += len(others)
    assert pairs == 4 * 21 * 2


def test_classes_of_one_split_only(root, run_here):
    _picture(root / "test/kite/1.jpg", 99)
    (said,) = _said(root)
    assert said.startswith("1 of 4 classes of split test are in no other split (such as kite)")
    for name in ("finch", "heron", "wren"):
        (root / "test" / name).rename(root / "test" / name.upper())
    said = [str(r) for r in remarks(_boxes(root, rebuild=True))]
    assert "test has no class in common with train: accuracies would be 0" in said[1]
    flags = ["random", "--arch", "resnet10w8", "--size", "32", "--boxes", root.parent / "set.h5", "--root", root]
    done = run_here("trainer.evaluate", *flags)
    assert done.returncode == 1
    assert "--eval-split test have no class in common (such as finch and FINCH)" in done.stderr
    assert "--protocol localise" in done.stderr
    assert run_here("trainer.evaluate", *flags, "--protocol", "localise").returncode == 0
    done = run_here("trainer.run", *flags[1:], "--epochs", "1", "--batch-size", "4", "--out", root.parent / "run")
    assert done.returncode == 1
    assert "leave the evaluation out: --no-evaluate" in done.stderr
    assert not (root.parent / "run").exists()


def test_the_split_with_labels_is_judged(root, run_here):
    (root / "test").rename(root / "val")
    _picture(root / "test" / "a.jpg", 50)
    _boxes(root)
    done = run_here(
        "trainer.evaluate", "random", "--arch", "resnet10w8", "--size", "32", "--boxes", root.parent / "set.h5",
        "--root", root, "--protocol", "knn",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "evaluation on split val: test has no labels (--eval-split)" in done.stdout
    assert "of 6 images" in done.stdout


def test_dark_and_empty_pictures(root):
    Image.new("RGB", (80, 60), (3, 2, 4)).save(root / "train/finch/black.jpg")
    Image.new("L", (80, 60), 255).save(root / "train/finch/white.png")
    said = _said(root)
    assert [text.split(" (such")[0] for text in said] == ["1 nearly black pictures", "1 picture of a single colour"]
    assert "train/finch/black.jpg" in said[0]
    assert "train/finch/white.png" in said[1]


def test_strict_and_json(root, capsys):
    shutil.copy(root / "train/wren/0.jpg", root / "test/wren/again.jpg")
    out = str(root.parent / "set.h5")
    flags = ["--dataset", "folder", "--root", str(root), "--out", out]
    with pytest.raises(Exception, match=r"--strict: 1 remark on .*set\.h5, which is written"):
        program([*flags, "--strict"])
    capsys.readouterr()
    assert program([*flags, "--json"]) == 0
    (remark,) = json.loads(capsys.readouterr().out.splitlines()[-1])["remarks"]
    assert remark["count"] == 1
    assert remark["example"] == "train/wren/0.jpg = test/wren/again.jpg"
    assert remark["consequence"]
    assert remark["remedy"]
    assert inspect([out, "--root", str(root)]) == 0
    assert "attention   1 picture in two splits" in capsys.readouterr().out
    assert inspect([out, "--root", str(root), "--strict"]) == 1


def test_a_detector_that_finds_nothing(root):
    maps = root.parent / "maps"
    for file in root.rglob("*.jpg"):
        path = maps / f"{file.relative_to(root)}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (64, 64), 0).save(path)
    said = list(map(str, remarks(_boxes(root, source="maps", maps=str(maps)))))
    assert said[0].startswith("18 of 18 pictures in which maps found no box")
