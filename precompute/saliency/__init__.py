"""Saliency detectors behind one registry: batches of small pictures in, maps out. `DETECTORS` is the registry."""

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from precompute.cli import UserError

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
    "spectral-residual": Entry("spectral", "SpectralResidual", "Hou & Zhang 2007; no weights, weak"),
}


def make_detector(name: str, *, device: str = "cpu", weights: str | None = None) -> Detector:
    """Raises UserError for an unknown name, or weights that are missing or not wanted."""
    if name not in DETECTORS:
        raise UserError(f"unknown detector {name!r}; known: {', '.join(DETECTORS)}")
    entry = DETECTORS[name]
    if entry.needs_weights and weights is None:
        raise UserError(f"--source {name} needs --weights FILE (.pth or .onnx)")
    factory = getattr(importlib.import_module(f"precompute.saliency.{entry.module}"), entry.factory)
    return factory(device=device, weights=weights) if entry.needs_weights else factory(device=device)
