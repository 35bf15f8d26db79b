"""Opacities (alpha) of patches from saliency maps, for the policy `copy-paste` (DiLo, Zhao et al. 2021).

A map is a grey image of the whole, oriented picture, of any size; white is opaque. It is cut like the patch and resized
to the patch's rectangle. So alpha is a pure function of plan and maps, the same for every backend.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from augment.stream.imageset import ImageSet
from augment.views.plan import Plan
from precompute.base import pixels
from precompute.base.errors import UserError
from precompute.base.maps import check_maps, find_map, fit_map, map_names


class MapFolder:
    """A folder of maps in the layout of `precompute.boxes --source maps`: PATH-OF-THE-PICTURE.png below it."""

    def __init__(self, folder: Path | str, pictures: ImageSet, rows: np.ndarray) -> None:
        """`rows`: the images that may be sources. Raises UserError where the folder or a map of theirs is missing."""
        self.folder, self._images = Path(folder), pictures
        if not self.folder.is_dir():
            raise UserError(f"maps={folder}: no such folder; it should hold a grey PNG a picture")
        check_maps(str(folder), map(pictures.path, rows.tolist()))
        missing = [path for path in map(pictures.path, rows.tolist()) if find_map(str(folder), path) is None]
        if missing:
            first = map_names(str(folder), missing[0])[0]
            raise UserError(
                f"maps={folder}: no map for {len(missing)} of {len(rows)} images; {first} would be the first"
            )

    def __call__(self, row: int) -> np.ndarray:
        """uint8 [h, w]. Raises UserError for a file that is missing, no picture, or a map of another picture."""
        path = self._images.path(row)
        file = Path(find_map(str(self.folder), path) or map_names(str(self.folder), path)[0])
        try:
            values = pixels.decode(file.read_bytes())[..., 0]  # as precompute.boxes reads it, 16 bits included
        except (OSError, pixels.BadImage) as error:
            raise UserError(f"{file}: cannot be read as a map: {error}") from error
        width, height = int(self._images.pool.widths[row]), int(self._images.pool.heights[row])
        if (fitted := fit_map(values, width, height, 1)) is None:  # of the stored picture, perhaps
            orientation = pixels.probe(self._images.read(row)).orientation
            fitted = fit_map(values, width, height, orientation)
        if fitted is None:
            size = f"{values.shape[1]}x{values.shape[0]}"
            raise UserError(f"{file}: a map of {size} pixels for a picture of {width}x{height}")
        return fitted


def with_alpha(plan: Plan, maps: Callable[[int], np.ndarray], sides: np.ndarray) -> Plan:
    """The plan with `alpha` uint8 [B, V, S, S]: 0 outside of the rectangles, before the flip.

    `maps(row)` gives an image's map; `sides` [B, 2] are the sources' width and height in pixels.
    """
    from PIL import Image

    alpha = np.zeros((*plan.rects.shape[:2], plan.size, plan.size), np.uint8)
    for i, row in enumerate(plan.sources.tolist()):
        values = maps(row)
        most = np.array(values.shape[1::-1])
        for v in range(plan.views):
            x0, y0, x1, y1 = plan.rects[i, v].tolist()
            if x1 > x0 and y1 > y0:
                roi = plan.patch[i, v].reshape(2, 2) * (most / sides[i])
                (left, top), (right, bottom) = np.floor(roi[0]).astype(int), np.ceil(roi[1]).astype(int)
                part = Image.fromarray(values[top:bottom, left:right])  # cut first: `resize` reads beyond its box
                box = np.minimum(roi - (left, top), part.size).reshape(-1).tolist()
                small = part.resize((x1 - x0, y1 - y0), Image.Resampling.BILINEAR, box=tuple(box))
                alpha[i, v, y0:y1, x0:x1] = np.array(small)
    return replace(plan, alpha=alpha)
