"""Annotations in COCO's format as other tools write them; names, lists and archives that leave their folder."""

import json
from pathlib import Path

import numpy as np
import pytest
from listed_sets import pictures, seen

from precompute.base.errors import UserError
from precompute.datasets import read_dataset
from precompute.datasets.extents import extent_of


def coco(file: Path, names: list[str], change=lambda content: None, **first) -> None:
    """An annotation file with a box (1, 2, 11 + i, 12) a picture."""
    notes = [{"id": i, "image_id": i, "category_id": 1, "bbox": [1, 2, 10 + i, 10]} for i in range(len(names))]
    content = {"images": [{"id": i, "file_name": name} for i, name in enumerate(names)], "annotations": notes,
               "categories": [{"id": 1, "name": "bird"}]}  # fmt: skip
    notes[0] |= first
    change(content)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))


def exported(root: Path) -> list:
    """The boxes and classes of my.json and the pictures in pics/."""
    files = [str(root / "my.json")]
    listing = read_dataset("coco", root, annotations=files)
    assert listing.paths == ["pics/0.jpg", "pics/1.jpg"]
    assert not listing.quarantine
    boxes = [listing.box(i) for i in range(2)]
    return [(box and box.edges, listing.class_names[k]) for box, k in zip(boxes, listing.labels, strict=True)]


RIGHT = [((1, 2, 11, 12), "bird"), ((1, 2, 12, 12), "bird")]


@pytest.mark.parametrize("files", [["my.json"], ["train.json", "val.json"]])
def test_a_name_that_several_folders_had_is_of_none_of_them(files, tmp_path):
    pictures(tmp_path / "pics", "1.jpg", "2.jpg")
    names = ["C:\\data\\cat\\1.jpg", "C:\\data\\dog\\1.jpg", "C:\\data\\dog\\2.jpg"]
    for file, part in zip(files, [names] if len(files) == 1 else [names[:1], names[1:]], strict=True):
        coco(tmp_path / file, part)
    listing = read_dataset("coco", tmp_path, annotations=[str(tmp_path / file) for file in files])
    assert listing.paths == ["pics/2.jpg"]
    assert [bad.path for bad in listing.quarantine] == ["pics/1.jpg"] * 2
    for bad in listing.quarantine:
        assert "several pictures of this name in other folders ('C:/data/cat/1.jpg', 'C:/data/dog/1.jpg')" in bad.reason


def text_ids(content):
    for note in content["annotations"]:
        note["image_id"] = str(note["image_id"])
        note["category_id"] = "1"


def renamed(pattern: str):
    def change(content):
        for image in content["images"]:
            image["file_name"] = pattern.format(image["file_name"])

    return change


@pytest.mark.parametrize(
    "change",
    [text_ids, renamed("train2017/{}"), renamed("images\\train\\{}"), renamed("/home/bob/set/{}"), renamed("./{}")],
)
def test_coco_exports_of_other_tools(change, tmp_path):
    pictures(tmp_path / "pics", "0.jpg", "1.jpg")
    coco(tmp_path / "my.json", ["0.jpg", "1.jpg"], change)
    assert exported(tmp_path) == RIGHT


def test_coco_without_categories(tmp_path):
    pictures(tmp_path / "pics", "0.jpg", "1.jpg")
    coco(tmp_path / "my.json", ["0.jpg", "1.jpg"], lambda content: content.pop("categories"))
    coco(tmp_path / "my.json", ["0.jpg", "1.jpg"], lambda c: [note.pop("category_id") for note in c["annotations"]])
    listing = read_dataset("coco", tmp_path / "pics", annotations=[str(tmp_path / "my.json")])
    assert listing.labels.tolist() == [-1, -1]
    assert listing.paths == ["0.jpg", "1.jpg"]


@pytest.mark.parametrize(
    ("files", "paths"),
    [
        (["annotations/instances_train2014.json", "annotations/instances_val2014.json"], ["train2014/", "val2014/"]),
        (["train/_annotations.coco.json", "valid/_annotations.coco.json"], ["train/", "valid/"]),
        (["annotations/instances_default.json"], ["images/default/"]),
        (["result.json"], ["images/"]),
        (["annotations/train.json", "annotations/val.json"], ["images/train/", "images/val/"]),
    ],
)
def test_coco_under_other_names(files, paths, tmp_path):
    for file, folder in zip(files, paths, strict=True):
        pictures(tmp_path, f"{folder}x.jpg")
        coco(tmp_path / file, ["x.jpg"])
    listing = read_dataset("coco", tmp_path)
    assert listing.paths == [f"{folder}x.jpg" for folder in paths]
    assert listing.split_names == ("train", "val")[: len(files)]
    assert listing.labels.tolist() == [0] * len(files)


