"""Where the boxes of a set count from, and layouts of Cars as people have it."""

import shutil

import numpy as np
from PIL import Image
from scipy.io import loadmat, savemat

from precompute.base.boxfile import BoxCache
from precompute.datasets import read_dataset


def test_cars_rows_are_the_devkits(shared_data):
    root = shared_data / "stanford_cars"
    listing = read_dataset("cars", root)
    rows = loadmat(root / "devkit" / "cars_train_annos.mat", squeeze_me=True)["annotations"]
    names = loadmat(root / "devkit" / "cars_meta.mat", squeeze_me=True)["class_names"]
    assert len(listing.class_names) == 196
    for i, row in enumerate(rows):
        assert listing.paths[i] == f"cars_train/{row['fname']}"
        assert listing.class_names[listing.labels[i]] == names[int(row["class"]) - 1]
        box = listing.box(i)
        assert box is not None
        x1, y1, x2, y2 = (float(row[f"bbox_{k}"]) for k in ("x1", "y1", "x2", "y2"))
        assert box.edges == (x1 - 1, y1 - 1, x2, y2)  # counted from 1, both ends inside
    assert (listing.labels[24:] == -1).all()
    assert [listing.split_names[k] for k in listing.splits] == ["train"] * 24 + ["test"] * 6
    assert listing.notes == {"pictures without a class (cars_test_annos_withlabels.mat is not there)": 6}


def test_cars_all_in_one_layout(tmp_path):
    fields = ["relative_im_path", "bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "test"]
    rows = np.array(
        [("car_ims/000001.jpg", 112, 7, 853, 717, 1, 0), ("car_ims/000002.jpg", 48, 24, 441, 202, 2, 1)],
        dtype=[(f, object) for f in fields],
    )
    savemat(tmp_path / "cars_annos.mat", {"annotations": rows, "class_names": np.array(["A 2000", "B 2012"], object)})
    listing = read_dataset("cars", tmp_path)
    assert listing.paths == ["car_ims/000001.jpg", "car_ims/000002.jpg"]
    assert listing.class_names == ("A 2000", "B 2012")
    assert listing.labels.tolist() == [0, 1]
    assert listing.splits.tolist() == [0, 1]
    box = listing.box(1)
    assert box is not None
    assert box.edges == (47, 23, 441, 202)


def test_aircraft_counts_from_zero_and_has_a_banner(shared_data, run_here, tmp_path):
    root = shared_data / "fgvc-aircraft-2013b"
    listing = read_dataset("aircraft", root)
    assert listing.banner == 20
    assert listing.split_names == ("train", "val", "test")
    boxes = dict(line.split(" ", 1) for line in (root / "data" / "images_box.txt").read_text().splitlines())
    variants = {}
    for split in listing.split_names:
        for line in (root / "data" / f"images_variant_{split}.txt").read_text().splitlines():
            variants[line.split(" ", 1)[0]] = (line.split(" ", 1)[1], split)
    for i, path in enumerate(listing.paths):
        key = path[len("data/images/") : -len(".jpg")]
        assert (listing.class_names[listing.labels[i]], listing.split_names[listing.splits[i]]) == variants[key]
        x0, y0, x1, y1 = map(int, boxes[key].split())
        box = listing.box(i)
        assert box is not None
        assert box.edges == (x0, y0, x1 + 1, y1 + 1)
    done = run_here("precompute.boxes", "--dataset", "aircraft", "--root", root, "--out", tmp_path / "x.h5")
    assert done.returncode == 0, done.stderr
    cache = BoxCache.open(tmp_path / "x.h5")
    with Image.open(root / cache.path(0)) as picture:
        assert (cache.widths[0], cache.heights[0]) == (picture.width, picture.height - 20)
    assert (cache.banners == 20).all()


def test_the_samples_show_where_cars_and_cub_count_from(shared_data):
    """README's table: Cars begins at 1, CUB at 0 (Aircraft's local sample shows neither)."""
    cars = loadmat(shared_data / "stanford_cars" / "devkit" / "cars_train_annos.mat", squeeze_me=True)["annotations"]
    assert min(min(int(row["bbox_x1"]), int(row["bbox_y1"])) for row in cars) == 1
    cub = np.loadtxt(shared_data / "CUB_200_2011" / "bounding_boxes.txt")[:, 1:]
    assert cub.min(0)[:2].tolist() == [0, 0]


def _cars(shared_data, tmp_path):
    shutil.copytree(shared_data / "stanford_cars", tmp_path / "cars")
    return tmp_path / "cars"


def test_a_stray_annotation_file_beside_the_devkit_does_not_win(shared_data, tmp_path):
    root = _cars(shared_data, tmp_path)
    expected = read_dataset("cars", root).paths
    savemat(root / "cars_annos.mat", {"annotations": np.zeros(0), "class_names": np.array(["A", "B"], object)})
    assert read_dataset("cars", root).paths == expected


def test_pictures_in_a_folder_of_the_same_name(shared_data, tmp_path):
    root = _cars(shared_data, tmp_path)
    for name in ("cars_train", "cars_test"):
        (root / name).rename(root / "inner")
        (root / name).mkdir()
        (root / "inner").rename(root / name / name)
    listing = read_dataset("cars", root)
    assert all((root / path).is_file() for path in listing.paths)
    assert len(listing) == 30
