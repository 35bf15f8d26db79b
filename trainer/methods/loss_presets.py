"""Named ways to compute the alignment loss (`--loss`), and the settings of the losses that match. Light to import."""

from dataclasses import dataclass


@dataclass(frozen=True)
class LossPreset:
    """How Eqs 3-5 are computed. The defaults depart from the paper where its letter fails (trainer/README.md)."""

    scale: str  # "raw": dot product; "sqrt": dot product / sqrt(d); "cosine": cosine / temperature
    temperature: float  # of "cosine" only
    # Over the cells of a map: the paper's norm is a "sum"; "mean" is weaker by the number of cells; "scaled" is 36
    # times the mean, so that a weight chosen on 6x6 cells holds beside losses that do not grow with the cells.
    reduction: str
    weight: float  # of the alignment loss in Eq. 7
    # δ of Eq. 5: "cover" is the exact share of each cell, "bilinear" the letter (off by up to 0.7 in a cell)
    mask: str


LOSS_PRESETS = {
    "paper": LossPreset("raw", 1.0, "sum", 1.0, "bilinear"),
    "stable": LossPreset("cosine", 0.1, "sum", 1.0, "cover"),
}


REDUCTIONS = ("sum", "mean", "scaled")
CELLS = 36  # of the maps on which the weights were chosen: a "scaled" sum is over so many
CONTRASTS = ("infonce", "cosine")


@dataclass(frozen=True)
class MatchLoss:
    """How views and their cells are matched (`trainer.methods.matching`)."""

    contrast: str = "infonce"  # of whole views: in-batch InfoNCE, or BYOL's cosine
    weight: float = 1.0  # of the dense loss
    temperature: float = 0.2  # of both InfoNCE losses: MoCo v3's
