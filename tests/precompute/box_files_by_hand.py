"""Box files as somebody else may make them: malformed, but with a right checksum. `python box_files_by_hand.py 3000`.

`malformed(seed)` is one such file; `outcome` opens it, inspects it and makes views of it, as a user would. Run as a
program, it tries that many seeds and prints what became of them.
"""

import contextlib
import hashlib
import io
import json
import os
import sys
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from precompute.base.boxfile import BLOCK, user_block

ODD_NUMBERS = (-1, 0, 1, 2, 255, 2**15 - 1, -(2**15), 2**31 - 1, -(2**31), 10**6, 2**62, -(2**63))
ODD_FLOATS = (-1.0, -1e-6, 0.0, 0.5, 1.0, 1.000001, 2.0, 1e30, -1e30, np.nan, np.inf, -np.inf)
ODD_PATHS = (
    b"", b"..", b"../x.jpg", b"a/../../x.jpg", b"/etc/passwd", b"\\windows\\x", b"a\\..\\..\\x",
    b"C:\\x.jpg", b"C:/x.jpg",
    b"a\0b.jpg", b"\xff\xfe.jpg", b"a/..", b"./x.jpg", b"a//b.jpg", b"~/x.jpg", b"a\nb\x1b[2J.jpg", b"x" * 5000,
    b"a..b.jpg", b"...", b"%2e%2e/x.jpg",
)  # fmt: skip
ODD_VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 1.5, 1e308, 10**40, "", "x", "a\nb", "\x1b[2J", "../../etc", "<script>", "\ud800", "a\0b", [],
    {}, ["a", "a"], [1, 2], {"a": 1}, [["x", "y", "z"]], [["x"]], [[1, 2]], [None], {"detector": 5},
    {"detector": "u2net"}, {"root": 5}, {"root": "/etc"}, {"grid": 10**9}, {"grid": "x"},
    {"detector": {"detector": ["a"]}}, ["train"], ["whole"],
)  # fmt: skip
ODD_TYPES = ("int8", "uint16", "int64", ">i4", "float64", "float16", "bool", "S3", "uint64", "complex64")
ODD_SHAPES = ((), (0,), (1,), (3, 3), (2, 2, 2), (10**6,))


def sealed(data: bytes) -> bytes:
    """The same file with a right first line."""
    body = data[BLOCK:]
    return user_block(len(body), hashlib.sha256(body).hexdigest()) + body


def malformed(good: Path, seed: int, other: Path) -> bytes:
    """A box file made from `good` by one or two changes; `other`: a file that links and storage may lead to."""
    rng = np.random.default_rng(seed)
    memory = io.BytesIO(good.read_bytes())
    with h5py.File(memory, "r+") as h5:
        for _ in range(rng.integers(1, 3)):
            change = CHANGES[rng.integers(len(CHANGES))]
            with contextlib.suppress(Exception):  # an earlier change took away what this one needs
                change(h5, rng, other)
    data = sealed(memory.getvalue())
    if rng.random() < 0.05:  # a length that the first line does not say is damage, and told so
        data = data[: rng.integers(len(data))]
    return data


def _pick(rng: np.random.Generator, values: Any) -> Any:
    return values[rng.integers(len(values))]


def _column(h5: Any, rng: np.random.Generator) -> str:
    return _pick(rng, sorted(h5["columns"]))


def change_values(h5: Any, rng: np.random.Generator, _: Path) -> None:
    name = _column(h5, rng)
    column = h5["columns"][name]
    values = column[()]
    rows = rng.integers(0, len(values), rng.integers(1, 4)) if rng.random() < 0.8 else np.arange(len(values))
    if values.dtype.kind == "S":
        longest = max(values.dtype.itemsize, 1)
        values[rows] = _pick(rng, ODD_PATHS)[:longest]
    elif values.dtype.kind == "f":
        values.reshape(len(values), -1)[rows, rng.integers(values[0].size)] = _pick(rng, ODD_FLOATS)
    elif values.dtype.kind == "b":
        values.view(np.uint8)[rows] = rng.integers(256)
    else:
        wide = np.array(_pick(rng, ODD_NUMBERS), np.int64).astype(values.dtype)
        values.reshape(len(values), -1)[rows] = wide
    column[...] = values


def change_paths(h5: Any, rng: np.random.Generator, _: Path) -> None:
    paths = h5["columns/paths"][()].astype("S5000" if rng.random() < 0.1 else "S80")
    paths[rng.integers(len(paths))] = _pick(rng, ODD_PATHS)
    del h5["columns/paths"]
    h5["columns"].create_dataset("paths", data=paths)


