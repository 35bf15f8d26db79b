"""Folders of saliency maps: a grey PNG for each picture, named after it."""

import os


def map_names(folder: str, path: str) -> tuple[str, str]:
    """The names that the map of the picture `path` may have: PATH.png, or the path with .png for its ending."""
    return os.path.join(folder, f"{path}.png"), os.path.join(folder, f"{os.path.splitext(path)[0]}.png")


def find_map(folder: str, path: str) -> str | None:
    """The map of the picture `path`; None where there is none."""
    return next((name for name in map_names(folder, path) if os.path.exists(name)), None)
