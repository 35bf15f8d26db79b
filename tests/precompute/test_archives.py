"""A set as tar shards or as a zip file gives what the same set gives as files."""

import shutil
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from archive_sets import add_to, files_below, tar_of, webdataset, zip_of

from augment import Making, Policy, open_views
from augment.backends import why_no_dali
from precompute.base.boxfile import COLUMNS, BoxCache
from precompute.datasets import read_dataset


@pytest.fixture(scope="session")
def birds(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 real photographs in train/CLASS and test/CLASS, one of them a PNG."""
    from PIL import Image

    root = tmp_path_factory.mktemp("birds") / "birds"
    for i, path in enumerate(sorted((shared_data / "CUB_200_2011" / "images").rglob("*.jpg"))[::9][:24]):
        folder = root / ("test" if i % 4 == 0 else "train") / f"class{i // 4 % 3}"
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, folder)
        if i == 5:
            Image.open(path).resize((120, 90)).save(folder / "scaled.png")
    return root


MAKERS = {
    "tar": lambda path, files: tar_of(path.with_suffix(".tar"), files),
    "ustar": lambda path, files: tar_of(path.with_suffix(".tar"), files, tarfile.USTAR_FORMAT),
    "gnu": lambda path, files: tar_of(path.with_suffix(".tar"), files, tarfile.GNU_FORMAT),
    "zip": lambda path, files: zip_of(path.with_suffix(".zip"), files),
    "deflated": lambda path, files: zip_of(path.with_suffix(".zip"), files, zipfile.ZIP_DEFLATED),
}


def views(boxes: Path, root: Path, backend: str) -> list[torch.Tensor]:
    making = Making(device="cpu", backend=backend, workers=2, on_bad="fail", say=lambda line: None)
    with open_views(boxes, root, policy=Policy(size=48), batch_size=6, making=making) as loader:
        return [view for batch in loader for view in batch.views]


@pytest.mark.parametrize("kind", MAKERS)
def test_an_archive_gives_the_boxes_and_views_of_the_files(birds, tmp_path, boxes, run_here, kind):
    archive = MAKERS[kind](tmp_path / "set", files_below(birds))
    as_files, as_members = tmp_path / "files.h5", tmp_path / "members.h5"
    boxes("--dataset", "folder", "--root", birds, "--out", as_files)
    boxes("--dataset", "folder", "--root", archive, "--out", as_members)
    files, members = BoxCache.open(as_files), BoxCache.open(as_members)
    assert files.offsets is None
    assert members.offsets is not None
    assert members.packed is not None
    assert (members.offsets > 0).all()
    assert (members.packed > 0).all() == (members.packed > 0).any() == (kind == "deflated")
    for name in COLUMNS:
        assert np.array_equal(getattr(files, name), getattr(members, name)), name
    assert (files.class_names, files.split_names) == (members.class_names, members.split_names)
    for backend in ("fused", "eager", "dali") if kind in ("tar", "zip", "deflated") else ("eager",):
        if backend == "dali" and why_no_dali() is not None:
            continue
        for ours, theirs in zip(views(as_files, birds, backend), views(as_members, archive, backend), strict=True):
            assert torch.equal(ours, theirs)
    sheet = tmp_path / "sheet.png"
    done = run_here("precompute.inspect", as_members, "--sheet", sheet, "--images", 4)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "pictures    all 25 below" in done.stdout
    assert sheet.stat().st_size > 1000
    boxes("--dataset", "folder", "--root", archive, "--out", as_members)  # and nothing is done twice
    # Whoever unpacks the archive later reads the files.
    unpacked = tmp_path / "unpacked"
    shutil.copytree(birds, unpacked)
    assert run_here("precompute.inspect", as_members, "--root", unpacked).returncode == 0


def test_webdataset_shards(birds, tmp_path, boxes):
    samples = [(f"{i:06d}", data, i % 11) for i, (name, data) in enumerate(files_below(birds)) if name.endswith("jpg")]
    webdataset(tmp_path / "set", "imagenet-train", samples[:18])
    webdataset(tmp_path / "set", "imagenet-val", samples[18:])
    more = [(f"{samples[-1][0]}.mask.png", samples[0][1]), ("x.jpg", samples[1][1])]
    add_to(tmp_path / "set" / "imagenet-val-0001.tar", more)
    listing = read_dataset("folder", tmp_path / "set")
    assert dict(listing.notes) == {
        "further pictures of samples, not taken (KEY.mask.png beside KEY.jpg)": 1,
        "pictures without a class in their shard": 1,
        "files ignored, no pictures by their names (.txt)": 24,
    }
    assert listing.paths.pop() == "imagenet-val-0001.tar/x.jpg"
    assert listing.class_names == tuple(map(str, range(11)))  # numbers in their own order
    assert listing.labels.tolist() == [*(label for _, _, label in samples), -1]
    assert listing.split_names == ("train", "val")
    assert listing.splits.tolist() == [0] * 18 + [1] * 7
    assert listing.paths[5] == "imagenet-train-0001.tar/000005.jpg"
    out = tmp_path / "set.h5"
    boxes("--dataset", "folder", "--root", tmp_path / "set", "--out", out)
    cache = BoxCache.open(out)
    for i, (_, data, _) in enumerate(samples):
        assert cache.read(tmp_path / "set", i, "hash") == data
    files = tmp_path / "files"
    for key, data, label in samples:
        path = files / ("train" if int(key) < 18 else "val") / f"{label:02d}" / f"{key}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    boxes("--dataset", "folder", "--root", files, "--out", tmp_path / "files.h5")
    other = BoxCache.open(tmp_path / "files.h5")
    order = [[other.keys.tolist().index(key)] for key in cache.keys[:24].tolist()]
    assert np.array_equal(cache.boxes[:24], other.boxes[np.array(order)[:, 0]])
