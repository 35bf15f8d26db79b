"""Malformed annotations: a small valid tree for each reader, and random damage to one of its annotation files."""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat

WEIRD = ["", " ", "nan", "-1", "1e999", "0", "99999999999999999999", "../../x", "/etc/passwd", "a\0b", "\ud800", "é",
         "x" * 500, None, True, [], {}, [[]], {"a": 1}, -1, 0, 1e308, 2**70, float("nan"), float("inf")]  # fmt: skip
NAMES = ("a/0.jpg", "a/1.jpg", "b/2.jpg")


def picture(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 255, (40, 60, 3), np.uint8)
    Image.fromarray(noise).save(path)


def cub(root: Path) -> list[Path]:
    tables = {"images.txt": NAMES, "bounding_boxes.txt": ["1 2 30 20"] * 3, "train_test_split.txt": "110",
              "image_class_labels.txt": "112", "sizes.txt": ["60 40"] * 3}  # fmt: skip
    for name, values in tables.items():
        (root / name).write_text("".join(f"{i} {value}\n" for i, value in enumerate(values)))
    (root / "classes.txt").write_text("1 a\n2 b\n")
    for i, name in enumerate(NAMES):
        picture(root / "images" / name, i)
    return [root / name for name in (*tables, "classes.txt")]


def coco(root: Path) -> list[Path]:
    images = [{"id": i, "file_name": name, "width": 60, "height": 40} for i, name in enumerate(NAMES)]
    notes = [{"id": i, "image_id": i, "category_id": i, "bbox": [1, 2, 30, 20], "iscrowd": 0} for i in range(2)]
    mask = {"size": [40, 60], "counts": [5, 10, 2385]}
    notes.append({"id": 2, "image_id": 2, "category_id": 2, "segmentation": mask})
    content = {"images": images, "annotations": notes, "categories": [{"id": i, "name": f"c{i}"} for i in range(3)]}
    file = root / "annotations" / "instances_train2017.json"
    file.parent.mkdir()
    file.write_text(json.dumps(content))
    for i, name in enumerate(NAMES):
        picture(root / "train2017" / name, i)
    return [file]


def inat(root: Path) -> list[Path]:
    file = coco(root)[0]
    shutil.move(root / "train2017", root / "all")
    content = json.loads(file.read_text())
    for image in content["images"]:
        image["file_name"] = f"all/{image['file_name']}"
    (root / "train2018.json").write_text(json.dumps(content))
    return [root / "train2018.json"]


def cars(root: Path, odd: object = 7) -> list[Path]:
    """Tables of MATLAB with one odd value in them."""
    fields = ["fname", "bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class"]
    rows = np.array([(f"{i}.jpg", 1, 2, 30, 40, 1) for i in range(3)], dtype=[(f, object) for f in fields])
    rows[fields[len(str(odd)) % 6]][1] = odd
    (root / "devkit").mkdir(exist_ok=True)
    savemat(root / "devkit" / "cars_train_annos.mat", {"annotations": rows})
    savemat(root / "devkit" / "cars_meta.mat", {"class_names": np.array(["A", "B"], object)})
    for i in range(3):
        picture(root / "cars_train" / f"{i}.jpg", i)
    return []


def cars_tables(root: Path) -> list[Path]:
    (root / "anno_train.csv").write_text("".join(f"{i}.jpg,1,2,30,40,1\n" for i in range(3)))
    (root / "names.csv").write_text("A\nB\n")
    for i in range(3):
        picture(root / "cars_train" / f"{i}.jpg", i)
    return [root / "anno_train.csv", root / "names.csv"]


def aircraft(root: Path) -> list[Path]:
    data = root / "data"
    data.mkdir()
    texts = {"images_box.txt": "0 1 2 30 15\n1 1 2 30 15\n2 1 2 30 15\n", "variants.txt": "A 3\nB\n",
             "images_variant_train.txt": "0 A 3\n1 B\n", "images_variant_val.txt": "2 B\n"}  # fmt: skip
    for name, text in texts.items():
        (data / name).write_text(text)
    (data / "images_variant_test.txt").write_text("")
    for i in range(3):
        picture(data / "images" / f"{i}.jpg", i)
    return [data / name for name in texts]


