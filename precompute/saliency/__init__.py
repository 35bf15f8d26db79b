"""Saliency detectors behind one registry: batches of small pictures in, maps out. `DETECTORS` is the registry.

A detector is one file here and one entry in `DETECTORS`. A class from elsewhere is named as module:Class; it is called
with device= and, where its `needs_weights` is True, with weights=.
"""

import importlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from precompute.base.errors import BadValue, UsageError, UserError

if TYPE_CHECKING:
    import torch


class Detector(Protocol):
    """Pictures are squashed to `side` × `side` pixels (antialiased) before they get here.

    A call takes uint8 [B, side, side, 3] RGB on the detector's device and gives float32 [B, g, g], larger = more
    salient, of any range. A map must not depend on the other pictures of its batch. Several threads call it at once.
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

    where: str  # module:Class, in this package
    about: str
    needs_weights: bool = False


DETECTORS = {
    "geodesic-colour": Entry("geodesic:GeodesicColour", "geodesic saliency and a colour model; the default"),
    "geodesic": Entry("geodesic:Geodesic", "Wei 2012"),
    "minimum-barrier": Entry("barrier:MinimumBarrier", "Zhang 2015"),
    "robust-background": Entry("background:RobustBackground", "Zhu 2014; slow"),
    "spectral-residual": Entry("spectral:SpectralResidual", "Hou & Zhang 2007; weak"),
    "fine-grained": Entry("fine:FineGrained", "Montabone & Soto 2010, the kind in the paper's Appendix B; weak"),
    "u2net": Entry("u2net:U2Net", "U²-Net or U²-Netp (Qin 2020), by far the best", needs_weights=True),
    "basnet": Entry("basnet:BASNet", "Qin 2019; its quality is not measured here", needs_weights=True),
}


def needs_weights(name: str) -> bool:
    """Whether the detector takes a file of weights; a class from elsewhere is asked."""
    if ":" in name:
        return bool(getattr(_foreign(name), "needs_weights", False))
    return name in DETECTORS and DETECTORS[name].needs_weights


def make_detector(name: str, *, device: str = "cpu", weights: str | None = None) -> Detector:
    """A detector by its name in `DETECTORS`, or as module:Class.

    Raises UserError for an unknown name, weights that are missing or not wanted, or a class that is no detector.
    """
    if ":" not in name and name not in DETECTORS:
        raise UserError(f"unknown detector {name!r}; known: {', '.join(DETECTORS)}, or your own as module:Class")
    if weights is not None and not os.path.isfile(weights):
        raise UserError(f"--weights {weights}: no such file")
    takes_weights = needs_weights(name)
    if takes_weights and weights is None:
        raise UsageError(f"--source {name} needs --weights FILE (.pth or .onnx)")
    if ":" in name:
        factory = _foreign(name)
    else:
        module, kind = DETECTORS[name].where.split(":")
        factory = getattr(importlib.import_module(f"{__name__}.{module}"), kind)
    arguments = {"device": device} | ({"weights": weights} if takes_weights else {})
    try:
        detector = factory(**arguments)
    except TypeError as error:
        if ":" not in name:
            raise
        given = " and ".join(f"{argument}=" for argument in arguments)
        raise UserError(f"--source {name}: must be a class that is called with {given} ({error}); see "
                        "precompute.saliency.Detector") from error  # fmt: skip
    missing = [part for part in ("side", "batch", "gamma", "describe", "__call__") if not hasattr(detector, part)]
    if missing:
        raise UserError(f"--source {name}: has no {', '.join(missing)} (see precompute.saliency.Detector)")
    return detector


def _foreign(name: str) -> Any:
    """The class module:Class of another package, or of a file in the working directory."""
    module, _, kind = name.partition(":")
    try:
        return getattr(importlib.import_module(module), kind)
    except (ImportError, AttributeError, ValueError) as error:
        raise BadValue("source", name, f"module:Class of something that can be imported ({error})") from error
