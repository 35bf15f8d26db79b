"""The same job by other libraries, each as its experts would write it.

The job: JPEG bytes of a batch's images → two normalised SaliencySwap views of each source (crop, resize, paste, flip,
jitter in the drawn order, gray, blur, normalise), by our backends' plan; see benchmarks/README.md. Peers mean
torchvision's colours (HSV hue, clamping, contrast about the mean luma), except for plain DALI, which has its own.
"""

import importlib
import importlib.metadata
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from precompute.base.errors import BadValue

if TYPE_CHECKING:
    from benchmarks.ways import Way


@dataclass(frozen=True)
class Peer:
    """A library, and how its result is checked."""

    name: str
    needs: tuple[str, ...]  # modules that must be installed
    tolerance: float  # levels of 255: mean difference from our views; where it `draws`, of the views' statistics
    load: "Callable[[str], Way]"  # takes the device: "cpu" or "cuda"
    policies: tuple[str, ...] = ("saliencyswap", "rrc", "instloc")
    scenes: tuple[str, ...] = ("whole", "crop", "zoom")
    draws: bool = False  # draws its own random numbers, so that pixels cannot be compared, only their statistics
    devices: tuple[str, ...] = ("cpu",)  # where it can run; on a GPU machine those on the CPU stand beside the others
    package: str | None = None  # that brings its modules, where another one's have the same names
    rival: str | None = None  # a package whose modules take the place of its own

    def missing(self) -> str | None:
        """What to install, or None."""
        if self.rival is not None and _installed(self.rival):
            return f"{self.rival} is installed, which has the same import name: they need an environment each"
        if self.package is not None and not _installed(self.package):
            return f"{self.package} not installed (pip install 'saliencyswap[{self.package}]')"
        return missing(*self.needs)

    def way(self, device: str = "cpu") -> "Way":
        """Imports the library and builds its functions, for `device` if it can run there, else for the CPU."""
        return self.load(device if device in self.devices else "cpu")


def missing(*modules: str) -> str | None:
    """What to install, or None."""
    absent = [name for name in modules if not _found(name)]
    return f"{', '.join(absent)} not installed (pip install 'saliencyswap[peers]')" if absent else None


def _found(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # its package is missing
        return False


def _installed(package: str) -> bool:
    try:
        return bool(importlib.metadata.version(package))
    except importlib.metadata.PackageNotFoundError:
        return False


def _late(name: str) -> "Callable[[str], Way]":
    """A class of benchmarks, "MODULE.CLASS", which is imported when the peer is built: it brings its library."""
    module, kind = name.split(".")
    return lambda device: getattr(importlib.import_module(f"benchmarks.{module}"), kind)(device)


_BOTH = ("cpu", "cuda")
# A new peer: a `Way` (in peers_sample.py, or in peers_batch.py where it works on whole batches), and a line here.
PEERS = {
    peer.name: peer
    for peer in (
        Peer("pillow", ("PIL", "torchvision"), 2.0, _late("peers_sample.Pillow")),
        Peer("torchvision", ("torchvision",), 2.0, _late("peers_sample.Torchvision")),
        Peer("opencv", ("cv2",), 8.0, _late("peers_sample.OpenCV")),
        Peer("opencv reduced", ("cv2",), 8.0, _late("peers_sample.OpenCVReduced")),
        Peer("albumentations", ("albumentations",), 8.0, _late("peers_sample.Albumentations"), rival="albumentationsx"),
        Peer(
            "albumentationsx",
            ("albumentations",),
            8.0,
            _late("peers_sample.AlbumentationsX"),
            package="albumentationsx",
        ),
        Peer("kornia", ("kornia",), 5.0, _late("peers_batch.Kornia"), devices=_BOTH),
        Peer("kornia compiled", ("kornia",), 5.0, _late("peers_batch.KorniaCompiled"), devices=_BOTH),
        Peer("plain dali", ("nvidia.dali",), 12.0, _late("plain_dali.PlainDali"), scenes=("whole",), devices=_BOTH),
        Peer("lightly", ("lightly",), 10.0, _late("peers_batch.Lightly"), policies=("rrc",), draws=True),
    )
}


def find(names: Sequence[str]) -> list[Peer]:
    """The peers of these names; ("none",): no peers; none named: all. BadValue names the known ones."""
    if tuple(names) == ("none",):
        return []
    for name in names:
        if name not in PEERS:
            raise BadValue("peers", name, [*PEERS, "none"])
    return [PEERS[name] for name in names or PEERS]


def find_able(
    names: Sequence[str], say: Callable[[str], None], policy: str = "saliencyswap", scene: str = "whole"
) -> tuple[list[Peer], dict[str, str]]:
    """Of `find(names)` those that can do the job here; the rest by name with the reason, which `say` prints."""
    able, skipped = [], {}
    for peer in find(names):
        why = peer.missing()
        if policy not in peer.policies:
            why = f"it has no {policy}, only {', '.join(peer.policies)}"
        if scene not in peer.scenes:
            why = f"its backgrounds are {', '.join(peer.scenes)}"
        if why:
            skipped[peer.name] = why
            say(f"skipped: {peer.name}: {why}")
        else:
            able.append(peer)
    return able, skipped
