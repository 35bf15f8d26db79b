"""The figure of a finished run: held-out views and their C maps, with the AUC of every map."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from augment.views.colour import denormalise
from precompute.base.sheet import GREEN, Tile, contact_sheet, save

SHOWN = 6  # views in the figure


class SeenView(NamedTuple):
    """A held-out view [3, S, S], its C map [H, W], and its pasted rectangle x0, y0, x1, y1 in pixels."""

    view: Tensor
    c_map: Tensor
    rectangle: list[int]


def as_pictures(views: Tensor) -> np.ndarray:
    """Normalised views [N, 3, S, S] as uint8 RGB [N, S, S, 3]."""
    return denormalise(views.float().cpu().numpy())


def draw_run(localisation: dict[str, Any], views: list[SeenView], path: Path) -> None:
    """Writes the PNG: views above, the same views under their C maps below, the pasted rectangles green.

    The title has the AUC of the C maps and of their controls against the rectangles.
    """
    rows: list[list[Tile]] = [[], []]
    for seen in views:
        (picture,) = as_pictures(seen.view[None])
        frame = [([edge / len(picture) for edge in seen.rectangle], GREEN)]
        rows[0].append(Tile(picture, "held-out view", frame))
        rows[1].append(Tile(picture, "its C map", frame, heat=seen.c_map.float().numpy()))
    aucs = {k.removeprefix("views: "): v["auc"] for k, v in localisation.items() if k.startswith("views: ")}
    save(contact_sheet(rows, title="AUC: " + ", ".join(f"{k} {auc:.3f}" for k, auc in aucs.items())), path)
