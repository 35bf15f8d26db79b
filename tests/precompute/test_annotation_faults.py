"""Annotations that make no sense: each is named with its file and value, its picture left out, the rest goes on."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from precompute.base.boxfile import BoxCache
from precompute.base.errors import UserError
from precompute.datasets import read_dataset
from precompute.datasets.listing import BadRow, Box, clip_box


def picture(path: Path, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 60, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(path)


def coco(root: Path, bboxes: list[object], **first: object) -> None:
    """One picture and one annotation a box; `first`: what else the first annotation says."""
    images = [{"id": i, "file_name": f"{i}.jpg"} for i in range(len(bboxes))]
    notes = [{"id": 100 + i, "image_id": i, "category_id": 1, "bbox": box} for i, box in enumerate(bboxes)]
    notes[0] |= first
    for i in range(len(bboxes)):
        picture(root / "train2017" / f"{i}.jpg", i)
    content = {"images": images, "annotations": notes, "categories": [{"id": 1, "name": "bird"}]}
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    (root / "annotations" / "instances_train2017.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    "bbox", [[1, 1, float("nan"), 5], [float("nan"), 1, 5, 5], [1, 2, 3], [], ["a", "b", "c", "d"], 7, [1, 1, 1e999, 5]]
)
def test_coco_boxes_that_are_none(bbox: object, tmp_path: Path, run_here: Callable) -> None:
    coco(tmp_path, [bbox, [5, 5, 30, 20], [1, 1, 9, 9]])
    done = run_here("precompute.boxes", "--dataset", "coco", "--root", tmp_path, "--out", tmp_path / "x.h5")
    assert done.returncode == 0, done.stderr
    cache = BoxCache.open(tmp_path / "x.h5")
    assert [cache.path(i) for i in range(len(cache))] == ["train2017/1.jpg", "train2017/2.jpg"]
    assert [bad.path for bad in cache.quarantine] == ["train2017/0.jpg"]
    assert cache.quarantine[0].reason.startswith("instances_train2017.json annotation 100: the bbox ")
    assert repr(bbox) in cache.quarantine[0].reason


def test_coco_boxes_outside_name_file_and_annotation(tmp_path: Path) -> None:
    coco(tmp_path, [[500, 5, 30, 20]])
    box = read_dataset("coco", tmp_path).box(0)
    assert box is not None
    with pytest.raises(BadRow, match=r"instances_train2017\.json annotation 100: the box x 500, y 5, .* lies outside"):
        clip_box(box, 60, 40)


def test_coco_pictures_of_an_unknown_category_or_listed_twice(tmp_path: Path) -> None:
    coco(tmp_path, [[5, 5, 30, 20], [1, 1, 9, 9]], category_id=77)
    listing = read_dataset("coco", tmp_path)
    assert listing.paths == ["train2017/1.jpg"]
    assert "annotation 100: category 77 is not among the categories" in listing.quarantine[0].reason
    file = tmp_path / "annotations" / "instances_train2017.json"
    content = json.loads(file.read_text())
    content["images"].append(content["images"][1])
    file.write_text(json.dumps(content))
    listing = read_dataset("coco", tmp_path)
    assert listing.paths == ["train2017/1.jpg"]
    assert listing.quarantine[1].reason == "instances_train2017.json: stands there twice"


def test_inat_pictures_without_a_class_are_counted(tmp_path: Path) -> None:
    (tmp_path / "train_val2018").mkdir()
    content = {"images": [{"id": 1, "file_name": "train_val2018/a.jpg"}], "annotations": [], "categories": []}
    (tmp_path / "train2018.json").write_text(json.dumps(content))
    assert read_dataset("inat2018", tmp_path).notes == {"pictures without a class": 1}


@pytest.mark.parametrize("value", [np.nan, "", "left", np.empty(0)])
def test_cars_boxes_that_are_none(value: object, tmp_path: Path) -> None:
    fields = ["relative_im_path", "bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "test"]
    rows = np.array(
        [("car_ims/1.jpg", 1, 7, 53, 17, 1, 0), ("car_ims/2.jpg", value, 2, 41, 20, 1, 0), ("car_ims/3.jpg", 1, 2, 41,
         20, "x", 0)],
        dtype=[(f, object) for f in fields],
    )  # fmt: skip
    savemat(tmp_path / "cars_annos.mat", {"annotations": rows, "class_names": np.array(["A 2000", "B 2012"], object)})
    listing = read_dataset("cars", tmp_path)
    assert listing.paths == ["car_ims/1.jpg", "car_ims/2.jpg"]
    assert "row 3: class x" in listing.quarantine[0].reason
    assert listing.box(0) is not None
    with pytest.raises(BadRow, match=r"cars_annos\.mat row 2: .*, 2, 41, 20 are not four numbers"):
        listing.box(1)


def test_imagenet_boxes_that_are_none(tmp_path: Path) -> None:
    picture(tmp_path / "train" / "n01" / "a.JPEG")
    (tmp_path / "bbox" / "train" / "n01").mkdir(parents=True)
    box = "<bndbox><xmin>nan</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>"
    (tmp_path / "bbox" / "train" / "n01" / "a.xml").write_text(f"<annotation><object>{box}</object></annotation>")
    with pytest.raises(BadRow, match=r"a\.xml: a box or size in it is not a number \(nan, 1, 9, 9\)"):
        read_dataset("imagenet", tmp_path).box(0)


def test_messages_say_boxes_as_they_are_written() -> None:
    with pytest.raises(BadRow, match=r"the box x 9, y 1, width 0\.5, height 9 is less than a pixel wide or high"):
        clip_box(Box((9, 1, 9.5, 10), "a.xml", (120, 80)), 60, 40)
    for broken in (float("nan"), float("inf")):
        with pytest.raises(BadRow, match="is not of finite numbers"):
            clip_box(Box((1, 1, broken, 9), "a.xml"), 60, 40)


def test_a_mask_of_another_picture_is_named(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "a.jpg")
    (tmp_path / "ground_truth_mask").mkdir()
    for size, fits in (((60, 40), True), ((30, 20), True), ((61, 41), True), ((40, 60), False), ((100, 7), False)):
        mask = np.zeros(size[::-1], np.uint8)
        mask[1:6, 2:9] = 255
        Image.fromarray(mask).save(tmp_path / "ground_truth_mask" / "a.png")
        box = read_dataset("ecssd", tmp_path).box(0)
        assert box is not None
        if fits:
            clip_box(box, 60, 40)
            continue
        with pytest.raises(BadRow, match=rf"a\.png: made for a picture of {size[0]}x{size[1]} pixels"):
            clip_box(box, 60, 40)


def test_a_box_file_never_holds_what_is_no_number(demo_boxes: Path, tmp_path: Path) -> None:
    from precompute.base import boxfile as format

    cache = BoxCache.open(demo_boxes)
    boxes = cache.boxes.copy()
    boxes[3, 2] = np.nan
    with pytest.raises(ValueError, match="column boxes"):
        dataclasses.replace(cache, boxes=boxes)
    old = BoxCache.open(demo_boxes)
    object.__setattr__(old, "boxes", boxes)  # as a version before wrote it
    format.write(tmp_path / "old.h5", old)
    with pytest.raises(
        UserError, match=rf"the box of {cache.path(3)} is not of finite numbers \(1 in all\); .* --rebuild"
    ):
        BoxCache.open(tmp_path / "old.h5")


@pytest.mark.parametrize("more", [("--source", "geodesic"), ("--source", "geodesic", "--form", "literal")])
def test_flat_pictures_have_no_box_and_can_be_looked_at(
    more: tuple[str, ...], tmp_path: Path, run_here: Callable
) -> None:
    (tmp_path / "set").mkdir()
    for name in ("a", "b"):
        Image.new("RGB", (50, 40), "gray").save(tmp_path / "set" / f"{name}.png")
    out = tmp_path / "x.h5"
    done = run_here("precompute.boxes", "--dataset", "folder", "--root", tmp_path / "set", "--out", out, *more)
    assert done.returncode == 0, done.stderr
    done = run_here("precompute.inspect", out, "--sheet", tmp_path / "sheet.png")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "sheet.png").stat().st_size > 0


def test_the_readmes_rates_are_the_results() -> None:
    root = Path(__file__).resolve().parents[2]
    text = (root / "precompute" / "README.md").read_text()
    result = json.loads((root / "benchmarks" / "results" / "search-cpu.json").read_text())
    rates = {arm["name"]: 1e3 / arm["cpu_ms"]["median"] for arm in result["arms"]}
    for name in ("ours, 64x64", "ours, 224x224", "plain scan, 64x64", "decode", "detect"):
        assert f"| {rates[name]:,.0f} |" in text, name
    for name in ("pass over annotated boxes / read and decode", "pass with the detector / read and decode"):
        assert f"{result['ratios'][name]['median']:.2f}" in text, name
    result = json.loads((root / "benchmarks" / "results" / "archives-cpu.json").read_text())
    for what in ("read", "pass over"):
        for kind in ("tar shards", "a zip", "a deflated zip"):
            assert f"{result['ratios'][f'{what} {kind} / files']['median']:.2f}" in text, (what, kind)


def test_a_mask_says_its_foreground_in_any_mode(shared_data: Path, tmp_path: Path) -> None:
    (tmp_path / "ground_truth_mask").mkdir()
    (tmp_path / "images").mkdir()
    source = sorted((shared_data / "ECSSD" / "ground_truth_mask").glob("*.png"))[0]
    with Image.open(source) as file:
        mask = file.convert("L").point(lambda value: 255 * (value > 127))
    palette = mask.point(lambda value: value // 255)
    palette.putpalette([0, 0, 0, 255, 255, 255])
    deep = Image.fromarray(np.asarray(mask).astype(np.uint16) * 257)
    shapes = [mask, mask.convert("1"), palette, mask.convert("LA"), mask.convert("RGB"), mask.convert("RGBA"), deep]
    for i, shape in enumerate(shapes):
        picture(tmp_path / "images" / f"{i}.jpg")
        shape.save(tmp_path / "ground_truth_mask" / f"{i}.png")
    listing = read_dataset("ecssd", tmp_path)
    for i, shape in enumerate(shapes):
        assert listing.box(i) == dataclasses.replace(listing.box(0), where=listing.files[i]), shape.mode
        assert (listing.mask(i) == (np.asarray(mask) > 127)).all(), shape.mode


def test_an_object_of_less_than_a_pixel_is_none_where_there_are_others(tmp_path: Path) -> None:
    coco(tmp_path, [[1, 1, 0.5, 30]])
    listing = read_dataset("coco", tmp_path)
    with pytest.raises(BadRow, match="is less than a pixel wide or high"):
        clip_box(listing.box(0) or Box((0, 0, 9, 9), ""), 60, 40)
    file = next(tmp_path.rglob("*.json"))
    content = json.loads(file.read_text())
    content["annotations"].append(content["annotations"][0] | {"id": 9, "bbox": [2, 3, 2, 4]})
    file.write_text(json.dumps(content))
    box = read_dataset("coco", tmp_path).box(0)
    assert box is not None
    assert box.edges == (2, 3, 4, 7)
    picture(tmp_path / "x" / "train" / "n01" / "a.JPEG")
    (tmp_path / "x" / "bbox" / "train" / "n01").mkdir(parents=True)
    text = "".join(f"<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>{1 + w}</xmax><ymax>{1 + h}</ymax></bndbox>"
                   for w, h in ((0.5, 30), (2, 4), (-9, -9)))  # fmt: skip
    (tmp_path / "x" / "bbox" / "train" / "n01" / "a.xml").write_text(f"<annotation>{text}</annotation>")
    box = read_dataset("imagenet", tmp_path / "x").box(0)
    assert box is not None
    assert box.edges == (1, 1, 3, 5)
