"""The folder of `--keep-maps`: a detector's maps, which `--source maps` searches again without the detector."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from precompute.base.boxfile import BoxCache
from precompute.base.errors import UserError
from precompute.base.files import replacing, sweep
from precompute.base.maps import map_names

_ABOUT = "maps.json"


class KeptMaps:
    """Maps uint8 [grid, grid] as they are searched, each in `PATH-OF-THE-PICTURE.png`, grey, without loss.

    `maps.json` in the folder holds `about`: everything that the maps depend on. A folder of other maps is never
    written into.
    """

    def __init__(self, folder: str, about: dict[str, Any]) -> None:
        self.folder = Path(folder)
        self._about = about

    def prepare(self, pictures: Path) -> None:
        """Makes the folder. Raises UserError where it holds anything but maps of the same kind, or the pictures."""
        own, root = self.folder.resolve(), pictures.resolve()
        if own == root or root in own.parents:
            raise UserError(f"--keep-maps {self.folder}: lies among the pictures of {pictures}; name another folder")
        stamp = self.folder / _ABOUT
        text = json.dumps(self._about, indent=1) + "\n"
        if stamp.is_file():
            if stamp.read_text(errors="replace") != text:
                raise UserError(f"--keep-maps {self.folder}: holds other maps; name a new folder")
        elif self.folder.exists() and (not self.folder.is_dir() or any(self.folder.iterdir())):
            raise UserError(f"--keep-maps {self.folder}: is neither empty nor of kept maps; name a new folder")
        else:
            with replacing(stamp) as temporary:
                temporary.write_text(text)

    def write(self, path: str, grid: np.ndarray) -> None:
        """Writes the map of the picture `path`."""
        with replacing(self._name(path)) as temporary:
            Image.fromarray(grid).save(temporary, format="PNG")

    def complete(self, rows: BoxCache) -> bool:
        """Whether every picture of `rows` whose box is not annotated has its map here."""
        return all(self._name(rows.path(i)).is_file() for i in (rows.sources != 0).nonzero()[0].tolist())

    def sweep(self) -> None:
        """Removes what killed runs left half written."""
        for leftover in self.folder.rglob(".*.tmp"):
            sweep(leftover.with_name(leftover.name[1:].rsplit(".", 2)[0]))

    def _name(self, path: str) -> Path:
        return Path(map_names(str(self.folder), path)[0])
