"""What every number and name of a box file must be. A box file may come from somebody else, with a right checksum.

It is checked once, when a `BoxCache` is made: C++, Triton and DALI address memory by these numbers, and files are
opened by these paths. The checks are vectorised over blocks of rows that fit into the processor's cache.
"""

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from precompute.base.errors import UserError
from precompute.base.files import leaves_root
from precompute.base.markup import one_line
from precompute.base.members import LARGEST, RATIO
from precompute.base.pixels import MAX_PIXELS

if TYPE_CHECKING:
    from precompute.base.boxfile import BoxCache

COLUMNS: dict[str, tuple[str, tuple[int, ...]]] = {  # dtype and the shape of one row; BoxCache says what they mean
    "paths": ("S", ()),
    "file_sizes": ("int64", ()),
    "hashes": ("uint8", (16,)),
    "widths": ("int32", ()),
    "heights": ("int32", ()),
    "banners": ("int16", ()),
    "labels": ("int32", ()),
    "splits": ("uint8", ()),
    "boxes": ("float32", (4,)),
    "sources": ("uint8", ()),
    "scores": ("float32", ()),
    "plain": ("bool", ()),
}
FURTHER = {  # columns that a file may lack
    "truths": ("float32", (4,)),
    "offsets": ("int64", ()),
    "packed": ("int64", ()),
}
NAMES = ("class_names", "split_names", "source_names")
_NOUNS = {
    "file_sizes": "size in bytes", "widths": "width", "heights": "height", "banners": "banner", "labels": "label",
    "splits": "split", "boxes": "box", "sources": "source", "scores": "score", "plain": "mark for plain files",
    "truths": "annotated box", "offsets": "place in its archive", "packed": "packed size",
}  # fmt: skip
_BLOCK = 1 << 13  # rows
_DEEPEST = 16  # lists and objects within each other in the provenance; ours has four


class BadBoxes(UserError, ValueError):
    """Rows or names that no box file may have. `for_user` is the message of a program; the text is for programmers."""

    def __init__(self, where: str, fault: str, for_user: str) -> None:
        super().__init__(f"{where}: {fault}")
        self.for_user = for_user


class _Rule(NamedTuple):
    """Which rows of a column are good, as bool [k] of a block of rows, and what is said of the others."""

    column: str
    good: Any  # of (cache, slice of rows)
    fault: str  # with {} for the value


def check(cache: "BoxCache") -> None:
    """Raises BadBoxes, or ValueError for a wrong dtype or shape, at the first thing that cannot be in a box file."""
    check_names(cache)
    if (cache.offsets is None) != (cache.packed is None):
        raise ValueError("offsets and packed belong together")
    for name, (dtype, row) in (COLUMNS | FURTHER).items():
        if name in COLUMNS or getattr(cache, name) is not None:
            column = getattr(cache, name)
            check_kind(name, column.dtype, column.shape, dtype, (len(cache.paths), *row))
    rules = _rules(cache)
    for start in range(0, len(cache), _BLOCK):
        rows = slice(start, start + _BLOCK)
        _check_paths(cache.paths[rows], start)
        for rule in rules:
            if not rule.good(cache, rows).all():
                _refuse(cache, rule)


def check_kind(name: str, dtype: Any, shape: Any, wanted: str, wanted_shape: tuple[int, ...]) -> None:
    """ValueError where a column has another dtype or shape than `wanted`."""
    right = dtype.kind == "S" if wanted == "S" else dtype == wanted
    if not right or shape != wanted_shape:
        raise ValueError(f"column {name}: {dtype} {shape}, expected {wanted} {wanted_shape}")


def _rules(cache: "BoxCache") -> list[_Rule]:
    def between(name: str, low: float, high: float) -> _Rule:
        def good(cache: Any, rows: slice) -> np.ndarray:
            column = getattr(cache, name)[rows]
            column = column.view(np.uint8) if column.dtype == bool else column  # a bool in a file may be any byte
            return (column >= low) & (column <= high)

        return _Rule(name, good, f"{{}}, not from {low} to {high}")

    def inside(name: str) -> Any:
        def good(cache: Any, rows: slice) -> np.ndarray:
            x0, y0, x1, y1 = getattr(cache, name)[rows].T
            return (x0 >= 0) & (y0 >= 0) & (x0 < x1) & (y0 < y1) & (x1 <= 1) & (y1 <= 1)

        return good

    def small(cache: Any, rows: slice) -> np.ndarray:
        height = cache.heights[rows].astype(np.int64) + cache.banners[rows]
        return cache.widths[rows] * height <= MAX_PIXELS

    rules = [
        between("file_sizes", 1, 2**62),
        between("widths", 1, MAX_PIXELS),
        between("heights", 1, MAX_PIXELS),
        between("banners", 0, 2**15 - 1),
        _Rule("heights", small, f"{{}}, and the picture of more than {MAX_PIXELS} pixels"),
        between("labels", -1, len(cache.class_names) - 1),
        between("splits", 0, len(cache.split_names) - 1),
        _Rule("boxes", inside("boxes"), "{}, not x0 < x1 and y0 < y1 in [0, 1]"),
        between("sources", 0, len(cache.source_names) - 1),
        between("scores", 0, 1),
        between("plain", 0, 1),
    ]
    if cache.truths is not None:
        box = inside("truths")

        def box_or_none(cache: Any, rows: slice) -> np.ndarray:
            return box(cache, rows) | np.isnan(cache.truths[rows]).all(1)

        rules.append(_Rule("truths", box_or_none, "{}, neither NaN nor x0 < x1 and y0 < y1 in [0, 1]"))
    if cache.offsets is not None:

        def readable(cache: Any, rows: slice) -> np.ndarray:
            return (cache.offsets[rows] < 0) | (cache.file_sizes[rows] <= LARGEST)

        def possible(cache: Any, rows: slice) -> np.ndarray:
            packed = cache.packed[rows]
            return (packed == 0) | ((cache.offsets[rows] >= 0) & (cache.file_sizes[rows] <= RATIO * packed))

        rules += [
            between("offsets", -1, 2**62),
            between("packed", 0, LARGEST),
            _Rule("file_sizes", readable, f"{{}}, within an archive, and more than {LARGEST}"),
            _Rule("packed", possible, f"{{}}, of no archive or for more than {RATIO} times as many bytes"),
        ]
    return rules


