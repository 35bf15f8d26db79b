"""The boxes command as a user runs it: sets, reuse, refusals, odd files, maps."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from precompute.base.boxfile import BoxCache
from precompute.base.boxmath import iou
from precompute.base.errors import UserError
from precompute.boxes import BoxSettings, make_boxes

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def tree(shared_data, tmp_path):
    """A small folder set: 12 real pictures in two classes."""
    root = tmp_path / "tree"
    for split, kind in (("train", "dress"), ("test", "pants")):
        source = shared_data / "clothing-cc0" / split / kind
        (root / split / kind).mkdir(parents=True)
        for file in sorted(source.iterdir())[:6]:
            shutil.copy(file, root / split / kind)
    return root


def test_demo_set_and_summary(boxes, demo_root, tmp_path):
    done = boxes("--dataset", "demo", "--root", demo_root, "--out", tmp_path / "x.h5", "--json")
    facts = json.loads(done.stdout.splitlines()[-1])
    assert facts["images"] == 96
    assert facts["sources"] == {"gt": 96}
    assert facts["splits"] == {"train": 48, "test": 48}
    cache = BoxCache.open(tmp_path / "x.h5")
    assert (cache.boxes[:, 2:] > cache.boxes[:, :2]).all()
    assert cache.provenance["config"]["source"] == "gt"
    assert cache.plain.all()


def test_folder_with_a_detector(boxes, tree, tmp_path):
    threads = torch.get_num_threads()
    done = boxes("--dataset", "folder", "--root", tree, "--out", tmp_path / "x.h5", "--source", "spectral-residual")
    assert "12 boxes" in done.stdout
    cache = BoxCache.open(tmp_path / "x.h5")
    assert cache.class_names == ("dress", "pants")
    assert cache.split_names == ("train", "test")
    assert cache.labels[cache.indices("test")].tolist() == [1] * 6
    assert ((cache.scores > 0) & (cache.scores <= 1)).all()
    assert cache.source_names[cache.sources[0]] == "spectral-residual"
    assert torch.get_num_threads() == threads  # as they were for whoever calls it from a program of theirs
    # How many threads there were, and how often it was made, is not in the file.
    boxes("--dataset", "folder", "--root", tree, "--out", tmp_path / "y.h5", "--source", "spectral-residual",
          "--workers", 1)  # fmt: skip
    assert (tmp_path / "x.h5").read_bytes() == (tmp_path / "y.h5").read_bytes()


def test_reuse_and_refusal(boxes, tree, tmp_path):
    out = tmp_path / "x.h5"
    detect = ("--dataset", "folder", "--root", tree, "--out", out, "--source", "spectral-residual")
    boxes(*detect)
    before = out.stat().st_mtime_ns
    assert "up to date: nothing to do" in boxes(*detect).stdout
    assert out.stat().st_mtime_ns == before
    refused = boxes(*detect, "--value", 0.3, status=1).stderr
    assert "value: 0.05 there, 0.3 now" in refused
    assert "--rebuild" in refused
    boxes(*detect, "--value", 0.3, "--rebuild")
    assert BoxCache.open(out).provenance["config"]["value"] == 0.3
    # The same settings, but other files
    victim = next((tree / "train" / "dress").iterdir())
    shutil.copy(tree / "test" / "pants" / os.listdir(tree / "test" / "pants")[0], tree / "test" / "new.jpg")
    with open(victim, "ab") as file:
        file.write(b"\0")
    refused = boxes(*detect, "--value", 0.3, status=1).stderr
    assert "1 new (e.g. test/new.jpg), 1 changed" in refused
    data = bytearray(out.read_bytes())
    data[700] ^= 1
    out.write_bytes(data)
    assert "damaged" in boxes(*detect, status=1).stderr
    boxes(*detect, "--rebuild")
    assert len(BoxCache.open(out)) == 13


def test_odd_files_are_named(boxes, tree, tmp_path):
    folder = tree / "train" / "dress"
    (folder / "dangling.jpg").symlink_to("nowhere.jpg")
    (folder / "loop.jpg").symlink_to("loop.jpg")
    (folder / "circle").symlink_to("..")
    os.mkfifo(folder / "pipe.jpg")
    (folder / "folder.jpg").mkdir()
    (folder / "empty.jpg").touch()
    (folder / "._side.jpg").write_bytes(b"\0\5\x16\7")
    done = boxes("--dataset", "folder", "--root", tree, "--out", tmp_path / "x.h5")
    cache = BoxCache.open(tmp_path / "x.h5")
    assert len(cache) == 12
    reasons = {Path(bad.path).name: bad.reason for bad in cache.quarantine}
    assert reasons == {
        "dangling.jpg": "cannot be read: a link to nothing",
        "loop.jpg": "cannot be read: Too many levels of symbolic links",
        "pipe.jpg": "not a regular file",
        "empty.jpg": "empty file (0 bytes)",
    }
    assert "4 left out" in done.stdout


def test_faults_mixed_in_leave_the_rest_alone(boxes, tree, shared_data, tmp_path):
    detect = ("--dataset", "folder", "--root", tree, "--source", "spectral-residual", "--out")
    boxes(*detect, tmp_path / "clean.h5")
    for file in (shared_data / "faults" / "damaged").iterdir():
        shutil.copy(file, tree / "train" / "dress")
    boxes(*detect, tmp_path / "mixed.h5")
    clean, mixed = BoxCache.open(tmp_path / "clean.h5"), BoxCache.open(tmp_path / "mixed.h5")
    rows = {mixed.path(i): i for i in range(len(mixed))}
    at = [rows[clean.path(i)] for i in range(len(clean))]
    np.testing.assert_array_equal(clean.boxes, mixed.boxes[at])
    np.testing.assert_array_equal(clean.scores, mixed.scores[at])
    assert len(mixed.quarantine) >= 25


def test_user_errors(boxes, shared_data, tmp_path):
    refused = boxes("--dataset", "cub", "--root", tmp_path, "--out", tmp_path / "x.h5", status=1).stderr
    assert "bounding_boxes.txt" in refused
    refused = boxes("--dataset", "folder", "--out", tmp_path / "x.h5", status=1).stderr
    assert "--root DIR" in refused
    refused = boxes("--dataset", "folder", "--root", tmp_path, "--source", "gt", "--out", tmp_path / "x.h5", status=1)
    assert "no pictures" in refused.stderr
    clothes = shared_data / "clothing-cc0"
    refused = boxes("--dataset", "folder", "--root", clothes, "--source", "gt", "--out", tmp_path / "x.h5", status=1)
    assert "no annotated boxes; take a detector" in refused.stderr
    refused = boxes("--dataset", "folder", "--root", clothes, "--out", tmp_path, status=1)
    assert "is a folder" in refused.stderr
    refused = boxes("--dataset", "folder", "--root", clothes, "--out", "/proc/no/x.h5", status=1)
    assert "/proc/no" in refused.stderr
    boxes("--dataset", "no-such-set", status=2)
    boxes("--dataset", "demo", "--value", "2", status=2)
    assert not (tmp_path / "x.h5").exists()


def test_nothing_usable_is_an_error(boxes, tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a.jpg").write_bytes(b"<html>")
    refused = boxes("--dataset", "folder", "--root", tmp_path / "set", "--out", tmp_path / "x.h5", status=1).stderr
    assert "not one usable picture" in refused
    assert (
        "1 x an HTML page (it is often an error page that a download saved: download again): not a picture that can"
        in refused
    )
    assert not (tmp_path / "x.h5").exists()


def test_maps_from_a_folder(boxes, shared_data, tmp_path):
    root, out = shared_data / "ECSSD", tmp_path / "x.h5"
    (tmp_path / "maps").mkdir()
    (tmp_path / "maps" / "images").symlink_to(root / "ground_truth_mask")
    given = ("--dataset", "ecssd", "--root", root, "--out", out, "--source", "maps")
    boxes(*given, "--maps", tmp_path / "maps")
    cache = BoxCache.open(out)
    assert len(cache) == 70
    assert cache.truths is not None
    assert iou(cache.boxes.astype(float), cache.truths.astype(float)).mean() > 0.95  # masks as maps
    refused = boxes(*given, "--maps", tmp_path, "--rebuild", status=1).stderr
    assert "no map for any of 70 pictures; expected " in refused
    assert "images/0002.png" in refused
    assert boxes(*given, status=2)


@pytest.mark.parametrize("search", [("--value", 0.3), ("--form", "mass", "--value", 0.7)], ids=["tempered", "mass"])
def test_kept_maps_are_searched_as_the_detectors_were(boxes, demo_root, tmp_path, search):
    common = ("--dataset", "demo", "--root", demo_root)
    detect = (*common, "--source", "geodesic", "--keep-maps", tmp_path / "maps", "--shard", 32)
    boxes(*detect, "--out", tmp_path / "other.h5")  # another value, whose maps are the same
    boxes(*detect, *search, "--out", tmp_path / "a.h5")
    boxes(*common, "--source", "maps", "--maps", tmp_path / "maps", *search, "--out", tmp_path / "b.h5")
    a, b = BoxCache.open(tmp_path / "a.h5"), BoxCache.open(tmp_path / "b.h5")
    assert (a.boxes != BoxCache.open(tmp_path / "other.h5").boxes).any()
    for column in ("paths", "boxes", "scores", "sources", "truths", "widths"):
        np.testing.assert_array_equal(getattr(a, column), getattr(b, column))


def test_kept_maps_of_a_set_with_banners(boxes, shared_data, tmp_path):
    common = ("--dataset", "aircraft", "--root", shared_data / "fgvc-aircraft-2013b", "--value", 0.1)
    boxes(*common, "--source", "spectral-residual", "--keep-maps", tmp_path / "maps", "--out", tmp_path / "a.h5")
    boxes(*common, "--source", "maps", "--maps", tmp_path / "maps", "--out", tmp_path / "b.h5")
    np.testing.assert_array_equal(BoxCache.open(tmp_path / "a.h5").boxes, BoxCache.open(tmp_path / "b.h5").boxes)


def test_kept_maps_are_made_where_they_are_missing_and_never_mixed(boxes, demo_root, tree, tmp_path):
    out, maps = tmp_path / "x.h5", tmp_path / "maps"
    detect = ("--dataset", "folder", "--root", tree, "--source", "geodesic", "--out", out)
    boxes(*detect)  # without maps first: a finished file does not hide that they are missing
    before = out.read_bytes()
    boxes(*detect, "--keep-maps", maps)
    assert out.read_bytes() == before
    files = sorted(maps.rglob("*.png"))
    assert len(files) == 12
    whole = [file.read_bytes() for file in files]
    assert "up to date" in boxes(*detect, "--keep-maps", maps).stdout
    files[3].unlink()
    (files[0].parent / f".{files[0].name}.abc.tmp").write_bytes(b"of a killed run")
    assert "up to date" not in boxes(*detect, "--keep-maps", maps).stdout
    assert [file.read_bytes() for file in files] == whole
    assert not list(maps.rglob("*.tmp"))
    for folder, flags, reason in (
        (maps, ("--source", "spectral-residual", "--rebuild"), "holds other maps"),
        (tree.parent, (), "is neither empty nor of kept maps"),
        (tree / "maps", (), "lies among the pictures"),
    ):
        refused = boxes(*detect, *flags, "--keep-maps", folder, status=1).stderr
        assert reason in refused
    assert not (tree / "maps").exists()


def test_flags_that_cannot_be(boxes, demo_root, tmp_path):
    common = ("--dataset", "demo", "--root", demo_root, "--out", tmp_path / "x.h5")
    assert "--keep-maps DIR keeps the maps" in boxes(*common, "--store-path", status=2).stderr
    refused = boxes(*common, "--keep-maps", tmp_path / "maps", status=1).stderr
    assert "annotated boxes have no maps" in refused
    for flag, value in (("--form", "mass"), ("--value", "0.5")):
        assert f"{flag}: annotated boxes are not searched" in boxes(*common, flag, value, status=1).stderr
    refused = boxes(*common, "--source", "gt", "--keep-maps", tmp_path / "maps", status=2).stderr
    assert "--keep-maps" in refused
    assert "--source gt makes no maps" in refused
    assert "--device tpu: must be auto, cpu, cuda or cuda:N" in boxes(*common, "--device", "tpu", status=2).stderr


def test_a_file_with_stored_paths_still_opens(boxes, tmp_path):
    """An earlier version could store boxes of every gamma (`path_rects`, `path_sums`); they are not read."""
    file = Path(__file__).parent / "data" / "box_file_with_stored_paths.h5"
    cache = BoxCache.open(file)
    assert len(cache) == 4
    assert cache.provenance["config"]["path"] == "stored"
    root = tmp_path / "set"
    for i in range(4):  # the pictures it was made of
        small = np.random.default_rng(i).integers(0, 256, (6, 6, 3)).astype(np.uint8)
        (root / "a").mkdir(parents=True, exist_ok=True)
        Image.fromarray(small).resize((48, 36)).save(root / "a" / f"{i}.png")
    boxes("--dataset", "folder", "--root", root, "--source", "geodesic", "--out", tmp_path / "new.h5")
    np.testing.assert_array_equal(BoxCache.open(tmp_path / "new.h5").boxes, cache.boxes)


def test_the_function_is_the_command(boxes, demo_root, tmp_path):
    lines: list[str] = []
    settings = BoxSettings(dataset="demo", root=str(demo_root), out=str(tmp_path / "a.h5"), source="geodesic")
    cache = make_boxes(settings, say=lines.append)
    assert len(cache) == 96
    assert lines[0].startswith("demo: 96 pictures listed below ")
    assert any(line.startswith(f"{tmp_path / 'a.h5'} written: ") for line in lines)
    boxes("--dataset", "demo", "--root", demo_root, "--source", "geodesic", "--out", tmp_path / "b.h5")
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()
    again: list[str] = []
    make_boxes(settings, say=again.append, value=0.05)
    assert "up to date: nothing to do" in again[-1]
    with pytest.raises(UserError, match=r"value: 0\.05 there, 0\.4 now"):
        make_boxes(settings, say=again.append, value=0.4)
