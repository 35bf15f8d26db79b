"""Folders, exports and tables as people have them: splits hold, classes are right, what is left aside is named."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from listed_sets import pictures, seen
from scipy.io import savemat

from precompute.base.errors import UserError
from precompute.datasets import read_dataset


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (["train.X1/a/1.jpg", "train.X2/b/2.jpg", "val.X/a/3.jpg"], [("train", "a"), ("train", "b"), ("val", "a")]),
        (["train/a/1.jpg", "train/b/1.jpg", "dev/a/3.jpg"], [("val", "a"), ("train", "a"), ("train", "b")]),
        (["train2014/a.jpg", "val2014/b.jpg"], [("train", None), ("val", None)]),
        (["train/images/1.jpg", "valid/images/2.jpg"], [("train", None), ("val", None)]),
        (["cat/train/1.jpg", "dog/test/2.jpg"], [("train", "cat"), ("test", "dog")]),
        # Classes that are called like splits:
        (["bus/1.jpg", "car/1.jpg", "train/1.jpg"], [("train", "bus"), ("train", "car"), ("train", "train")]),
        (["bus_station/1.jpg", "train_station/1.jpg"], [("train", "bus_station"), ("train", "train_station")]),
        (["1.jpg", "2.jpg"], [("train", None)] * 2),
    ],
)
def test_splits_by_their_usual_names(paths, expected, tmp_path):
    pictures(tmp_path, *paths)
    assert [*seen(read_dataset("folder", tmp_path)).values()] == expected


def cars_kit(root: Path, folder: str) -> None:
    pictures(root, f"{folder}/00001.jpg")
    fields = ["fname", "bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class"]
    rows = np.array([("00001.jpg", 1, 2, 30, 40, 2)] * 1, dtype=[(f, object) for f in fields])
    (root / "devkit").mkdir(exist_ok=True)
    savemat(root / "devkit" / "cars_train_annos.mat", {"annotations": rows})
    savemat(root / "devkit" / "cars_meta.mat", {"class_names": np.array(["A 2000", "B 2012"], object)})


def stray(root: Path) -> None:
    fields = ["relative_im_path", "bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "test"]
    rows = np.array([("car_ims/1.jpg", 1, 7, 53, 17, 1, 0)] * 2, dtype=[(f, object) for f in fields])
    savemat(root / "cars_annos.mat", {"annotations": rows, "class_names": np.array(["X", "Y"], object)})


@pytest.mark.parametrize("folder", ["cars_train", "cars_train/cars_train"])
@pytest.mark.parametrize("extra", [lambda root: None, stray, lambda root: (root / "names.csv").write_text("A\nB\n")])
def test_cars_with_stray_files_and_double_folders(folder, extra, tmp_path):
    cars_kit(tmp_path, folder)
    extra(tmp_path)
    listing = read_dataset("cars", tmp_path)
    assert seen(listing) == {f"{folder}/00001.jpg": ("train", "B 2012")}
    box = listing.box(0)
    assert box is not None
    assert box.edges == (0, 1, 30, 40)


def test_cars_as_tables(tmp_path):
    pictures(tmp_path, "car_data/car_data/train/B 2012/1.jpg", "car_data/car_data/test/A 2000/2.jpg")
    (tmp_path / "names.csv").write_text("A 2000\nB 2012\n")
    (tmp_path / "anno_train.csv").write_text("1.jpg,1,2,30,40,2\n")
    (tmp_path / "anno_test.csv").write_text("2.jpg,1,2,30,40,1\n")
    listing = read_dataset("cars", tmp_path)
    train, test = "car_data/car_data/train/B 2012/1.jpg", "car_data/car_data/test/A 2000/2.jpg"
    assert seen(listing) == {train: ("train", "B 2012"), test: ("test", "A 2000")}


@pytest.mark.parametrize("gone", [["bounding_boxes.txt"], ["train_test_split.txt"],
                                  ["bounding_boxes.txt", "train_test_split.txt"]])  # fmt: skip
def test_cub_without_boxes_or_splits(gone, demo_root, tmp_path):
    root = tmp_path / "cub"
    shutil.copytree(demo_root, root)
    before = read_dataset("cub", root)
    for name in gone:
        (root / name).unlink()
    listing = read_dataset("cub", root)
    assert listing.paths == before.paths
    assert (listing.labels == before.labels).all()
    assert listing.has_boxes == ("bounding_boxes.txt" not in gone)
    assert listing.split_names == (("train",) if "train_test_split.txt" in gone else ("train", "test"))
    assert set(listing.notes.values()) == {96}
    assert len(listing.notes) == len(gone)


TABLES = {
    "filename,label\na/1.jpg,cat\na/2.jpg,dog\nb/3.jpg,cat\n": ["train"] * 3,
    "image_id;breed;split\n1;cat;train\n2;dog;valid\n3;cat;testing\n": ["train", "val", "test"],
    "species\tfile name\ncat\t1.jpg\ndog\ta\\2.jpg\ncat\tb/3.jpg\n": ["train"] * 3,
    "\ufeffpath,class,set\r\n./a/1.jpg,cat,train\r\na/2.jpg,dog,train\r\nb/3.jpg,cat,fold7\r\n": ["train"] * 2
    + ["fold7"],
    "a/1.jpg,cat\na/2.jpg,dog\nb/3.jpg,cat\n": ["train"] * 3,
}


@pytest.mark.parametrize("text", TABLES)
def test_labels_of_a_table(text, tmp_path):
    pictures(tmp_path, "a/1.jpg", "a/2.jpg", "b/3.jpg")
    (tmp_path / "labels.csv").write_text(text, newline="")
    listing = read_dataset("folder", tmp_path, labels=str(tmp_path / "labels.csv"))
    found = dict(
        zip(("a/1.jpg", "a/2.jpg", "b/3.jpg"), zip(TABLES[text], ("cat", "dog", "cat"), strict=True), strict=True)
    )
    assert seen(listing) == found
    assert not listing.quarantine


def test_pictures_and_lines_that_have_no_other(tmp_path):
    pictures(tmp_path, "a/1.jpg", "b/1.jpg", "b/2.jpg", "b/3.jpg")
    table = tmp_path / "labels.csv"
    table.write_text("file,label\n2.jpg,cat\nb/1.jpg,cat\n9.jpg,cat\n../x.jpg,cat\n")
    listing = read_dataset("folder", tmp_path, labels=str(table))
    bare = dict.fromkeys(("a/1.jpg", "b/3.jpg"), ("train", None))
    assert seen(listing) == {"b/2.jpg": ("train", "cat"), "b/1.jpg": ("train", "cat")} | bare
    assert sorted(listing.notes.values()) == [1, 2, 2]  # other files, lines without a picture, pictures without a line
    table.write_text("file,label\n1.jpg,cat\n")
    with pytest.raises(UserError, match=r"1\.jpg may be a/1\.jpg or b/1\.jpg: name more of its path"):
        read_dataset("folder", tmp_path, labels=str(table))


LAB = "dog/1.jpg,dog,train\ndog/2.jpg,dog,train\ncat/1.jpg,cat,test\ncat/2.jpg,cat,test\ncat/9.jpg,cat,train\n"


@pytest.mark.parametrize("lines", [LAB, "\n".join(reversed(LAB.splitlines())), LAB.replace(".jpg", "")])
def test_a_line_labels_no_picture_of_another_folder(lines, tmp_path):
    pictures(tmp_path, "dog/1.jpg", "dog/2.jpg", "cat/9.jpg")
    table = tmp_path / "labels.csv"
    table.write_text(f"path,label,split\n{lines}")
    listing = read_dataset("folder", tmp_path, labels=str(table))
    assert seen(listing) == {path: ("train", path[:3]) for path in ("dog/1.jpg", "dog/2.jpg", "cat/9.jpg")}
    assert listing.notes["lines of labels.csv whose picture is not there"] == 2


@pytest.mark.parametrize("key", ["a/1.jpg", "x/a/1", "/home/me/set/x/a/1.jpg", "set\\x\\a\\1.jpg"])
def test_a_line_may_name_less_or_more_of_a_path(key, tmp_path):
    pictures(tmp_path, "x/a/1.jpg", "x/b/1.jpg")
    table = tmp_path / "labels.csv"
    table.write_text(f"path,label\n{key},cat\n")
    listing = read_dataset("folder", tmp_path, labels=str(table))
    assert seen(listing) == {"x/a/1.jpg": ("train", "cat"), "x/b/1.jpg": ("train", None)}
    table.write_text(f"path,label\n{key},cat\nx/a/1.jpg,dog\n")
    with pytest.raises(UserError, match=r"and x/a/1\.jpg are both x/a/1\.jpg, but differ: remove one"):
        read_dataset("folder", tmp_path, labels=str(table))


def test_pictures_of_one_name_share_no_line_of_a_table_of_cars(tmp_path):
    pictures(tmp_path, *(f"car_data/train/{name}" for name in ("A/1.jpg", "B/1.jpg", "B/2.jpg", "3.jpg", "B/3.jpg")))
    (tmp_path / "names.csv").write_text("A\nB\n")
    (tmp_path / "anno_train.csv").write_text("1.jpg,1,2,30,40,1\n2.jpg,1,2,30,40,2\n3.jpg,1,2,30,40,2\n")
    listing = read_dataset("cars", tmp_path)
    assert seen(listing) == {f"car_data/train/{path}": ("train", "B") for path in ("B/2.jpg", "3.jpg")}
    assert [bad.reason for bad in listing.quarantine] == [
        "anno_train.csv row 1: several pictures have this name: A/1.jpg and B/1.jpg"
    ]


def test_pictures_of_one_name_share_no_xml_file(tmp_path):
    pictures(tmp_path, *(f"train/{name}.JPEG" for name in ("n1/1", "n2/1", "n1/2", "n1/3", "n2/3")))
    (tmp_path / "bbox/train/n1").mkdir(parents=True)
    box = "<xmin>1</xmin><ymin>2</ymin><xmax>30</xmax><ymax>20</ymax>"
    for name in ("1", "2", "3", "n1/3"):
        text = f"<annotation><object><bndbox>{box}</bndbox></object></annotation>"
        (tmp_path / f"bbox/train/{name}.xml").write_text(text)
    listing = read_dataset("imagenet", tmp_path)
    files = dict(zip(listing.paths, listing.files, strict=True))
    assert files == {
        "train/n1/1.JPEG": None, "train/n2/1.JPEG": None, "train/n1/2.JPEG": "bbox/train/2.xml",
        "train/n1/3.JPEG": "bbox/train/n1/3.xml", "train/n2/3.JPEG": "bbox/train/3.xml",
    }  # fmt: skip
    assert listing.notes["pictures whose XML file is not known: its name is that of several pictures"] == 2


@pytest.mark.parametrize(
    ("text", "words"),
    [("a,b\n1,2\n", "the columns are a, b; needed"), ("", "it is empty"),
     ("path,size\n1.jpg,3\n", "the columns are path, size"),
     ("path,label\n7.jpg,x\n", "none of its 1 paths")],
)  # fmt: skip
def test_tables_that_are_none(text, words, tmp_path):
    pictures(tmp_path, "1.jpg")
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(UserError, match=words):
        read_dataset("folder", tmp_path, labels=str(tmp_path / "labels.csv"))


def test_a_wrong_layout_names_the_one_that_always_works(tmp_path):
    with pytest.raises(UserError, match="--dataset folder"):
        read_dataset("nabirds", tmp_path)
