"""The figure of a finished run: held-out views with their C maps, and the AUC of every map."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from augment.views.colour import denormalise
from precompute.base.files import replacing

SHOWN = 6  # views in the figure
_CONTROLS = ("prior", "another image", "shuffled")  # words in the names of maps that are controls


class SeenView(NamedTuple):
    """A held-out view [3, S, S], its C map [H, W], and its pasted rectangle x0, y0, x1, y1 in pixels."""

    view: Tensor
    c_map: Tensor
    rectangle: list[int]


def as_pictures(views: Tensor) -> np.ndarray:
    """Normalised views [N, 3, S, S] as uint8 RGB [N, S, S, 3]."""
    return denormalise(views.float().cpu().numpy())


def draw_run(localisation: dict[str, Any], views: list[SeenView], path: Path) -> None:
    """Writes the PNG. ImportError where matplotlib is not installed."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure = plt.figure(figsize=(2 * SHOWN, 8), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=(5, 3), squeeze=False)[:, 0]
    for i, view in enumerate(views):
        _draw_view(above, i, view)
    _draw_bars(below, {k: v["auc"] for k, v in localisation.items() if isinstance(v, dict) and "auc" in v})
    try:
        with replacing(path) as temporary:
            figure.savefig(temporary, dpi=110, format="png", metadata={"Software": None})
    finally:
        plt.close(figure)


def _draw_view(figure: Any, column: int, seen: SeenView) -> None:
    """The view and, below it, the view under its C map; both with the rectangle."""
    from matplotlib.patches import Rectangle
    from torch.nn.functional import interpolate

    (picture,) = as_pictures(seen.view[None])
    cells = interpolate(seen.c_map[None, None].float(), size=picture.shape[:2], mode="bilinear")[0, 0]
    x0, y0, x1, y1 = seen.rectangle
    for row, title in ((0, "held-out view"), (1, "its C map")):
        axes = figure.add_subplot(2, SHOWN, row * SHOWN + column + 1)
        axes.imshow(picture)
        if row == 1:
            axes.imshow(cells.numpy(), cmap="inferno", alpha=0.6, vmin=0, vmax=1)
        axes.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor="lime", linewidth=1.5))
        axes.set_axis_off()
        if column == 0:
            axes.set_title(title, loc="left", fontsize=9)


def _draw_bars(figure: Any, aucs: dict[str, float]) -> None:
    """The maps' AUCs side by side, controls in grey."""
    from matplotlib.patches import Patch

    axes = figure.add_subplot()
    colours = ["tab:gray" if any(word in name for word in _CONTROLS) else "tab:blue" for name in aucs]
    axes.barh(list(aucs)[::-1], list(aucs.values())[::-1], color=colours[::-1])
    axes.axvline(0.5, color="black", linewidth=0.8)
    axes.set_xlim(0.4, 1)
    legend = [Patch(color="tab:blue", label="what was learned"), Patch(color="tab:gray", label="its controls")]
    axes.legend(handles=legend, loc="lower right", fontsize=8)
    axes.set_xlabel("AUC of a cell's score against the box, mean over held-out images (chance 0.5)")
