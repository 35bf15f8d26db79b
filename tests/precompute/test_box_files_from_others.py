"""Box files that somebody else wrote: read as they are, or refused with one line that names the file."""

import hashlib
import json
import stat
from pathlib import Path

import h5py
import numpy as np
import pytest

from augment.backends import native
from precompute.base.boxfile import _BLOCK, BoxCache, _user_block
from precompute.base.errors import UserError
from precompute.inspect import program as inspect
from trainer.record.model_card import in_words

INTEGERS = ("widths", "heights", "banners", "labels", "splits", "sources", "file_sizes")


def _sealed(path: Path) -> Path:
    """Writes the user block that fits the changed bytes."""
    body = path.read_bytes()[_BLOCK:]
    path.write_bytes(_user_block(len(body), hashlib.sha256(body).hexdigest()) + body)
    return path


def _changed(boxes: Path, out: Path, change) -> Path:
    """A sealed copy of a box file after `change(h5)`."""
    out.write_bytes(boxes.read_bytes())
    with h5py.File(out, "r+") as h5:
        change(h5)
    return _sealed(out)


def _replace(name: str, values: np.ndarray, **more):
    def change(h5: h5py.File) -> None:
        del h5["columns"][name]
        h5["columns"].create_dataset(name, data=values, **more)

    return change


def _header(**changes):
    def change(h5: h5py.File) -> None:
        header = json.loads(h5["header"][()].tobytes()) | changes
        del h5["header"]
        h5.create_dataset("header", data=np.frombuffer(json.dumps(header).encode(), np.uint8))

    return change


@pytest.mark.parametrize("path", ["../outside.jpg", "/etc/hosts", "a/../../b.jpg", "a\0b.jpg", "", "x/.."])
def test_paths_stay_in_the_folder(demo_boxes, tmp_path, path):
    paths = BoxCache.open(demo_boxes).paths.copy()
    paths[3] = path.encode()
    file = _changed(demo_boxes, tmp_path / "x.h5", _replace("paths", paths))
    with pytest.raises(UserError, match=r"x\.h5: not what precompute\.boxes writes \(the path of picture 3"):
        BoxCache.open(file)


@pytest.mark.parametrize("path", ["a..b.jpg", "..a/b.jpg", "a/...jpg", "x/ü.jpg"])
def test_names_with_dots_are_names(demo_boxes, tmp_path, path):
    paths = BoxCache.open(demo_boxes).paths.copy()
    paths[3] = path.encode()
    assert BoxCache.open(_changed(demo_boxes, tmp_path / "x.h5", _replace("paths", paths))).path(3) == path


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("widths", 0), ("widths", -5), ("heights", -1), ("heights", 1 << 30), ("banners", -3), ("labels", 999),
        ("labels", -2), ("splits", 9), ("sources", 200), ("file_sizes", 0), ("scores", 7.0), ("scores", np.nan),
        ("boxes", (0.5, 0.1, 0.2, 0.9)), ("boxes", (-0.1, 0, 1, 1)), ("boxes", (0, 0, 1.5, 1)), ("boxes", np.nan),
    ],
)  # fmt: skip
def test_numbers_out_of_range_are_refused(demo_boxes, tmp_path, column, value):
    values = getattr(BoxCache.open(demo_boxes), column).copy()
    values[5] = value
    with pytest.raises(UserError, match=r"x\.h5: not what precompute\.boxes writes"):
        BoxCache.open(_changed(demo_boxes, tmp_path / "x.h5", _replace(column, values)))


def test_values_of_other_files_are_not_read(demo_boxes, tmp_path):
    count = len(BoxCache.open(demo_boxes))
    (tmp_path / "other.bin").write_bytes(bytes(4 * count))

    def external(h5: h5py.File) -> None:
        del h5["columns"]["scores"]
        place = [(str(tmp_path / "other.bin"), 0, 4 * count)]
        h5["columns"].create_dataset("scores", shape=(count,), dtype="f4", external=place)

    def linked(h5: h5py.File) -> None:
        del h5["columns"]["scores"]
        h5["columns"]["scores"] = h5py.ExternalLink(str(demo_boxes), "/columns/scores")

    def soft(h5: h5py.File) -> None:
        h5["columns"].move("scores", "elsewhere")
        h5["columns"]["scores"] = h5py.SoftLink("/columns/elsewhere")

    def virtual(h5: h5py.File) -> None:
        del h5["columns"]["scores"]
        layout = h5py.VirtualLayout((count,), "f4")
        layout[:] = h5py.VirtualSource(str(demo_boxes), "columns/scores", (count,))
        h5["columns"].create_virtual_dataset("scores", layout)

    def huge(h5: h5py.File) -> None:
        del h5["columns"]["scores"]
        h5["columns"].create_dataset("scores", shape=(1 << 40,), dtype="f4")

    packed = _replace("scores", np.ones(count, np.float32), compression="gzip")
    for change in (external, linked, soft, virtual, huge, packed):
        with pytest.raises(UserError, match=r"x\.h5: not what precompute\.boxes writes \(.*scores"):
            BoxCache.open(_changed(demo_boxes, tmp_path / "x.h5", change))


