"""An evaluation's results in words: lines and tables for the terminal and sentences for the model card."""

from collections.abc import Mapping
from math import isfinite
from typing import Any

NOTHING_TO_FIND = "no held-out picture has cells of both its box and its background (whole-picture boxes, or one cell)"
MEASURES = ("auc", "pointing", "energy")  # of a score map
_MAPS = ("probe", "shuffled probe", "energy", "centre prior")  # of `protocols.localise`
_FEW = 30  # images, from which on a mean is worth its standard error
# Figures that need the projection heads are not available from a weights file, which holds the encoder alone.
_NOT_HERE = """\
  The probe is a direct head per cell; the shuffled one was fitted on other images' boxes.
  Rolled keys need a run's heads: trainer.run. Twins trained with shuffled masks or a direct head: trainer.compare."""


def shown(value: float) -> str:
    """A figure with three digits, or a dash where there are no images to take it of."""
    return f"{value:.3f}" if isfinite(value) else "-"


def localisation_table(result: Mapping[str, Any]) -> str:
    """The figures of every map of `protocols.localise`, on whole images and on crops."""
    if result["probe"]["images"] == 0:
        return f"localise: left out, {NOTHING_TO_FIND}"
    note = ""
    if (cells := result["cells"]) < 4:
        few = "few to localise on: the figures mean little. A larger --size gives more"
        note = f"\n  note: maps of {cells}×{cells} cells are {few}"
    whole, crops = _table(result), _table(result["crops"])
    return f"localise, whole images: {whole}{note}\nlocalise, off-centre crops: {crops}\n{_NOT_HERE}"


def _table(result: Mapping[str, Any]) -> str:
    """The maps' figures, a map a line."""
    lines = [f"box area share {result['area_share']:.3f}, {result['off_centre_images']} images off-centre"]
    lines.append(f"  {'map':14s} {'AUC':>6s} {'point':>6s} {'energy':>6s}  off-centre AUC  MaxBoxAcc@0.3 @0.5 @0.7")
    for name in _MAPS:
        figures = result[name]
        values = " ".join(f"{shown(figures[measure]):>6s}" for measure in MEASURES)
        boxes = "  ".join(f"{figures['max_box_accuracy'][iou]:.3f}" for iou in ("0.3", "0.5", "0.7"))
        lines.append(f"  {name:14s} {values}  {shown(figures['off_centre']['auc']):>14s}  {boxes}")
    return "\n".join(lines)


def area_shares(localisation: Mapping[str, Any]) -> str:
    """The boxes' share of the area in whole images, crops and views: the chance level of pointing and energy."""
    images = localisation["images"]
    shares = {"whole images": images["area_share"], "off-centre crops": images["crops"]["area_share"]}
    if "mask_share" in localisation:
        shares["views"] = localisation["mask_share"]
    return ", ".join(f"{where} {share:.3f}" for where, share in shares.items())


def matching_lines(result: Mapping[str, Any]) -> list[str]:
    """How often a cell finds its point in another view, beside guesses (`trainer.evaluation.matching`)."""
    share = lambda name: shown(result[name]["share"])  # noqa: E731
    others = ("untrained", "wrong cells", "random cell", "random cell of the object", "same place")
    matched = result["matched"]
    return [
        f"matched cells ({result['pairs']} held-out pairs of views, {result['cells']:.1f} cells a pair): "
        f"{shown(matched['share'])} ± {shown(matched['standard_error'])} (standard error)",
        f"  beside: {', '.join(f'{name} {share(name)}' for name in others)}",
        f"  (who knows both rectangles, and no flip: {share('same place in rectangle')})",
    ]


def own_keys_sentence(own: Mapping[str, Any]) -> str:
    """Whether C is higher with a pair's own keys than with another image's. `own`: share, standard_error, images."""
    return (
        f"own keys beat another image's in {own['share']:.3f} ± {own['standard_error']:.3f} of {own['images']} pairs "
        "(mean C over the object; chance 0.5)"
    )


def keys_sentence(rolled_keys: Mapping[str, float], what: str = "C") -> str:
    """How the AUC of `what` changes with another image's keys, and what that says of correspondence between views.

    `rolled_keys`: mean `change`, its `standard_error`, number of `images`.
    """
    change, error = rolled_keys["change"], rolled_keys["standard_error"]
    sentence = f"another image's keys change {what}'s AUC by {change:+.3f} ± {error:.3f} (standard error)"
    if rolled_keys.get("images", _FEW) < _FEW:
        return f"{sentence}: {rolled_keys['images']} images are too few to show a correspondence of views"
    return f"{sentence}: {'some' if change < -2 * error else 'no'} correspondence of views shown"
