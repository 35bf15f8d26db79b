"""Every reader on the real layouts of the shared set: counts, labels, splits, boxes; and what it says when wrong."""

import csv
import dataclasses
import functools
import hashlib
import http.server
import json
import os
import shutil
import tarfile
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from precompute import datasets
from precompute.base.boxfile import BoxCache
from precompute.base.errors import UserError
from precompute.datasets import DATASETS, download, read_dataset
from precompute.datasets.listing import BadRow, Box, clip_box
from precompute.datasets.rows import Archive, Dataset, Row, listing_of

FOLDERS = {
    "cub": ("CUB_200_2011", 224),
    "cars": ("stanford_cars", 30),
    "aircraft": ("fgvc-aircraft-2013b", 36),
    "nabirds": ("nabirds", 25),
    "inat2018": ("inat2018", 16),
    "coco": ("coco", 26),
    "pets": ("oxford-iiit-pet", 36),
    "ecssd": ("ECSSD", 70),
    "folder": ("clothing-cc0", 108),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_every_picture_is_there_and_every_box_inside(shared_data, name):
    folder, count = FOLDERS[name]
    listing = read_dataset(name, shared_data / folder)
    assert len(listing) == len(listing.labels) == len(listing.splits) == count
    assert len(set(listing.paths)) == count
    assert not listing.quarantine
    assert listing.labels.dtype == np.int32
    assert listing.labels.max(initial=-1) < len(listing.class_names)
    assert set(np.unique(listing.splits)) == set(range(len(listing.split_names)))
    assert listing.has_boxes == (name not in ("inat2018", "folder"))
    for i, path in enumerate(listing.paths):
        with Image.open(shared_data / folder / path) as picture:
            width, height = picture.size
        box = listing.box(i)
        if not listing.has_boxes:
            assert box is None
            continue
        assert box is not None
        x0, y0, x1, y1 = clip_box(box, width, height - listing.banner)[0]
        assert 0 <= x0 < x1 <= 1
        assert 0 <= y0 < y1 <= 1


def test_nabirds_has_only_classes_with_pictures(shared_data):
    root = shared_data / "nabirds"
    listing = read_dataset("nabirds", root)
    names = dict(line.split(" ", 1) for line in (root / "classes.txt").read_text().splitlines())
    label_of = dict(line.split() for line in (root / "image_class_labels.txt").read_text().splitlines())
    path_of = dict(line.split() for line in (root / "images.txt").read_text().splitlines())
    assert len(listing.class_names) == len(set(label_of.values())) == 6
    for key, path in path_of.items():
        i = listing.paths.index(f"images/{path}")
        assert listing.class_names[listing.labels[i]] == names[label_of[key]]


def test_inat_and_coco_against_their_json(shared_data):
    listing = read_dataset("inat2018", shared_data / "inat2018")
    assert listing.split_names == ("train", "val")
    for i, path in enumerate(listing.paths):
        assert listing.class_names[listing.labels[i]] == path.split("/")[2]

    root = shared_data / "coco"
    listing = read_dataset("coco", root)
    row = 0
    for split in ("train", "val"):
        content = json.loads((root / "annotations" / f"instances_{split}2017.json").read_text())
        names = {c["id"]: c["name"] for c in content["categories"]}
        for image in content["images"]:
            objects = [a for a in content["annotations"] if a["image_id"] == image["id"] and not a["iscrowd"]]
            largest = max(objects, key=lambda a: a["bbox"][2] * a["bbox"][3])
            x, y, w, h = largest["bbox"]
            assert listing.paths[row] == f"{split}2017/{image['file_name']}"
            assert listing.class_names[listing.labels[row]] == names[largest["category_id"]]
            box = listing.box(row)
            assert box is not None
            assert box.edges == (x, y, x + w, y + h)
            row += 1
    assert row == len(listing)


def test_pets_boxes_are_the_trimaps_extent(shared_data):
    root = shared_data / "oxford-iiit-pet"
    listing = read_dataset("pets", root)
    assert listing.class_names == ("Abyssinian", "american_bulldog", "Bengal")
    assert [listing.split_names[k] for k in listing.splits] == ["train"] * 18 + ["test"] * 18
    for i in range(0, len(listing), 5):
        name = listing.paths[i][len("images/") : -len(".jpg")]
        trimap = np.asarray(Image.open(root / "annotations" / "trimaps" / f"{name}.png"))
        ys, xs = np.nonzero(trimap != 2)
        box = listing.box(i)
        assert box is not None
        assert box.edges == (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)
        mask = listing.mask(i)
        assert mask is not None
        assert mask.sum() == len(ys)


def test_a_mask_without_foreground_is_named(shared_data, tmp_path):
    for folder in ("images", "ground_truth_mask"):
        (tmp_path / folder).mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "images" / "a.jpg")
    Image.new("RGB", (8, 8)).save(tmp_path / "images" / "b.jpg")
    Image.new("L", (8, 8)).save(tmp_path / "ground_truth_mask" / "a.png")
    listing = read_dataset("ecssd", tmp_path)
    with pytest.raises(BadRow, match=r"ground_truth_mask/a\.png: its mask has no foreground"):
        listing.box(0)
    with pytest.raises(BadRow, match=r"ground_truth_mask/b\.png: its mask is not there"):
        listing.box(1)


