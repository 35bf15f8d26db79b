"""What a box file must be to be read: nothing in it may lead out of it or out of the folder of the pictures.

Everything is checked once, when the file is opened, so that decoders and compiled code may rely on it.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import h5py
import numpy as np

LARGEST_SIDE = 1 << 20  # pixels
_NAMES = ("class_names", "split_names", "source_names")
_HEADER = {"dataset": str, "provenance": dict, "quarantine": list, **dict.fromkeys(_NAMES, list)}


class BadBoxFile(ValueError):
    """The reason why a file is not one that precompute.boxes writes."""


def read_dataset(group: Any, name: str) -> np.ndarray:
    """The values of a dataset that lies in this very file, plain. Raises BadBoxFile for links, filters, other files."""
    link = group.get(name, getlink=True)
    if not isinstance(link, h5py.HardLink):
        raise BadBoxFile(f"{name} is missing, or a link")
    data = group[name]
    if not isinstance(data, h5py.Dataset):
        raise BadBoxFile(f"{name} is no dataset")
    plist = data.id.get_create_plist()
    if data.external or data.is_virtual or plist.get_nfilters() or plist.get_layout() != h5py.h5d.CONTIGUOUS:
        raise BadBoxFile(f"the values of {name} are not plainly in the file")
    if data.dtype.hasobject or data.dtype.kind == "O" or data.id.get_storage_size() != data.nbytes:
        raise BadBoxFile(f"{name} is declared with {data.nbytes} bytes and has {data.id.get_storage_size()}")
    return data[()]


def check_header(header: Any) -> None:
    """Raises BadBoxFile unless the JSON document has exactly the names and types that BoxCache takes."""
    if not isinstance(header, dict) or header.keys() != _HEADER.keys():
        raise BadBoxFile("its header has other names than it must have")
    for name, kind in _HEADER.items():
        if not isinstance(header[name], kind):
            raise BadBoxFile(f"{name} in its header is no {kind.__name__}")
    texts = [text for name in _NAMES for text in header[name]]
    pairs = header["quarantine"]
    if not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
        raise BadBoxFile("quarantine in its header is no list of pairs")
    if not all(isinstance(text, str) for text in (*texts, *(text for pair in pairs for text in pair))):
        raise BadBoxFile("a name in its header is no text")
    if not header["split_names"] or len(header["source_names"]) < 2:
        raise BadBoxFile("its header names no splits or no sources of boxes")
    for name in ("config", "notes", "examples", "versions"):
        if not isinstance(header["provenance"].get(name, {}), dict):
            raise BadBoxFile(f"{name} in its header is no object")
    if not all(isinstance(count, int) for count in header["provenance"].get("notes", {}).values()):
        raise BadBoxFile("a note in its header is no number")


def check_values(header: Mapping[str, Any], columns: Mapping[str, np.ndarray]) -> None:
    """Raises BadBoxFile that names the first picture with a value out of its range."""
    for what, bad in _faults(header, columns):
        if bad.any():
            row = int(bad.argmax())
            path = columns["paths"][row].decode(errors="backslashreplace")
            raise BadBoxFile(f"{what} of picture {row} ({path!r}) is not one it can have; {int(bad.sum())} in all")


def _faults(header: Mapping[str, Any], columns: Mapping[str, np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
    """What is wrong, and bool [N]: where."""
    yield "the path", _bad_paths(columns["paths"])
    for name in ("widths", "heights"):
        yield name[:-1], (columns[name] < 1) | (columns[name] > LARGEST_SIDE)
    yield "the banner", columns["banners"] < 0
    yield "the file's size", columns["file_sizes"] < 1
    yield "the label", (columns["labels"] < -1) | (columns["labels"] >= len(header["class_names"]))
    yield "the split", columns["splits"] >= len(header["split_names"])
    yield "the source of the box", columns["sources"] >= len(header["source_names"])
    yield "the score", ~((columns["scores"] >= 0) & (columns["scores"] <= 1.0001))
    yield "the box", ~_inside(columns["boxes"])
    if "truths" in columns:
        yield "the annotated box", ~(_inside(columns["truths"]) | np.isnan(columns["truths"]).all(1))


def _inside(boxes: np.ndarray) -> np.ndarray:
    """bool [N]: x0, y0, x1, y1 with 0 <= x0 < x1 <= 1, and y alike; NaN is not inside."""
    x0, y0, x1, y1 = boxes.T
    return (x0 >= 0) & (y0 >= 0) & (x0 < x1) & (y0 < y1) & (x1 <= 1) & (y1 <= 1)


def _bad_paths(paths: np.ndarray) -> np.ndarray:
    """bool [N]: empty, absolute, with a NUL, not UTF-8, or with a part `..` that leads out of the folder."""
    letters = np.ascontiguousarray(paths).view(np.uint8).reshape(len(paths), paths.dtype.itemsize)
    bad = (letters[:, 0] == 0) | (letters[:, 0] == ord("/"))
    bad |= ((letters[:, 1:] != 0) & (letters[:, :-1] == 0)).any(1)
    dots = ((letters[:, 1:] == ord(".")) & (letters[:, :-1] == ord("."))).any(1)
    for row in np.flatnonzero(dots | (letters > 127).any(1)):
        try:
            bad[row] |= ".." in paths[row].decode().split("/")
        except UnicodeDecodeError:
            bad[row] = True
    return bad