def change_type(h5: Any, rng: np.random.Generator, _: Path) -> None:
    name, kind = _column(h5, rng), _pick(rng, (*ODD_TYPES, "text", "compound", "enum"))
    values = h5["columns"][name][()]
    del h5["columns"][name]
    if kind == "text":
        h5["columns"].create_dataset(name, data=["x"] * len(values), dtype=h5py.string_dtype())
    elif kind == "compound":
        h5["columns"].create_dataset(name, shape=(len(values),), dtype=[("a", "i4"), ("b", "f4")])
    elif kind == "enum":
        h5["columns"].create_dataset(name, shape=values.shape, dtype=h5py.enum_dtype({"A": 1, "B": 2}, "int32"))
    else:
        numbers = np.zeros(values.shape) if values.dtype.kind == "S" else values
        with np.errstate(all="ignore"):
            h5["columns"].create_dataset(name, data=numbers.astype(kind))


def change_shape(h5: Any, rng: np.random.Generator, _: Path) -> None:
    name = _column(h5, rng)
    values = h5["columns"][name][()]
    del h5["columns"][name]
    if rng.random() < 0.4:
        cut = values[: len(values) // 2] if rng.random() < 0.5 else np.concatenate((values, values))
        h5["columns"].create_dataset(name, data=cut)
    elif rng.random() < 0.2:
        h5["columns"].create_dataset(name, data=h5py.Empty(values.dtype))
    else:
        h5["columns"].create_dataset(name, shape=_pick(rng, ODD_SHAPES), dtype=values.dtype)


def change_storage(h5: Any, rng: np.random.Generator, other: Path) -> None:
    name = _column(h5, rng)
    values = h5["columns"][name][()]
    del h5["columns"][name]
    kind, group = rng.integers(5), h5["columns"]
    if kind == 0:
        outside = [(str(other), 0, values.nbytes)]
        group.create_dataset(name, shape=values.shape, dtype=values.dtype, external=outside)
    elif kind == 1:
        layout = h5py.VirtualLayout(values.shape, values.dtype)
        layout[...] = h5py.VirtualSource(str(other), f"columns/{name}", values.shape)
        group.create_virtual_dataset(name, layout)
    elif kind == 2:
        group.create_dataset(name, data=values, chunks=True, compression="gzip", shuffle=True)
    elif kind == 3:  # more than any memory, of which nothing is there
        group.create_dataset(name, shape=(2 ** int(rng.integers(30, 60)), *values.shape[1:]), dtype=values.dtype)
    else:
        group.create_dataset(name, data=values, chunks=True, maxshape=(None, *values.shape[1:]))


def change_link(h5: Any, rng: np.random.Generator, other: Path) -> None:
    where = _pick(rng, ("header", "columns", *(f"columns/{name}" for name in sorted(h5["columns"]))))
    targets = (h5py.SoftLink("/nowhere"), h5py.SoftLink(f"/{where}"), h5py.ExternalLink(str(other), where))
    del h5[where]
    kind = rng.integers(6)
    if kind < 3:
        h5[where] = targets[kind]
    elif kind == 3:
        h5.create_group(where)
    elif kind == 4:
        h5[where] = h5["/"]  # a circle
    elif kind == 5 and where != "header":
        h5[where] = np.dtype("int32")


def change_header(h5: Any, rng: np.random.Generator, _: Path) -> None:
    header = json.loads(h5["header"][()].tobytes())
    places = [(header, key) for key in header]
    places += [(header["provenance"], key) for key in (*header["provenance"], "new")]
    places += [(header["provenance"].get("config", {}), key) for key in ("root", "detector", "grid", "dataset", "x\ny")]
    places += [(header["provenance"].get("notes", {}), "a note")]
    inside, key = _pick(rng, places)
    if rng.random() < 0.2:
        inside.pop(key, None)
    else:
        inside[key] = _pick(rng, ODD_VALUES)
    text = json.dumps(header).encode()
    if rng.random() < 0.15:
        deep = b"[" * 200 + b"]" * 200, b"[" * 100_000, b"NaN", b"1e999", b'"\\ud800"', b"1" * 5000
        text = text[:-1] + b', "provenance": ' + _pick(rng, deep) + b"}"
    if rng.random() < 0.15:
        text = _pick(
            rng, (b"", b"{}", b"[]", b"null", b"\xff\xfe", text[:-5], b"7", text + b"x", text.decode().encode("utf-16"))
        )
    del h5["header"]
    kinds = ("uint8",) * 9 + ("int8",)
    h5.create_dataset("header", data=np.frombuffer(text, _pick(rng, kinds)))


def change_attributes(h5: Any, rng: np.random.Generator, _: Path) -> None:
    where = _pick(rng, (h5, h5["columns"], h5["columns"][_column(h5, rng)]))
    where.attrs["schema"] = _pick(rng, (7, "one", [1, 2, 3], np.nan, b"\xff", h5py.Empty("f4")))


def change_columns(h5: Any, rng: np.random.Generator, _: Path) -> None:
    if rng.random() < 0.5:
        del h5["columns"][_column(h5, rng)]
    else:
        h5["columns"].create_dataset(_pick(rng, ("truths", "more")), data=rng.normal(size=(5, 4)).astype("f4"))


def change_rows(h5: Any, rng: np.random.Generator, _: Path) -> None:
    """The same rows of all columns: none, one, or some of them several times."""
    rows = rng.integers(0, len(h5["columns/paths"]), _pick(rng, (0, 1, 3, 40)))
    for name in sorted(h5["columns"]):
        values = h5["columns"][name][()][rows]
        del h5["columns"][name]
        h5["columns"].create_dataset(name, data=values)


CHANGES = (change_rows, change_values, change_values, change_values, change_paths, change_type, change_shape,
           change_storage, change_link, change_header, change_header, change_attributes, change_columns)  # fmt: skip


def outcome(file: Path, root: Path) -> str:
    """ "done", or the one line that the file was refused with. AssertionError for anything else, as a traceback."""
    from precompute.base.boxfile import BoxCache
    from precompute.base.errors import UserError

    try:
        cache = BoxCache.open(file)
    except UserError as error:
        line = str(error)
        assert "\n" not in line, line
        assert line.startswith(f"{file}: "), line
        assert "make it again with" in line, line
        status, _, said = inspected(file, root)
        assert status == 1, said
        assert said.count("\n") == 1, said
        return line.removeprefix(f"{file}: ")
    status, _, said = inspected(file, root)
    assert status in (0, 1), said
    assert "Traceback" not in said, said
    for backend in ("eager", "fused"):
        assert views(cache, root, backend)
    return "done"


def inspected(file: Path, root: Path) -> tuple[int, str, str]:
    """Exit status, stdout and stderr of `precompute.inspect`, run here."""
    from precompute.base.program import main
    from precompute.inspect import program

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(program, [str(file), "--root", str(root), "--quarantine", "--json"])
        except SystemExit as ended:
            return int(ended.code or 0), out.getvalue(), err.getvalue()
        except BaseException:
            raise AssertionError(f"a traceback of inspect: {traceback.format_exc()}") from None
    raise AssertionError("inspect did not end the process")


def views(cache: Any, root: Path, backend: str) -> bool:
    """Makes one batch; True where that went well or was refused in one line."""
    import torch

    from augment import Making, Policy, Source, open_views
    from precompute.base.errors import UserError

    making = Making(device="cpu", backend=backend, workers=1, prefetch=1, say=lambda _: None)
    try:
        source = Source(cache, root, split=None)
        with open_views(source, policy=Policy(size=32), batch_size=4, making=making) as loader:
            batch = next(iter(loader))
            return all(bool(torch.isfinite(view).all()) for view in batch.views)
    except UserError as error:
        return len(str(error).splitlines()) == 1


def main(count: int) -> None:
    """Tries `count` seeds from the second argument on; prints how often what happened, and every seed that failed."""
    import tempfile

    from precompute.boxes import make_boxes
    from precompute.demo import make_demo

    folder = Path(tempfile.mkdtemp(prefix="boxes-by-hand-"))
    make_demo(folder / "demo", images=32, quiet=True)
    make_boxes("demo", root=str(folder / "demo"), out=str(folder / "good.h5"), say=lambda _: None)
    outcomes, failed = Counter[str](), []
    first = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    for seed in range(first, first + count):
        file = folder / "bad.h5"
        file.write_bytes(malformed(folder / "good.h5", seed, folder / "good.h5"))
        print(f"\r{seed}", end="", file=sys.stderr, flush=True)  # the seed of a crash
        try:
            found = outcome(file, folder / "demo")
        except Exception:
            failed.append(seed)
            print(f"seed {seed}: {traceback.format_exc()}")
        else:
            outcomes[" ".join(word for word in found.split() if not any(c.isdigit() for c in word))[:70]] += 1
    for found, number in outcomes.most_common():
        print(f"{number:6} {found}")
    print(json.dumps({"files": count, "done": outcomes["done"], "failed": failed}))


if __name__ == "__main__":
    sys.path.insert(0, os.getcwd())
    main(int(sys.argv[1]))
