"""A box file is up to date as long as all that its annotated boxes are made of is what it was."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from precompute.base.boxfile import BoxCache, write
from precompute.base.errors import UserError
from precompute.boxes import make_boxes
from precompute.datasets import read_dataset
from precompute.shards import annotations


def _coco(root: Path, shared_data: Path) -> Callable[[], object]:
    (root / "images").mkdir(parents=True)
    images, notes = [], []
    for i, file in enumerate(sorted((shared_data / "clothing-cc0" / "train" / "dress").iterdir())[:3]):
        shutil.copy(file, root / "images" / file.name)
        with Image.open(file) as picture:
            width, height = picture.size
        images.append({"id": i, "file_name": file.name, "width": width, "height": height})
        notes.append({"id": i, "image_id": i, "category_id": 1, "bbox": [9, 9, width // 3, height // 3]})
    content = {"images": images, "annotations": notes, "categories": [{"id": 1, "name": "dress"}]}

    def put(scale: int) -> None:
        sized = [image | {side: scale * image[side] for side in ("width", "height")} for image in images]
        (root / "train.json").write_text(json.dumps(content | {"images": sized}))

    put(1)
    return lambda: put(2)


def _nabirds(root: Path, shared_data: Path) -> Callable[[], object]:
    shutil.copytree(shared_data / "nabirds", root, copy_function=shutil.copyfile)
    root.chmod(0o755)
    file = root / "sizes.txt"
    lines = [line.split() for line in file.read_text().splitlines()]
    return lambda: file.write_text("".join(f"{key} {2 * int(w)} {2 * int(h)}\n" for key, w, h in lines))


def _imagenet(root: Path, shared_data: Path) -> Callable[[], object]:
    for folder in ("train/n1", "bbox/train/n1"):
        (root / folder).mkdir(parents=True)
    for file in sorted((shared_data / "clothing-cc0" / "train" / "dress").iterdir())[:3]:
        shutil.copy(file, root / "train" / "n1")
        xml = root / "bbox" / "train" / "n1" / f"{file.stem}.xml"
        box = "<xmin>10</xmin><ymin>10</ymin><xmax>100</xmax><ymax>100</ymax>"
        xml.write_text(f"<annotation><object><name>n1</name><bndbox>{box}</bndbox></object></annotation>")
    return lambda: xml.write_text(xml.read_text().replace("<xmin>10<", "<xmin>50<"))


def _pets(root: Path, shared_data: Path) -> Callable[[], object]:
    shutil.copytree(shared_data / "oxford-iiit-pet", root, copy_function=shutil.copyfile)
    for folder in (root, *root.rglob("*/")):
        folder.chmod(0o755)
    for file in (root / "annotations" / "trimaps").glob("*.png"):  # of a length that other values do not change
        Image.open(file).save(file, compress_level=0)

    def change() -> None:
        values = np.asarray(Image.open(file)).copy()
        values[: len(values) // 2] = 2
        size = file.stat().st_size
        Image.fromarray(values).save(file, compress_level=0)
        assert file.stat().st_size == size

    return change


SETS = {"coco": _coco, "nabirds": _nabirds, "imagenet": _imagenet, "pets": _pets}


@pytest.mark.parametrize("name", SETS)
def test_other_annotations_are_noticed_and_older_files_still_do(name, shared_data, tmp_path):
    root, out, said = tmp_path / name, tmp_path / "x.h5", []
    change = SETS[name](root, shared_data)

    def made(**options) -> BoxCache:
        said.clear()
        return make_boxes(name, root=str(root), out=str(out), say=said.append, **options)

    before = made()
    made()
    assert "up to date" in said[-1]
    assert not any("earlier version" in line for line in said)
    older = annotations(read_dataset(name, root), version=1)
    write(out, dataclasses.replace(before, provenance=before.provenance | {"annotations": older}))
    made()
    assert "up to date" in said[-1]
    assert any("is of an earlier version" in line for line in said)
    write(out, before)
    change()
    with pytest.raises(UserError, match=r"classes, labels, splits or boxes of .* have changed"):
        made()
    assert (made(rebuild=True).boxes != before.boxes).any()


def test_an_older_file_without_sizes_is_up_to_date_without_more_words(demo_root, tmp_path):
    said = []
    options = {"root": str(demo_root), "out": str(tmp_path / "x.h5"), "say": said.append}
    cache = make_boxes("cub", **options)
    older = annotations(read_dataset("cub", demo_root), version=1)
    write(tmp_path / "x.h5", dataclasses.replace(cache, provenance=cache.provenance | {"annotations": older}))
    make_boxes("cub", **options)
    assert "up to date" in said[-1]
    assert not any("earlier version" in line for line in said)


def test_a_resumed_run_keeps_no_part_of_other_sizes(shared_data, tmp_path, monkeypatch):
    root, out = tmp_path / "set", tmp_path / "x.h5"
    change = _nabirds(root, shared_data)
    options = {"root": str(root), "say": lambda line: None, "shard": 4}
    monkeypatch.setattr("precompute.shards.merge", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):  # all parts are made, and then it ends
        make_boxes("nabirds", out=str(out), **options)
    assert list(tmp_path.glob(".x.h5.shards/*/*.h5"))
    monkeypatch.undo()
    change()
    make_boxes("nabirds", out=str(out), **options)
    make_boxes("nabirds", out=str(tmp_path / "y.h5"), **options)
    assert (BoxCache.open(out).boxes == BoxCache.open(tmp_path / "y.h5").boxes).all()
