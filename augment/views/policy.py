"""`Policy`: the settings of views, one frozen dataclass, the only source of defaults. Imports nothing heavy.

A policy is data: it prints, goes to JSON and back, and is stored beside every result. `augment.views.plan` draws the
numbers of a single view from it.
"""

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any

from augment.views.kinds import KINDS, Kind
from precompute.base.errors import BadValue, UserError
from precompute.base.options import option

NAMES = tuple(KINDS)
SWAPPING = tuple(name for name, kind in KINDS.items() if kind.boxed and kind.pastes)  # those that have a `mode`
MODES = ("swap", "paste")
COLOURS = ("linear", "torchvision")
SHARED = ("none", "crop", "background", "flip", "colour", "blur", "rotate")  # what a view may have from the first
SCENES = ("whole", "crop", "zoom")
SMALLEST, LARGEST = 8, 4096  # pixels: sides that a view can have


@dataclass(frozen=True)
class Policy:
    """How a view is cut, composed and coloured. Raises BadValue for a value that no view could be made with.

    Policies: `saliencyswap` puts a crop of the source's box on another image; `rrc` is torchvision's RandomResizedCrop
    of the whole source (MoCo v2's way; the "patch" then covers the view and the background is the source itself);
    `instloc` pastes such a crop of the whole source anywhere on another image (InsLoc, Yang et al. 2021: no boxes);
    `copy-paste` is `saliencyswap` with the source's saliency map as the patch's opacity (DiLo): `open_views(maps=...)`.
    """

    name: str = option("saliencyswap", "how a view is cut and composed", choices=NAMES, flags=("policy", "name"))
    mode: str = option(
        "swap",
        "saliencyswap, copy-paste: onto the background's own box (swap), or anywhere (paste); a background without "
        "a box is always pasted on",
        choices=MODES,
    )
    size: int = option(224, "side of a view in pixels", least=SMALLEST, most=LARGEST)
    views: int = option(2, "views of each source")
    crop_scale: float | None = option(
        None,
        "smallest share that a crop keeps of the box, or of the image where the policy has no use for boxes; default: "
        + ", ".join(f"{name} {kind.crop_scale}" for name, kind in KINDS.items()),
    )
    aspect: tuple[float, ...] = option((3 / 4, 4 / 3), "least and largest width/height of a crop, in pixels")
    paste_scale: float = option(0.2, "smallest share of the view that a pasted patch covers")
    box_cap: float = option(0.9, "largest share of the view that a patch may cover; 1: no cap (the paper)")
    scene: str = option(
        "whole",
        "the background as a whole (the paper), its largest square that keeps its box (crop), or a random crop that "
        "keeps the middle of its box (zoom)",
        choices=SCENES,
    )
    scene_scale: float = option(0.2, "zoom: smallest share of the background that its crop keeps")
    own: float = option(
        0.0,
        "saliencyswap: probability that a view shows the source in its own scene, nothing pasted; its box there counts "
        "as the patch (not in the paper)",
    )
    flip: float = option(0.5, "probability of a horizontal flip")
    jitter: tuple[float, ...] = option((0.4, 0.4, 0.4, 0.1), "strength of brightness, contrast, saturation, hue jitter")
    jitter_p: float = option(0.8, "probability of colour jitter")
    gray_p: float = option(0.2, "probability of gray")
    blur_p: float = option(0.5, "probability of Gaussian blur")
    blur_sigma: tuple[float, ...] = option((0.1, 2.0), "least and largest sigma of the blur, in view pixels")
    rotate: float = option(0.0, "probability of a turn by 90, 180 or 270 degrees, after everything else")
    shared: tuple[str, ...] = option(
        (),
        "what the second, third, ... view has from the first one, for leave-one-out contrast (LooC); default: nothing",
        choices=SHARED,
    )
    colour: str = option(
        "linear",
        "meaning of the jitter: one matrix a view, equal on every backend (linear), or torchvision's HSV with clamping",
        choices=COLOURS,
    )
    group: int = option(16, "backgrounds come from groups of this many consecutive images of the epoch's order")
    mean: tuple[float, ...] = option((0.485, 0.456, 0.406), "RGB mean taken off (of pixels in [0, 1])")
    std: tuple[float, ...] = option((0.229, 0.224, 0.225), "RGB standard deviation divided by")

    def __post_init__(self) -> None:
        for field, valid in (("name", NAMES), ("mode", MODES), ("colour", COLOURS), ("scene", SCENES)):
            if getattr(self, field) not in valid:
                raise BadValue(field, getattr(self, field), valid)
        if self.crop_scale is None:
            object.__setattr__(self, "crop_scale", self.kind.crop_scale)
        for field, least, most in (("size", SMALLEST, LARGEST), ("views", 1, 65536), ("group", 2, 65536)):
            value = getattr(self, field)
            good = _is_number(value) and value == int(value) and least <= value <= most
            self._check(field, good, f"a whole number, at least {least} and at most {most}")
            object.__setattr__(self, field, int(value))
        for field, count in (("aspect", 2), ("jitter", 4), ("blur_sigma", 2), ("mean", 3), ("std", 3)):
            values = getattr(self, field)
            values = tuple(values) if isinstance(values, Iterable) else ()  # also a list, from JSON
            self._check(field, len(values) == count and all(map(_is_number, values)), f"{count} finite numbers")
            object.__setattr__(self, field, tuple(map(float, values)))
        for field in ("crop_scale", "paste_scale", "scene_scale", "box_cap"):
            self._check(field, _is_number(value := getattr(self, field)) and 0 < value <= 1, "above 0 and at most 1")
            object.__setattr__(self, field, float(value))
        for field in ("flip", "jitter_p", "gray_p", "blur_p", "rotate", "own"):
            self._check(field, _is_number(value := getattr(self, field)) and 0 <= value <= 1, "within 0 and 1")
            object.__setattr__(self, field, float(value))
        self._check("own", not self.own or self.kind.own_scenes, f"0 for {self.name}")
        low, high = self.aspect
        self._check("aspect", 0.01 <= low <= high <= 100, "two numbers within 0.01 and 100, in ascending order")
        low, high = self.blur_sigma
        self._check("blur_sigma", 0 < low <= high, "two positive numbers in ascending order")
        # A reflected border needs the window's half inside the view.
        self._check("blur_sigma", blur_radius(high) < self.size, f"small enough for views of {self.size} pixels")
        shared = tuple(self.shared) if isinstance(self.shared, Iterable) else (self.shared,)
        valid = f"at most {self.views - 1} of {', '.join(SHARED)}: one for each view after the first"
        self._check("shared", len(shared) < self.views and all(name in SHARED for name in shared), valid)
        object.__setattr__(self, "shared", shared)
        good = min(self.jitter) >= 0 and max(self.jitter[:3]) <= 1 and self.jitter[3] <= 0.5
        self._check("jitter", good, "at least 0 and at most 1 1 1 0.5")
        # Not within 0 and 255, which would make nearly constant views.
        self._check("mean", 0 <= min(self.mean) <= max(self.mean) <= 1, "three within 0 and 1")
        self._check("std", 0.001 <= min(self.std) <= max(self.std) <= 1, "three, 0.001 to 1")

    @property
    def kind(self) -> Kind:
        """The record of its name."""
        return KINDS[self.name]

    def idle(self) -> Iterator[tuple[str, str]]:
        """The fields that have no effect on the views of this policy, each with what it belongs to, in words."""
        if not self.kind.own_scenes:
            yield "own", "the policy " + " and ".join(name for name, kind in KINDS.items() if kind.own_scenes)
        if self.name not in SWAPPING:
            yield "mode", f"the policies {' and '.join(SWAPPING)}"
        if not self.kind.pastes:
            for field in ("paste_scale", "box_cap", "scene", "group"):
                yield field, "policies that paste"
        if not self.kind.pastes or self.scene != "zoom":
            yield "scene_scale", "scene zoom of policies that paste"

    def replace(self, **changes: Any) -> "Policy":
        """This policy with some values changed."""
        return dataclasses.replace(self, **changes)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; `from_json` gives an equal policy back."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self).items()}

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> "Policy":
        """Raises UserError for names that this version does not know, ValueError for values."""
        if not isinstance(values, Mapping):
            raise UserError(f"policy={values!r}: must be a mapping of values by name, as Policy.to_json gives it")
        known = {f.name for f in dataclasses.fields(Policy)}
        if unknown := sorted(set(values) - known):
            raise UserError(f"unknown policy value {', '.join(unknown)}; known are {', '.join(sorted(known))}")
        return Policy(**values)

    def __str__(self) -> str:
        """One line for a log: the name, then what differs from its defaults."""
        default = Policy(name=self.name)
        idle = dict(self.idle())
        changed = [
            f"{f.name}={_rounded(getattr(self, f.name))}"
            for f in dataclasses.fields(self)
            if getattr(self, f.name) != getattr(default, f.name) and f.name not in idle
        ]
        kind = f"{self.name} ({self.mode})" if self.name in SWAPPING else self.name
        return " ".join([f"{kind}, {self.views} views of {self.size} px, {self.colour} colour", *changed])

    def _check(self, field: str, good: bool, valid: str) -> None:
        if not good:
            raise BadValue(field, getattr(self, field), valid)


def _rounded(value: Any) -> str:
    if isinstance(value, tuple):
        return f"({', '.join(map(_rounded, value))})"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _is_number(value: Any) -> bool:
    try:
        return isinstance(value, Real) and math.isfinite(value)
    except OverflowError:  # a whole number beyond floats
        return False


def blur_radius(sigma: float) -> int:
    """Half of the blur's window 2·ceil(3σ) + 1, in pixels."""
    return math.ceil(3 * sigma)