def _refuse(cache: "BoxCache", rule: _Rule) -> None:
    bad = np.flatnonzero(~rule.good(cache, slice(None)))
    column, fault = getattr(cache, rule.column), rule.fault
    if column.dtype.kind == "f" and len(odd := bad[~np.isfinite(column[bad].reshape(len(bad), -1)).all(1)]):
        bad, fault = odd, "not of finite numbers"
    row = bad[0]
    value = column.view(np.uint8)[row] if column.dtype == bool else column[row]
    fault = fault.format(" ".join(f"{x:g}" for x in value) if np.ndim(value) else value)
    path = one_line(bytes(cache.paths[row]).decode(errors="backslashreplace"))
    for_user = f"the {_NOUNS[rule.column]} of {path} is {fault} ({len(bad)} in all)"
    raise BadBoxes(f"column {rule.column}", f"{fault} (row {row}, {len(bad)} in all)", for_user)


def _check_paths(paths: np.ndarray, first: int) -> None:
    """Paths S [k], the first of them row `first`: UTF-8, not empty, without NUL, below their folder."""
    letters = np.ascontiguousarray(paths).view(np.uint8)
    length, text = paths.itemsize, letters.tobytes()
    starts, none, dot = letters[::length], letters == 0, letters == ord(".")
    # A NUL before another letter is the end of a row and the start of the next, or lies within a path.
    within = np.count_nonzero(none[:-1] > none[1:]) - np.count_nonzero(
        none[length - 1 : -1 : length] > none[length::length]
    )
    odd = within or (starts == 0).any() or (starts == ord("/")).any() or (dot[:-1] & dot[1:]).any()
    if odd or b"\\" in text or b":" in text or not text.isascii():  # rarely: then row by row
        for row, path in enumerate(paths.tolist(), first):
            fault = _fault_of_path(path)
            if fault is not None:
                shown = one_line(path.decode(errors="backslashreplace"))
                raise BadBoxes("column paths", f"{fault}: {shown!r} (row {row})", f"the path {shown!r} {fault}")


def _fault_of_path(path: bytes) -> str | None:
    try:
        text = path.decode()
    except UnicodeDecodeError:
        return "is not UTF-8"
    if not text or "\0" in text:
        return "is no file's name"
    return "leaves the folder of the pictures" if leaves_root(text) else None


def check_names(cache: "BoxCache") -> None:
    """Raises BadBoxes for names, left-out pictures or a provenance that are not what `BoxCache` says."""
    if not _is_name(cache.dataset) or leaves_root(cache.dataset) or re.search(r"[/\\]", cache.dataset):
        _bad("dataset", cache.dataset, "a name of one line without slashes")
    for name in NAMES:
        names = getattr(cache, name)
        if not isinstance(names, tuple) or not all(isinstance(each, str) for each in names):
            _bad(name, names, "a list of texts")
        if name != "class_names" and (len(set(names)) < len(names) or not all(map(_is_name, names))):
            _bad(name, names, "different names of one line each")
    if not all(isinstance(text, str) for bad in cache.quarantine for text in (bad.path, bad.reason)):
        _bad("quarantine", cache.quarantine, "pairs of a path and a reason")
    _check_provenance(cache.provenance)


def _check_provenance(about: Any) -> None:
    """The entries that this project reads again have their types, and nothing is nested too deeply."""
    if not isinstance(about, Mapping) or any(depth > _DEEPEST for depth in _depths(about)):
        _bad("provenance", about, f"an object, no deeper than {_DEEPEST} levels")
    config, notes = about.get("config", {}), about.get("notes", {})
    if not isinstance(notes, dict) or not all(isinstance(count, int) for count in notes.values()):
        _bad("provenance.notes", notes, "an object of whole numbers")
    examples = about.get("examples", {})
    if not isinstance(examples, dict) or not all(isinstance(path, str) for path in examples.values()):
        _bad("provenance.examples", examples, "an object of paths")
    if not isinstance(config, dict):
        _bad("provenance.config", config, "an object")
    detector = config.get("detector", {})
    if not isinstance(detector, dict) or not isinstance(detector.get("detector", ""), str):
        _bad("provenance.config.detector", detector, "an object whose detector is a name")
    if not isinstance(config.get("root", ""), str) or "\0" in config.get("root", ""):
        _bad("provenance.config.root", config["root"], "the name of a folder")
    grid = config.get("grid", 64)
    if not isinstance(grid, int) or not 2 <= grid <= 1024:
        _bad("provenance.config.grid", grid, "from 2 to 1024")


def _depths(value: Any, depth: int = 1) -> Iterator[int]:
    """The depth of every list and object in a JSON value, at most one beyond the limit."""
    if isinstance(value, Mapping | list | tuple):
        yield depth
        if depth <= _DEEPEST:
            for inner in value.values() if isinstance(value, Mapping) else value:
                yield from _depths(inner, depth + 1)


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= 255 and value.isprintable()


def _bad(name: str, value: Any, valid: str) -> None:
    fault = f"{one_line(repr(value))} is not {valid}"
    raise BadBoxes(name, fault, f"{name}: {fault}")
