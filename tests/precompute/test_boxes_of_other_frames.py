"""Sets whose every picture is annotated, some of them in a picture of other proportions: a detector takes those."""

import shutil

import numpy as np
import pytest

from precompute.base.boxfile import BoxCache
from precompute.boxes import make_boxes

STRANGE = 7  # the picture whose annotation is of a square one


@pytest.fixture
def nabirds(shared_data, tmp_path):
    """25 annotated birds; `sizes.txt` says that one of them was square when it was annotated."""
    root = tmp_path / "nabirds"
    shutil.copytree(shared_data / "nabirds", root)
    lines = (root / "sizes.txt").read_text().splitlines()
    lines[STRANGE] = f"{lines[STRANGE].split()[0]} 300 300"
    (root / "sizes.txt").write_text("\n".join(lines))
    return root


def made(root, out, **options) -> BoxCache:
    return make_boxes("nabirds", root=str(root), out=str(out), say=lambda line: None, **options)


def test_a_box_of_another_frame_is_left_to_a_detector_where_every_picture_has_one(nabirds, tmp_path):
    cache = made(nabirds, tmp_path / "x.h5")
    key = (nabirds / "sizes.txt").read_text().splitlines()[STRANGE].split()[0]
    stem = dict(line.split() for line in (nabirds / "images.txt").read_text().splitlines())[key]
    row = [cache.path(i) for i in range(len(cache))].index(f"images/{stem}")
    assert [cache.source_names[k] for k in cache.sources] == [
        "geodesic-colour" if i == row else "gt" for i in range(len(cache))
    ]
    found = made(nabirds, tmp_path / "found.h5", source="geodesic-colour")
    np.testing.assert_allclose(cache.boxes[row], found.boxes[row], atol=1e-6)
    assert cache.scores[row] == found.scores[row]
    # Shards of which most need no detector, and other numbers of threads, make the same file; a second run keeps it.
    other = made(nabirds, tmp_path / "shards.h5", shard=4, workers=3)
    for column in ("boxes", "sources", "scores"):
        assert (getattr(cache, column) == getattr(other, column)).all()
    assert other.source_names == cache.source_names
    time = (tmp_path / "x.h5").stat().st_mtime_ns
    made(nabirds, tmp_path / "x.h5")
    assert (tmp_path / "x.h5").stat().st_mtime_ns == time


def test_with_gt_alone_the_whole_picture_is_taken_and_a_usual_set_names_no_detector(nabirds, shared_data, tmp_path):
    cache = made(nabirds, tmp_path / "x.h5", source="gt")
    assert cache.source_names == ("gt", "whole")
    assert (cache.sources == 1).sum() == 1
    assert made(shared_data / "nabirds", tmp_path / "usual.h5").source_names == ("gt", "whole")
