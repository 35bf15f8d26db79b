"""JSON files in COCO's format as tools write them, and labels from CSV files."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from precompute.base.errors import UserError
from precompute.boxes import make_boxes
from precompute.datasets import read_dataset


def _picture(path: Path, size: tuple[int, int] = (60, 40), orientation: int = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.effect_noise(size, 80).convert("RGB").save(path, exif=exif)


def _json(path: Path, images: list[dict[str, Any]], notes: list[dict[str, Any]], **more: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    categories = [{"id": 3, "name": "wren"}, {"id": 1, "name": "finch"}]
    path.write_text(json.dumps({"images": images, "annotations": notes, "categories": categories} | more))
    return path


IMAGE = {"id": 7, "file_name": "a.jpg", "width": 60, "height": 40}
NOTE = {"id": 1, "image_id": 7, "category_id": 3, "bbox": [6, 4, 30, 20]}


def _one(root: Path, **options: Any):
    """The only row's class, split, box and source."""
    cache = make_boxes("coco", root=str(root), out=str(root / "x.h5"), say=lambda _: None, **options)
    assert len(cache) == 1
    label = cache.class_names[cache.labels[0]] if cache.labels[0] >= 0 else None
    source = cache.source_names[cache.sources[0]]
    return label, cache.split_names[cache.splits[0]], [round(float(x), 4) for x in cache.boxes[0]], source


EXPECTED = [0.1, 0.1, 0.6, 0.6]


@pytest.mark.parametrize(
    ("file", "picture"),
    [
        ("annotations/instances_train2017.json", "train2017/a.jpg"),
        ("annotations/instances_train2014.json", "train2014/a.jpg"),
        ("annotations/instances_default.json", "images/a.jpg"),
        ("train/_annotations.coco.json", "train/a.jpg"),
        ("result.json", "images/a.jpg"),
        ("labels.json", "data/a.jpg"),
        ("annotations.json", "a.jpg"),
    ],
)
def test_any_names(tmp_path, file, picture):
    _picture(tmp_path / picture)
    _json(tmp_path / file, [IMAGE], [NOTE])
    assert _one(tmp_path) == ("wren", "train", EXPECTED, "gt")


def test_splits_of_roboflow_and_others(tmp_path):
    for split in ("train", "valid", "test"):
        _picture(tmp_path / split / f"{split}.jpg")
        _json(tmp_path / split / "_annotations.coco.json", [IMAGE | {"file_name": f"{split}.jpg"}], [NOTE])
    listing = read_dataset("coco", tmp_path)
    assert {p: listing.split_names[s] for p, s in zip(listing.paths, listing.splits, strict=True)} == {
        "train/train.jpg": "train", "valid/valid.jpg": "val", "test/test.jpg": "test",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("image", "note", "more"),
    [
        ({"id": "7"}, {}, {}),
        ({}, {"image_id": "7", "category_id": "3"}, {}),
        ({"file_name": "deep\\a.jpg"}, {}, {}),
        ({"file_name": "deep/a.jpg"}, {}, {"categories": [{"id": "3", "name": "wren"}]}),
        ({}, {"bbox": [], "segmentation": [[6, 4, 36, 4, 36, 24, 6, 24]]}, {}),
        ({}, {"bbox": None, "segmentation": {"size": [40, 60], "counts": [244, *[20, 20] * 29, 20, 976]}}, {}),
    ],
)
def test_ids_paths_and_masks_as_tools_write_them(tmp_path, image, note, more):
    image = IMAGE | image
    _picture(tmp_path / "images" / image["file_name"].replace("\\", "/"))
    _json(tmp_path / "export.json", [image], [NOTE | note], **more)
    assert _one(tmp_path) == ("wren", "train", EXPECTED, "gt")


@pytest.mark.parametrize("more", [{"categories": []}, {"categories": None}])
def test_without_categories_there_are_boxes_and_no_labels(tmp_path, more):
    _picture(tmp_path / "images" / "a.jpg")
    _json(tmp_path / "export.json", [IMAGE], [NOTE], **more)
    assert _one(tmp_path) == (None, "train", EXPECTED, "gt")


def test_pictures_of_two_splits_with_the_same_names(tmp_path):
    for split in ("train", "val"):
        _picture(tmp_path / split / "a.jpg", (60, 40) if split == "train" else (30, 20))
        _json(tmp_path / "annotations" / f"{split}.json", [IMAGE], [NOTE])
    listing = read_dataset("coco", tmp_path)
    assert {p: listing.split_names[s] for p, s in zip(listing.paths, listing.splits, strict=True)} == {
        "train/a.jpg": "train", "val/a.jpg": "val",
    }  # fmt: skip


def test_a_class_is_its_name_whatever_the_ids_of_the_next_file(tmp_path):
    for split, ids in (("train", (3, 1)), ("val", (1, 3))):
        _picture(tmp_path / split / f"{split}.jpg")
        kinds = [{"id": ids[0], "name": "wren"}, {"id": ids[1], "name": "finch"}]
        note = NOTE | {"category_id": ids[0]}
        _json(tmp_path / split / "coco.json", [IMAGE | {"file_name": f"{split}.jpg"}], [note], categories=kinds)
    listing = read_dataset("coco", tmp_path)
    assert [listing.class_names[k] for k in listing.labels] == ["wren", "wren"]