def test_coco_tables_that_number_classes_otherwise(tmp_path):
    for split, names in (("train", ("cat", "dog")), ("val", ("dog", "cat"))):
        pictures(tmp_path, f"{split}2017/x.jpg")
        categories = [{"id": i, "name": name} for i, name in enumerate(names)]
        coco(
            tmp_path / f"annotations/instances_{split}2017.json",
            ["x.jpg"],
            lambda c, k=categories: c.update(categories=k),
        )
    assert [label for _, label in seen(read_dataset("coco", tmp_path)).values()] == ["dog", "cat"]


def test_coco_annotations_of_no_picture_are_an_error(tmp_path):
    pictures(tmp_path, "train2017/x.jpg")
    coco(tmp_path / "annotations/instances_train2017.json", ["x.jpg"], image_id="other")
    with pytest.raises(UserError, match=r"not one annotation belongs to a picture: an image_id is 'other', .* 0"):
        read_dataset("coco", tmp_path)


@pytest.mark.parametrize("name", ["../out.jpg", "/etc/out.jpg", "a/../../out.jpg", "a\0b.jpg", "\ud800.jpg"])
def test_names_that_leave_the_folder_are_refused(name, tmp_path):
    pictures(tmp_path / "set", "train2017/x.jpg")
    pictures(tmp_path, "out.jpg")
    coco(tmp_path / "set/annotations/instances_train2017.json", ["x.jpg", name])
    listing = read_dataset("coco", tmp_path / "set")
    assert listing.paths == ["train2017/x.jpg"]
    assert len(listing.quarantine) == 1
    assert name.isprintable() <= (name in listing.quarantine[0].reason)


@pytest.mark.parametrize("name", ["../../out", "../annotations/out", "../../../out"])
def test_lists_that_leave_their_folder_are_refused(name, tmp_path):
    pictures(tmp_path, "images/a_1.jpg", "out.jpg", "annotations/trimaps/a_1.png")
    (tmp_path / "annotations" / "trainval.txt").write_text(f"a_1 1 1 1\n{name} 1 1 1\n")
    (tmp_path / "annotations" / "test.txt").write_text("")
    listing = read_dataset("pets", tmp_path)
    assert listing.paths == ["images/a_1.jpg"]
    assert f"{name}.jpg' leaves the folder" in listing.quarantine[0].reason


def runs(mask: np.ndarray) -> list[int]:
    """COCO's lengths of runs, written down plainly."""
    flat, out, value = mask.T.ravel().tolist(), [0], 0
    for pixel in flat:
        if pixel != value:
            out.append(0)
            value = pixel
        out[-1] += 1
    return out


def packed(counts: list[int]) -> str:
    """COCO's text of runs, as its C code packs them."""
    out = ""
    for i, x in enumerate(counts):
        x -= counts[i - 2] if i > 2 else 0
        more = True
        while more:
            bits = x & 31
            x >>= 5
            more = x != -1 if bits & 16 else x != 0
            out += chr(bits + (32 if more else 0) + 48)
    return out


@pytest.mark.parametrize("box", [(3, 5, 20, 30), (0, 0, 60, 40), (59, 39, 60, 40), (7, 0, 8, 40), (10, 38, 30, 40)])
def test_masks_without_a_bbox(box, tmp_path):
    x0, y0, x1, y1 = box
    mask = np.zeros((40, 60), int)
    mask[y0:y1, x0:x1] = 1
    for counts in (runs(mask), packed(runs(mask))):
        assert extent_of({"size": [40, 60], "counts": counts}) == (box, (60, 40))
    assert extent_of([[x0, y0, x1, y0, x1, y1]]) == (box, None)
    pictures(tmp_path / "pics", "0.jpg", "1.jpg")
    mask = {"size": [40, 60], "counts": packed(runs(mask))}
    coco(tmp_path / "my.json", ["0.jpg", "1.jpg"], bbox=None, segmentation=mask)
    assert exported(tmp_path)[0] == (box, "bird")


@pytest.mark.parametrize("bad", [{"size": [4, 6], "counts": "\x7f"}, {"size": [4, 6], "counts": [3]}, [[1, 2, 3]], 7])
def test_masks_that_are_none(bad):
    assert "makes no sense" in str(extent_of(bad))


def test_half_a_character_in_a_class_name_is_written_with_backslashes(tmp_path):
    """JSON may hold such, a box file may not."""
    from precompute.boxes import make_boxes

    pictures(tmp_path, "pics/0.jpg", "pics/1.jpg")
    coco(tmp_path / "my.json", ["0.jpg", "1.jpg"], lambda content: content["categories"][0].update(name="a\ud800b"))
    settings = {"root": str(tmp_path / "pics"), "annotations": (str(tmp_path / "my.json"),), "say": lambda line: None}
    cache = make_boxes("coco", out=str(tmp_path / "x.h5"), **settings)
    assert cache.class_names == ("a\\ud800b",)