def imagenet(root: Path) -> list[Path]:
    box = "<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>30</xmax><ymax>20</ymax></bndbox>"
    size = "<size><width>60</width><height>40</height></size>"
    for i, name in enumerate(NAMES):
        picture(root / "train" / name, i)
    (root / "bbox" / "train" / "a").mkdir(parents=True)
    (root / "bbox/train/a/0.xml").write_text(f"<annotation>{size}<object><name>a</name>{box}</object></annotation>")
    return [root / "bbox/train/a/0.xml"]


def pets(root: Path) -> list[Path]:
    for i in range(3):
        picture(root / "images" / f"a_{i}.jpg", i)
        (root / "annotations" / "trimaps").mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.tile(np.uint8([[1, 2, 3]]), (40, 20))).save(root / f"annotations/trimaps/a_{i}.png")
    (root / "annotations/trainval.txt").write_text("a_0 1 1 1\na_1 1 1 1\n")
    (root / "annotations/test.txt").write_text("a_2 1 1 1\n")
    return [root / "annotations" / name for name in ("trainval.txt", "test.txt", "trimaps/a_0.png")]


def labels(root: Path) -> list[Path]:
    for i, name in enumerate(NAMES):
        picture(root / name, i)
    (root / "labels.csv").write_text("path,label,split\n" + "".join(f"{name},{name[0]},train\n" for name in NAMES))
    return [root / "labels.csv"]


READERS: dict[str, tuple[str, Callable[..., list[Path]]]] = {
    "cub": ("cub", cub), "nabirds": ("nabirds", cub), "coco": ("coco", coco), "inat": ("inat2018", inat),
    "cars": ("cars", cars), "cars_tables": ("cars", cars_tables), "aircraft": ("aircraft", aircraft),
    "imagenet": ("imagenet", imagenet), "pets": ("pets", pets), "labels": ("folder", labels),
}  # fmt: skip


def damage(file: Path, draw: random.Random) -> None:
    """Other bytes, a missing end, lines moved or doubled, other values."""
    data = bytearray(file.read_bytes())
    if file.suffix == ".json" and draw.random() < 0.8:
        content = json.loads(data)
        for _ in range(draw.randint(1, 2)):
            _other_value(content, draw)
        data = bytearray(json.dumps(content).encode())
    elif (kind := draw.randrange(5)) == 0:
        for _ in range(draw.randint(1, 4)):
            data[draw.randrange(len(data))] = draw.randrange(256)
    elif kind == 1:
        del data[draw.randrange(len(data)) :]
    elif kind == 2:
        lines = data.splitlines(True)
        lines.insert(draw.randrange(len(lines) + 1), draw.choice(lines))
        del lines[draw.randrange(len(lines))]
        data = bytearray(b"".join(lines))
    else:
        words = data.replace(b"\n", b" \n ").split(b" ")
        words[draw.randrange(len(words))] = str(draw.choice(WEIRD)).encode("utf-8", "surrogatepass")
        data = bytearray(b" ".join(words))
    file.write_bytes(data)


def _other_value(content: dict, draw: random.Random) -> None:
    """Puts something odd in the place of one value, or takes it away."""
    places = []

    def walk(value: object) -> None:
        items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        for key, inner in list(items):
            places.append((value, key))
            walk(inner)

    walk(content)
    if places:
        value, key = draw.choice(places)
        if draw.random() < 0.2:
            del value[key]
        else:
            value[key] = draw.choice(WEIRD)


def malformed(root: Path, reader: str, seed: int) -> None:
    """A set of `reader` below `root` with damage of this seed."""
    draw = random.Random(f"{reader} {seed}")
    root.mkdir()
    if reader == "cars":
        odd = draw.choice([v for v in WEIRD if not isinstance(v, dict | bool) and v is not None and v != 2**70])
        cars(root, odd.replace("\ud800", "") if isinstance(odd, str) else odd)
        return
    files = READERS[reader][1](root)
    damage(draw.choice(files), draw)