def test_equal_names_within_a_file_are_different_classes(tmp_path):
    _picture(tmp_path / "images" / "a.jpg")
    kinds = [{"id": 3, "name": "wren"}, {"id": 4, "name": "wren"}]
    _json(tmp_path / "export.json", [IMAGE], [NOTE], categories=kinds)
    assert read_dataset("coco", tmp_path).class_names == ("wren (3)", "wren (4)")


def test_json_files_of_another_kind_are_passed_over_and_counted(tmp_path):
    _picture(tmp_path / "images" / "a.jpg")
    _json(tmp_path / "export.json", [IMAGE], [NOTE])
    (tmp_path / "dataset_info.json").write_text('{"licence": "none"}')
    (tmp_path / "images" / "broken.json").write_text("{")
    listing = read_dataset("coco", tmp_path)
    assert listing.paths == ["images/a.jpg"]
    assert listing.notes["JSON files passed over, as they are not in COCO's format"] == 2
    with pytest.raises(UserError, match=r"dataset_info\.json: not in COCO's JSON format"):
        read_dataset("coco", tmp_path, annotations=(str(tmp_path / "dataset_info.json"),))


def test_annotations_and_images_by_name(tmp_path):
    _picture(tmp_path / "far" / "pictures" / "a.jpg")
    file = _json(tmp_path / "else" / "val_labels.json", [IMAGE], [NOTE])
    assert _one(tmp_path / "far", annotations=(str(file),))[1:] == ("val", EXPECTED, "gt")
    with pytest.raises(UserError, match=r"nothing\.json: no such file"):
        _one(tmp_path / "far", annotations=("nothing.json",))
    with pytest.raises(UserError, match="are not below it"):
        read_dataset("coco", tmp_path / "else")


@pytest.mark.parametrize(("size", "scale"), [((120, 80), 2), ((30, 20), 0.5), ((61, 41), 61 / 60)])
def test_a_box_of_a_resized_picture_is_scaled(tmp_path, size, scale):
    _picture(tmp_path / "images" / "a.jpg")
    note = NOTE | {"bbox": [scale * x for x in NOTE["bbox"]]}
    _json(tmp_path / "export.json", [IMAGE | {"width": size[0], "height": size[1]}], [note])
    box = _one(tmp_path)[2]
    assert box == pytest.approx(EXPECTED, abs=0.01)


@pytest.mark.parametrize(
    ("orientation", "expected"),
    [
        (6, [0.4, 0.1, 0.9, 0.6]),
        (8, [0.1, 0.4, 0.6, 0.9]),
        (5, [0.1, 0.1, 0.6, 0.6]),
        (7, [0.4, 0.4, 0.9, 0.9]),
        (1, [0.1, 0.1, 0.6, 0.6]),
        (3, [0.1, 0.1, 0.6, 0.6]),
    ],
)
def test_a_box_of_the_unturned_picture_is_turned(tmp_path, orientation, expected):
    _picture(tmp_path / "images" / "a.jpg", orientation=orientation)
    _json(tmp_path / "export.json", [IMAGE], [NOTE])
    assert _one(tmp_path)[2] == pytest.approx(expected, abs=1e-3)


def test_a_box_of_another_picture_is_left_to_the_detector_and_counted(tmp_path):
    _picture(tmp_path / "images" / "a.jpg")
    _json(tmp_path / "export.json", [IMAGE | {"width": 50, "height": 50}], [NOTE])
    assert _one(tmp_path)[3] == "geodesic-colour"
    cache = make_boxes("coco", root=str(tmp_path), out=str(tmp_path / "x.h5"), say=lambda _: None)
    assert cache.provenance["notes"]["boxes annotated in pictures of other proportions"] == 1
    assert cache.provenance["examples"]["boxes annotated in pictures of other proportions"] == "images/a.jpg"


@pytest.mark.parametrize(
    ("text", "splits"),
    [
        ("path,label\nx/a.jpg,wren\nx/b.jpg,finch\n", "train"),
        ("filename;species;set\na.jpg;wren;val\nb.jpg;finch;val\n", "val"),
        ("image_id\tclass\tsplit\na\twren\tTest\nb\tfinch\tTest\n", "test"),
        ("Label,File\nwren,x\\a.jpg\nfinch,./x/b.jpg\n", "train"),
    ],
)
def test_labels_from_a_csv(tmp_path, text, splits):
    for name in ("a", "b"):
        _picture(tmp_path / "set" / "x" / f"{name}.jpg")
    (tmp_path / "labels.csv").write_text(text)
    listing = read_dataset("folder", tmp_path / "set", labels=str(tmp_path / "labels.csv"))
    assert [listing.class_names[k] for k in listing.labels] == ["wren", "finch"]
    assert {listing.split_names[k] for k in listing.splits} == {splits}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name,kind\na.jpg,wren\n", "the columns are name, kind"),
        ("path,label\nnothing.jpg,wren\n", "is a picture below"),
        ("path,label\na.jpg,wren\na.jpg,finch\n", "a.jpg has two labels, wren and finch"),
    ],
)
def test_csv_files_that_cannot_be_used(tmp_path, text, words):
    _picture(tmp_path / "set" / "a.jpg")
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(UserError, match=words):
        read_dataset("folder", tmp_path / "set", labels=str(tmp_path / "labels.csv"))
