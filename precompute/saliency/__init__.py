"""Saliency detectors behind one registry: batches of small pictures in, maps out. `DETECTORS` is the registry."""

import importlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from precompute.base.errors import UsageError, UserError

if TYPE_CHECKING:
    import torch


class Detector(Protocol):
    """Pictures are squashed to `side` × `side` pixels (antialiased) before they get here.

    A call takes uint8 [B, side, side, 3] RGB on the detector's device and gives float32 [B, g, g], larger = more
    salient, of any range. A map must not depend on the other pictures of its batch.
    """

    side: int
    batch: int
    gamma: float  # the tempered form's γ that suits its maps

    def __call__(self, images: "torch.Tensor") -> "torch.Tensor": ...

    def describe(self) -> dict[str, Any]:
        """Everything its maps depend on, for the cache's provenance (JSON)."""
        ...


@dataclass(frozen=True)
class Entry:
    """Where a detector lives and what it is."""

    module: str
    factory: str
    about: str
    needs_weights: bool = False


DETECTORS = {
    "geodesic-colour": Entry("geodesic", "GeodesicColour", "geodesic saliency and a colour model; the default"),
    "geodesic": Entry("geodesic", "Geodesic", "Wei 2012"),
    "minimum-barrier": Entry("barrier", "MinimumBarrier", "Zhang 2015"),
    "robust-background": Entry("background", "RobustBackground", "Zhu 2014; slow"),
    "spectral-residual": Entry("spectral", "SpectralResidual", "Hou & Zhang 2007; weak"),
    "fine-grained": Entry("fine", "FineGrained", "Montabone & Soto 2010, the kind in the paper's Appendix B; weak"),
    "u2net": Entry("u2net", "U2Net", "U²-Net or U²-Netp (Qin 2020), by far the best", needs_weights=True),
    "basnet": Entry("basnet", "BASNet", "Qin 2019; its quality is not measured here", needs_weights=True),
}


def make_detector(name: str, *, device: str = "cpu", weights: str | None = None) -> Detector:
    """Raises UserError for an unknown name, or weights that are missing or not wanted."""
    if name not in DETECTORS:
        raise UserError(f"unknown detector {name!r}; known: {', '.join(DETECTORS)}")
    entry = DETECTORS[name]
    if weights is not None and not os.path.isfile(weights):
        raise UserError(f"--weights {weights}: no such file")
    if entry.needs_weights and weights is None:
        raise UsageError(f"--source {name} needs --weights FILE (.pth or .onnx)")
    factory = getattr(importlib.import_module(f"precompute.saliency.{entry.module}"), entry.factory)
    return factory(device=device, weights=weights) if entry.needs_weights else factory(device=device)
