"""The picture of a comparison."""

from pathlib import Path
from typing import Any

from precompute.base.files import replacing


def plot(result: dict[str, Any], path: Path) -> None:
    """compare.png: every seed a point, every arm a colour, one panel per measure."""
    try:
        import matplotlib
    except ImportError:
        print("plot: left out, matplotlib is not installed (pip install 'saliencyswap[plots]')")
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    shown = {n: a for n, a in result["measures"].items() if not n.startswith(("centre prior", "box area share"))}
    if not shown:
        return
    heights = [0.8 + 0.25 * len(arms) for arms in shown.values()]
    figure, axes = plt.subplots(
        len(shown), 1, figsize=(9, sum(heights)), height_ratios=heights, layout="constrained", squeeze=False
    )
    for axis, (name, arms) in zip(axes[:, 0], shown.items(), strict=True):
        for place, (arm, f) in enumerate(arms.items()):
            colour = f"C{result['arms'].index(arm) % 10}"
            axis.scatter(f["values"], [place] * len(f["values"]), alpha=0.6, color=colour)
            axis.plot([f["mean"]], [place], "k|", markersize=14)
        axis.set_yticks(range(len(arms)), list(arms), fontsize=8)
        axis.set_ylim(len(arms) - 0.5, -0.5)
        axis.set_title(name, fontsize=9, loc="left")
    axes[-1, 0].set_xlabel("a point for every seed, a bar for the mean", fontsize=8)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png", metadata={"Software": None})
    plt.close(figure)
    print(f"plot: {path}")
