"""Splits and classes of picture trees as people have them."""

from pathlib import Path

import pytest
from PIL import Image

from precompute.base.errors import UserError
from precompute.datasets import read_dataset

BASE = ("train/a", "train/b", "test/a", "test/b")


def _tree(root: Path, *places: str) -> Path:
    """A picture in each folder, or under each name that ends in .jpg."""
    for i, place in enumerate(places):
        path = root / (place if place.endswith(".jpg") else f"{place}/{i}.jpg")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 16), (10 * i, 0, 90)).save(path)
    return root


def _listed(root: Path) -> dict[str, tuple[str, str | None]]:
    """Split and class of every picture by its path."""
    listing = read_dataset("folder", str(root))
    names = (*listing.class_names, None)
    return {
        path: (listing.split_names[split], names[label])
        for path, split, label in zip(listing.paths, listing.splits, listing.labels, strict=True)
    }


@pytest.mark.parametrize("more", ["sample.jpg", "unlabeled", "extra/deep/er", "train_mini/a", "Labels/x", "misc.jpg"])
def test_splits_hold_beside_other_files(tmp_path, more):
    listed = _listed(_tree(tmp_path, *BASE, more))
    assert [listed[f"{place}/{i}.jpg"] for i, place in enumerate(BASE)] == [
        ("train", "a"), ("train", "b"), ("test", "a"), ("test", "b"),
    ]  # fmt: skip
    rest = [value for path, value in listed.items() if not path.startswith(BASE)]
    assert rest == [("train", "a" if more == "train_mini/a" else None)]
    notes = read_dataset("folder", str(tmp_path)).notes
    assert any("beside the splits test and train: unlabelled, in train" in note for note in notes) == (
        more != "train_mini/a"
    )


@pytest.mark.parametrize(
    ("places", "expected"),
    [
        (("train/a", "train/b", "dev/a", "dev/b"), {"train", "val"}),
        (("train.X1/a", "train.X2/b", "val.X/a", "val.X/b"), {"train", "val"}),
        (("Training/a", "Test/a"), {"train", "test"}),
        (("train_mini/a", "train_mini/b", "val/a"), {"train", "val"}),
        (("train2017/a", "val2017/a"), {"train", "val"}),
        (("images/train/a", "images/train/b", "images/val/a"), {"train", "val"}),
        (("data/set/train/a", "data/set/train/b", "data/set/test/b"), {"train", "test"}),
        (("train_256/a", "train_256/b"), {"train"}),
    ],
)
def test_names_of_splits(tmp_path, places, expected):
    listed = _listed(_tree(tmp_path, *places))
    assert {split for split, _ in listed.values()} == expected
    assert {label for _, label in listed.values()} <= {"a", "b"}


@pytest.mark.parametrize(
    ("places", "classes"),
    [
        (("images/a", "images/b"), {"a", "b"}),
        (("data/pictures/a", "data/pictures/b/deep"), {"a", "b"}),
        (("bus", "car", "train"), {"bus", "car", "train"}),
        (("train_station", "test_tube", "bridge"), {"train_station", "test_tube", "bridge"}),
        (("only/x.jpg", "only/y.jpg"), {"only"}),
        (("a/1/x", "b/2/y"), {"a", "b"}),
    ],
)
def test_classes_are_no_splits(tmp_path, places, classes):
    listed = _listed(_tree(tmp_path, *places))
    assert {split for split, _ in listed.values()} == {"train"}
    assert {label for _, label in listed.values()} == classes


def test_no_pictures_says_what_is_there(tmp_path):
    for name in ("a/1.HEIC", "a/2.HEIC", "b/x.parquet", "shard.tar", "plain"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(UserError, match=r"no pictures.*2 files ignored.*\.HEIC.*\.parquet.*\.tar"):
        read_dataset("folder", str(tmp_path))