VOC = """<annotation><size><width>{w}</width><height>{h}</height></size>{objects}</annotation>"""
BOX = "<bndbox><xmin>{x0}</xmin><ymin>{y0}</ymin><xmax>{x1}</xmax><ymax>{y1}</ymax></bndbox>"
OBJECT = "<object><name>{n}</name>" + BOX + "</object>"


def voc(width: int, height: int, *boxes: tuple[int, int, int, int], name: str = "n01") -> str:
    objects = "".join(OBJECT.format(n=name, x0=a, y0=b, x1=c, y1=d) for a, b, c, d in boxes)
    return VOC.format(w=width, h=height, objects=objects)


def test_imagenet_folders_with_some_xml(tmp_path, run_here):
    for path in ("train/n01/a.JPEG", "train/n01/b.JPEG", "train/n02/c.JPEG", "val/n02/v.JPEG"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(len(path)).integers(0, 256, (40, 60, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / path)
    (tmp_path / "bbox" / "train" / "n01").mkdir(parents=True)
    # Two boxes, the second larger; annotated at twice the size of the picture
    (tmp_path / "bbox" / "train" / "n01" / "a.xml").write_text(voc(120, 80, (0, 0, 9, 9), (20, 10, 80, 70)))
    (tmp_path / "bbox" / "train" / "n01" / "b.xml").write_text("<annotation><size>")
    listing = read_dataset("imagenet", tmp_path)
    assert listing.class_names == ("n01", "n02")
    assert listing.labels.tolist() == [0, 0, 1, 1]
    assert listing.splits.tolist() == [0, 0, 0, 1]
    assert listing.notes == {"pictures without an XML file of boxes": 2}
    done = run_here("precompute.boxes", "--dataset", "imagenet", "--root", tmp_path, "--out", tmp_path / "x.h5")
    assert done.returncode == 0, done.stderr
    cache = BoxCache.open(tmp_path / "x.h5")
    assert [cache.path(i) for i in range(len(cache))] == ["train/n01/a.JPEG", "train/n02/c.JPEG", "val/n02/v.JPEG"]
    np.testing.assert_allclose(cache.boxes[0] * [60, 40, 60, 40], [10, 5, 40, 35], rtol=1e-6)
    assert cache.source_names[cache.sources[0]] == "gt"
    assert cache.source_names[cache.sources[1]] != "gt"
    assert [bad.path for bad in cache.quarantine] == ["train/n01/b.JPEG"]
    assert cache.quarantine[0].reason.startswith("bbox/train/n01/b.xml: cannot be read")


def test_imagenet_in_ilsvrcs_own_layout(tmp_path):
    for path in ("Data/CLS-LOC/train/n01/a.JPEG", "Data/CLS-LOC/val/v1.JPEG"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (60, 40)).save(tmp_path / path)
    (tmp_path / "Annotations" / "CLS-LOC" / "val").mkdir(parents=True)
    (tmp_path / "Annotations" / "CLS-LOC" / "val" / "v1.xml").write_text(voc(60, 40, (1, 2, 30, 40), name="n07"))
    listing = read_dataset("imagenet", tmp_path)
    assert listing.class_names == ("n01", "n07")
    assert [listing.class_names[k] for k in listing.labels] == ["n01", "n07"]
    assert listing.box(0) is None
    assert listing.box(1) == Box((1, 2, 30, 40), "Annotations/CLS-LOC/val/v1.xml", (60, 40))


@pytest.mark.parametrize("name", [name for name in DATASETS if name not in ("demo", "folder")])
def test_a_wrong_root_shows_the_tree(name, tmp_path):
    with pytest.raises(UserError, match=r"is no folder of .*: .*not found below it(.|\n)*Expected:\n  ") as caught:
        read_dataset(name, tmp_path)
    assert str(tmp_path) in str(caught.value)
    command = f"python -m precompute.boxes --dataset {name} --download"
    assert command in str(caught.value) or DATASETS[name].get in str(caught.value)


def test_no_archive_says_what_to_get():
    for name in ("cars", "nabirds", "imagenet"):
        with pytest.raises(UserError, match=f"no public archive of {name}(.|\n)*tree that is expected:\n  "):
            download(name)
    with pytest.raises(UserError, match=r"take --root \S*CUB_200_2011"):
        download("cub", "birds")


@pytest.fixture
def server(tmp_path):
    """A web server of this machine over tmp_path; gives its address."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()
        thread.join()


@pytest.mark.filterwarnings("ignore:Python 3.14 will, by default, filter:DeprecationWarning")  # torchvision's call
def test_download_checks_and_unpacks(tmp_path, monkeypatch, demo_root, server):
    archive = tmp_path / "CUB.tgz"
    with tarfile.open(archive, "w:gz") as file:
        file.add(demo_root, "CUB")
    digest = hashlib.md5(archive.read_bytes()).hexdigest()
    for md5, works in ((digest, True), ("0" * 32, False)):
        root = tmp_path / ("good" if works else "bad") / "CUB"
        archives = (Archive(f"{server}/CUB.tgz", md5, ".."),)
        entry = dataclasses.replace(DATASETS["cub"], usual_root="data/CUB", archives=archives)
        monkeypatch.setitem(datasets.DATASETS, "cub", entry)
        if works:
            assert download("cub", root) == root
            assert len(read_dataset("cub", root)) == 96
        else:
            with pytest.raises(UserError, match=r"CUB\.tgz"):
                download("cub", root)


def test_the_checksums_are_md5(shared_data):
    for entry in DATASETS.values():
        for archive in entry.archives:
            assert len(bytes.fromhex(archive.md5)) == 16
    with open(shared_data / "faults" / "MANIFEST.tsv") as file:  # the annotation faults have their own test
        names = {row[0].split("/")[1] for row in csv.reader(file, delimiter="\t") if row[0].startswith("cub_annot")}
    assert len(names) == 14


def test_a_folder_that_cannot_be_read_is_named_and_the_rest_is_listed(tmp_path, monkeypatch, demo_root):
    for name in ("a", "b/deep", "c"):
        (tmp_path / name).mkdir(parents=True)
        shutil.copy(next((demo_root / "images").rglob("*.jpg")), tmp_path / name / "x.jpg")
    real = os.scandir

    def scandir(path):  # tests may run as root, who reads everything
        if str(path).endswith("deep"):
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    listing = read_dataset("folder", tmp_path)
    assert listing.paths == ["a/x.jpg", "c/x.jpg"]
    assert [(bad.path, bad.reason) for bad in listing.quarantine] == [
        ("b/deep/", "this folder cannot be read: Permission denied")
    ]
    with pytest.raises(PermissionError):
        read_dataset("folder", tmp_path / "b" / "deep")


def test_one_file_adds_a_data_set(tmp_path, run_module):
    """A reader in a file of its own is on the command line, without another line anywhere."""
    package = tmp_path / "precompute" / "datasets"
    shutil.copytree(Path(datasets.__file__).parents[1], tmp_path / "precompute")
    (package / "mine.py").write_text(
        "from precompute.datasets.rows import Dataset, Row, listing_of\n\n\n"
        "def read(dataset, root):\n"
        "    rows = [Row('a.png', 'cat'), Row('../b.png', where='here'), Row('a.png', where='line 3'), Row('c.png')]\n"
        "    return listing_of(dataset, root, rows, splits=('train',))\n\n\n"
        "DATASET = Dataset('mine', 'Mine', read, tree='')\n"
    )
    Image.new("RGB", (30, 20), "red").save(tmp_path / "a.png")
    run = (
        "precompute.boxes",
        "--dataset",
        "mine",
        "--root",
        tmp_path,
        "--out",
        tmp_path / "x.h5",
        "--form",
        "component",
    )
    done = run_module(*run, cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert done.returncode == 0, done.stderr
    cache = BoxCache.open(tmp_path / "x.h5")
    assert (cache.dataset, cache.class_names, cache.path(0)) == ("mine", ("cat",), "a.png")
    assert [(bad.path, bad.reason) for bad in cache.quarantine] == [
        ("../b.png", "here: the path '../b.png' leaves the folder"),
        ("a.png", "line 3: stands there twice"),
        ("c.png", "cannot be read: No such file or directory"),
    ]


def test_rows_become_columns(tmp_path):
    rows = [
        Row("a.jpg", 7, "test", Box((1, 2, 3, 4), "file line 1")),
        Row("b.jpg", None, "train", "file line 2: no numbers"),
        Row("c.jpg", 5, fault="it is left out"),
        Row("d.jpg", 5),
    ]
    entry = Dataset("x", "X", lambda dataset, root: listing, tree="")
    listing = listing_of(
        entry, tmp_path, rows, splits=("train", "test"), classes={5: "five", 7: "seven"}, folder="images/", boxed=True,
        unlabelled="without a class", unboxed="without a box",
    )  # fmt: skip
    assert listing.paths == ["images/a.jpg", "images/b.jpg", "images/d.jpg"]
    assert listing.labels.tolist() == [1, -1, 0]
    assert listing.splits.tolist() == [1, 0, 0]
    assert listing.box(0) == Box((1, 2, 3, 4), "file line 1")
    with pytest.raises(BadRow, match="file line 2: no numbers"):
        listing.box(1)
    assert listing.box(2) is None
    assert [bad.path for bad in listing.quarantine] == ["images/c.jpg"]
    assert listing.notes == {"without a class": 1, "without a box": 2}
    with pytest.raises(dataclasses.FrozenInstanceError):
        listing.paths = []  # type: ignore[misc]