@pytest.mark.parametrize(
    "changes",
    [
        {"dataset": 3}, {"class_names": "abc"}, {"class_names": [1, 2]}, {"quarantine": [["a"]]}, {"provenance": []},
        {"more": 1}, {"provenance": {"notes": {"x": "many"}}}, {"provenance": {"config": 7}}, {"split_names": []},
    ],
)  # fmt: skip
def test_headers_of_other_kinds_are_refused(demo_boxes, tmp_path, changes):
    with pytest.raises(UserError, match=r"x\.h5: not what precompute\.boxes writes"):
        BoxCache.open(_changed(demo_boxes, tmp_path / "x.h5", _header(**changes)))


def _spoil(rng: np.random.Generator, cache: BoxCache, out: Path) -> None:
    """A random change of a column's values, type, shape or place, or of the header."""
    kind = rng.integers(6)
    name = str(rng.choice([*INTEGERS, "boxes", "scores", "hashes", "plain", "paths"]))
    values = getattr(cache, name).copy()
    with h5py.File(out, "r+") as h5:
        columns = h5["columns"]
        del columns[name]
        if kind == 0 and name in INTEGERS:
            bounds = np.iinfo(values.dtype)
            values[rng.integers(len(values), size=3)] = rng.integers(bounds.min, bounds.max, 3, values.dtype)
        elif kind == 1:
            values = values.astype(rng.choice(["f8", "i8", "S5", "u1", "c8"]) if name != "paths" else "S3")
        elif kind == 2:
            values = values[: rng.integers(len(values))]
        elif kind == 3:
            values = np.stack([values, values])
        elif kind == 4:
            raw = values.view(np.uint8).reshape(-1)
            raw[rng.integers(raw.size, size=8)] = rng.integers(0, 256, 8)
        if kind < 5:
            columns.create_dataset(name, data=values)


def test_random_changes_end_in_a_cache_or_one_line(demo_boxes, tmp_path, capsys):
    rng, cache, refused = np.random.default_rng(4), BoxCache.open(demo_boxes), []
    for _ in range(120):
        out = tmp_path / "x.h5"
        out.write_bytes(demo_boxes.read_bytes())
        _spoil(rng, cache, out)
        _sealed(out)
        try:
            again = BoxCache.open(out)
        except UserError as error:
            refused.append(str(error))
            continue
        assert len(again) == len(cache)
        assert (again.widths > 0).all()
        assert inspect([str(out), "--check", "none"]) == 0
    capsys.readouterr()
    assert len(refused) > 60
    for text in refused:
        assert text.startswith(f"{tmp_path / 'x.h5'}: not what precompute.boxes writes (")
        assert "\n" not in text


def test_code_is_loaded_from_files_of_the_user_alone(tmp_path):
    library = tmp_path / "pixels.so"
    assert not native._is_ours(library)
    library.write_bytes(b"x")
    library.chmod(0o755)
    assert native._is_ours(library)
    library.chmod(0o775)
    assert not native._is_ours(library)
    (tmp_path / "link.so").symlink_to(library)
    assert not native._is_ours(tmp_path / "link.so")


def test_a_cache_folder_that_cannot_be_written_gives_a_private_one(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    (folder,) = native._folders()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert not any(folder.iterdir())


def test_names_out_of_files_are_no_markup():
    assert in_words("a | b\n# c") == r"a \| b \# c"
    assert in_words("<img src=x> [x](y) `z`") == r"&lt;img src=x&gt; \[x\](y) \`z\`"
    assert in_words("CUB_200-2011 (birds)") == "CUB_200-2011 (birds)"
