"""Folders of saliency maps: a grey PNG for each picture, named after it."""

import os
from collections.abc import Iterable

import numpy as np

from precompute.base.boxmath import alike
from precompute.base.errors import UserError
from precompute.base.pixels import turn


def map_names(folder: str, path: str) -> tuple[str, str]:
    """The names that the map of the picture `path` may have: PATH.png, or the path with .png for its ending."""
    return os.path.join(folder, f"{path}.png"), os.path.join(folder, f"{os.path.splitext(path)[0]}.png")


def find_map(folder: str, path: str) -> str | None:
    """The map of the picture `path`; None where there is none."""
    return next((name for name in map_names(folder, path) if os.path.exists(name)), None)


def check_maps(folder: str, paths: Iterable[str]) -> None:
    """UserError where two pictures would take one file as their map, such as a.jpg and a.png the file a.png."""
    owner: dict[str, str] = {}
    for path in paths:
        if (name := find_map(folder, path)) is not None and (other := owner.setdefault(name, path)) != path:
            raise UserError(
                f"{name} would be the map of both {other} and {path}: name their maps {other}.png and {path}.png"
            )


def fit_map(values: np.ndarray, width: int, height: int, orientation: int) -> np.ndarray | None:
    """The map [h, w] of a picture of width × height pixels as seen; None where it is that of another picture.

    A square map is one of any picture squashed. One of the stored picture is turned by the EXIF `orientation` (1-8).
    """
    high, wide = values.shape[:2]
    if high == wide or alike(wide, high, width, height):
        return values
    return turn(values, orientation) if orientation > 4 and alike(high, wide, width, height) else None
