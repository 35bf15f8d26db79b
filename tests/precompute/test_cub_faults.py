"""CUB's reader: the real rows, and each fault of faults/cub_annotations by its right message."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from precompute.base.boxfile import BoxCache
from precompute.base.errors import UserError
from precompute.datasets import read_dataset

FIRST = "images/001.Black_footed_Albatross/Black_Footed_Albatross_0049_796063.jpg"


def test_the_real_rows_with_their_gaps(shared_data):
    listing = read_dataset("cub", shared_data / "CUB_200_2011")
    assert len(listing) == 224
    assert len(listing.class_names) == 16
    assert listing.class_names[3] == "005.Crested_Auklet"
    assert listing.split_names == ("train", "test")
    for path, label in zip(listing.paths, listing.labels, strict=True):
        assert path.split("/")[1] == listing.class_names[label]
    box = listing.box(0)
    assert box is not None
    assert (box.edges, box.where) == ((36.0, 32.0, 233.0, 489.0), "bounding_boxes.txt line 1")
    lines = (shared_data / "CUB_200_2011" / "train_test_split.txt").read_text().splitlines()
    assert int((listing.splits == 0).sum()) == sum(line.endswith(" 1") for line in lines)


@pytest.fixture
def boxes_of(shared_data, tmp_path, run_here):
    """Runs precompute.boxes over a fault's text files and the real pictures."""

    def run(fault: str, *options: str):
        root = tmp_path / fault
        shutil.copytree(shared_data / "faults" / "cub_annotations" / fault, root)
        (root / "images").symlink_to(shared_data / "CUB_200_2011" / "images")
        out = tmp_path / f"{fault}.h5"
        done = run_here("precompute.boxes", "--dataset", "cub", "--root", root, "--out", out, *options)
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout, BoxCache.open(out)

    return run


@pytest.mark.parametrize(
    ("fault", "path", "reason"),
    [
        # Described as hanging over the edge, but its x of 400 is beyond this picture's 307 columns: nothing to clip.
        (
            "box_overhang",
            FIRST,
            "bounding_boxes.txt line 1: the box x 400, y 200, width 400, height 400 lies outside the picture",
        ),
        (
            "box_outside",
            FIRST,
            "bounding_boxes.txt line 1: the box x 9000, y 20, width 50, height 50 lies outside the picture",
        ),
        ("box_zero", FIRST, "bounding_boxes.txt line 1: the box x 10, y 10, width 0, height 50 has no area"),
        ("box_nan", FIRST, "bounding_boxes.txt line 1: 'nan 10.0 50.0 50.0' is not four numbers"),
        ("box_missing", FIRST, "bounding_boxes.txt has no box for id 13"),
        ("image_missing", "images/001.Black_footed_Albatross/Not_There_0001_1.jpg", "No such file"),
        ("duplicate_id", FIRST, "images.txt line 2: id 13 stands there twice (first in line 1"),
        ("path_escape", "../../../../etc/hostname", "images.txt line 1: the path '../../../../etc/hostname' leaves"),
    ],
)
def test_bad_rows_are_named_and_left_out(boxes_of, fault, path, reason):
    shown, cache = boxes_of(fault)
    assert [bad.path for bad in cache.quarantine] == [path]
    assert reason in cache.quarantine[0].reason
    assert f"{path}: {cache.quarantine[0].reason}" in shown
    assert "1 left out" in shown
    assert len(cache) == (6 if fault == "duplicate_id" else 5)
    assert (cache.sources == 0).all()


@pytest.mark.parametrize("fault", ["crlf", "bom", "unsorted", "split_longer", "no_labels_file"])
def test_harmless_faults_change_nothing_else(boxes_of, shared_data, tmp_path, fault):
    shown, cache = boxes_of(fault)
    real = read_dataset("cub", shared_data / "CUB_200_2011")
    assert not cache.quarantine
    assert len(cache) == 6
    assert (cache.labels == 0).all()
    listing = read_dataset("cub", tmp_path / fault)
    splits = {path: listing.split_names[k] for path, k in zip(listing.paths, listing.splits, strict=True)}
    assert set(splits.values()) == {"train", "test"}
    for i in range(6):
        row = real.paths.index(cache.path(i))
        assert cache.split_names[cache.splits[i]] == splits[cache.path(i)]
        box = real.box(row)
        assert box is not None
        pixels = cache.boxes[i] * np.tile([cache.widths[i], cache.heights[i]], 2)
        np.testing.assert_allclose(pixels, box.edges, rtol=1e-6)
    if fault == "no_labels_file":
        assert "6 labels read from the folders' names" in shown


def test_negative_origin_is_clipped(boxes_of):
    shown, cache = boxes_of("box_negative")
    assert "1 annotated boxes clipped" in shown
    assert cache.boxes[0, :2].tolist() == [0, 0]
    np.testing.assert_allclose(cache.boxes[0, 2:] * [cache.widths[0], cache.heights[0]], [188, 147], rtol=1e-6)


def test_box_faults_do_not_matter_to_a_detector(boxes_of):
    _, cache = boxes_of("box_nan", "--source", "spectral-residual")
    assert len(cache) == 6
    assert not cache.quarantine
    assert cache.truths is not None
    assert np.isnan(cache.truths[0]).all()
    assert not np.isnan(cache.truths[1:]).any()


def test_a_wrong_root_says_what_was_expected(shared_data, tmp_path):
    with pytest.raises(UserError, match=r"images, images\.txt.*not found below it(.|\n)*bounding_boxes\.txt +lines"):
        read_dataset("cub", tmp_path)
    with pytest.raises(UserError, match="there is no such folder"):
        read_dataset("cub", tmp_path / "none")
    (tmp_path / "CUB_200_2011").symlink_to(shared_data / "CUB_200_2011")
    with pytest.raises(UserError, match=r"one folder further down: --root \S*CUB_200_2011"):
        read_dataset("cub", tmp_path)


def test_an_unreadable_line_is_an_error(shared_data, tmp_path):
    root = tmp_path / "cub"
    shutil.copytree(shared_data / "faults" / "cub_annotations" / "unsorted", root)
    (root / "images").mkdir()
    with open(root / "images.txt", "a") as file:
        file.write("lonely\n")
    with pytest.raises(UserError, match=r"images\.txt line 7: 'lonely': expected two fields"):
        read_dataset("cub", Path(root))
