"""The backends, by name. The tests hold all of them to one reference.

fused    decode, then the rest in one kernel: C++ built at its first use (CPU), or DALI's decoder and Triton (CUDA)
eager    what `fused` falls back to without a compiler: plain torch, CPU only
dali     everything as DALI operators, decoding included; CUDA or CPU
kornia   Kornia and torch operators, anywhere torch runs: the fallback
"""

import importlib.util
from typing import TYPE_CHECKING

from augment.backends.decoding import USUAL, Decoding
from augment.backends.protocol import Backend
from augment.request import BACKENDS as NAMES
from augment.request import Making
from augment.views.policy import Policy
from precompute.base.errors import BadValue

if TYPE_CHECKING:
    import torch

    from augment.backends.decoded import DecodedCache
    from augment.views.plan import Pool


def choose(
    name: str, device: "torch.device", colour: str = "linear", cached: bool = False, served: bool = False
) -> tuple[str, str]:
    """The backend's name for `name` (which may be "auto") and the reason, in words for a log line.

    `colour`: the policy's; `cached`: decoded pictures are to be kept; `served`: helpers cut the crops. Raises BadValue
    for an unknown name, one whose packages are not installed, or one that does not have this colour.
    """
    if name not in NAMES:
        raise BadValue("backend", name, NAMES)
    missing, triton = why_no_dali(), importlib.util.find_spec("triton") is not None
    cuda = device.type == "cuda"
    if served and cuda and triton and name in ("auto", "fused"):
        return "fused", f"crops from CPUs are finished on {device.type}"
    if name == "auto":
        if not cuda:
            return "fused", "the fastest on a CPU"
        if missing is not None:
            return "kornia", f"fallback, slow: {missing}"
        if colour == "linear" and not cached:
            return "dali", f"decodes on {device.type}; not measured against fused there"
        why = "keeps decoded pictures" if cached else f"has {colour} colour"
        if triton:
            return "fused", f"{why}, which dali does not"
        return "kornia", f"fallback, slow: fused, which {why}, needs Triton on {device.type}"
    if name == "dali" and colour != "linear":
        valid = f"one with {colour} colour; dali has linear only"
        raise BadValue("backend", name, valid, "Use fused, or colour linear")
    if name == "eager" and cuda:
        raise BadValue("backend", name, f"one that works on {device}; eager needs the CPU", "Use fused, or device cpu")
    if name == "fused" and cuda and not triton:
        raise BadValue("backend", name, "another one on CUDA without Triton, which is not installed", "Use dali")
    if missing is not None and (name == "dali" or (name == "fused" and cuda)):
        raise BadValue("backend", name, f"another one on {device.type}: {missing}", "Or use kornia")
    return name, "as asked"


def why_no_dali() -> str | None:
    """None where DALI can be imported, else the reason and the remedy."""
    try:
        if importlib.util.find_spec("nvidia.dali") is not None:
            return None
    except ModuleNotFoundError:  # not even the package nvidia
        pass
    return "DALI is not installed (Linux only: pip install nvidia-dali-cuda130, or nvidia-dali-cuda120)"


def build(
    name: str,
    policy: Policy,
    making: "Making",
    batch: int,
    cache: "DecodedCache | None" = None,
    pool: "Pool | None" = None,
    decoding: Decoding = USUAL,
) -> Backend:
    """The backend `name` (not "auto"), where and as `making` says. `batch`: the most sources in one plan.

    `pool`: the images, where batches come in their order: then one that ends within a group (`Policy.group`) leaves
    its decoded pictures to the next. Raises BadValue for a cache that the backend has no use for.
    """
    making = making.settled()
    cuda, served = str(making.device).startswith("cuda"), making.service != "off"
    if cache is not None and name not in ("fused", "eager"):
        raise BadValue("backend", name, "fused or eager to keep decoded pictures", "Or use cache off")
    if making.decode == "scaled" and (cuda or name != "fused"):
        why = "DALI's decoders (2.4) have no smaller DCT, only regions. " if cuda or name == "dali" else ""
        raise BadValue("decode", "scaled", f"exact with {name} on {making.device}", f"{why}fused on a CPU has it")
    if name == "dali":
        from augment.backends.dali import DaliBackend

        return DaliBackend(policy, making, batch, decoding)
    if name == "kornia":
        from augment.backends.kornia import KorniaBackend

        return KorniaBackend(policy, making)
    if name == "fused" and cuda and not served:
        from augment.backends.fused_cuda import FusedCudaBackend

        return FusedCudaBackend(policy, making, batch, cache, decoding)
    from augment.backends.decoded import RecentPictures
    from augment.backends.fused import FusedBackend
    from augment.backends.native import NotBuilt

    if (
        cache is None
        and pool is not None
        and not cuda
        and making.decode == "exact"
        and RecentPictures.needed_for(policy, batch)
    ):
        cache = RecentPictures(policy, pool, batch)
    try:
        if cuda:
            from augment.backends.finished_on_device import FinishedOnDevice

            return FinishedOnDevice(policy, making)
        return FusedBackend(policy, making, cache, compiled=name == "fused")
    except NotBuilt as error:
        if cuda:
            valid = "off on CUDA without a C++ compiler: what helpers do not cut in time is cut here"
            raise BadValue("service", making.service, valid, str(error)) from error
        making.say(f"fused backend without its kernel, in plain torch, about half as fast: {error}")
        return FusedBackend(policy, making, cache, compiled=False)
