"""Backends: pure functions of (plan, image files) that make the pixels. The tests hold all of them to one reference.

fused    decode, then the rest in one kernel: C++ built at its first use (CPU), or DALI's decoder and Triton (CUDA)
eager    what `fused` falls back to without a compiler: plain torch, CPU only
dali     everything as DALI operators, decoding included; CUDA or CPU
kornia   Kornia and torch operators, anywhere torch runs: the fallback
"""

import importlib.util
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from augment.views.policy import Policy
from precompute.base.errors import BadValue

if TYPE_CHECKING:
    import torch

    from augment.backends.decoded import DecodedCache
    from augment.views.plan import Plan

NAMES = ("auto", "dali", "fused", "eager", "kornia")


class Backend(Protocol):
    """`begin(plan, files)` may start on a batch that is to be rendered soon; at most one more is rendered before it.

    `render(plan, files)`: files[i] are the bytes of plan.images[i], as `ImageSet.read` gives them; anything for an
    image that the backend `holds`.

    Returns one tensor a view, [B, 3, size, size] in channels-last memory, normalised, on the backend's device; nothing
    writes to it afterwards. Any exception means that this batch could not be made (a file that cannot be decoded);
    after `reset()` the backend must work again.
    """

    name: str

    def begin(self, plan: "Plan", files: Sequence[bytes]) -> None:
        """Nothing, for backends whose threads are all at work in `render`."""

    def render(self, plan: "Plan", files: Sequence[bytes]) -> "tuple[torch.Tensor, ...]": ...

    def holds(self, row: int) -> bool:
        """False, for backends that keep nothing from batch to batch."""
        return False

    def reset(self) -> None:
        """Nothing, for backends that a failed batch leaves as they were."""

    def close(self) -> None: ...


def choose(name: str, device: "torch.device", colour: str = "linear", cached: bool = False) -> tuple[str, str]:
    """The backend's name for `name` (which may be "auto") and the reason, in words for a log line.

    `colour`: the policy's; `cached`: decoded pictures are to be kept. Raises BadValue for an unknown name, one whose
    packages are not installed, or one that does not have this colour.
    """
    if name not in NAMES:
        raise BadValue("backend", name, NAMES)
    missing = why_no_dali()
    if name == "auto":
        if device.type == "cpu":
            return "fused", "the fastest on a CPU"
        if missing is None and (colour != "linear" or cached):
            why = "keeps decoded pictures" if cached else f"has {colour} colour"
            if importlib.util.find_spec("triton") is not None:
                return "fused", f"{why}, which dali does not"
            return "kornia", f"fallback, slow: fused, which {why}, needs Triton on {device.type}"
        if missing is None:
            return "dali", f"decodes on {device.type}; not measured against fused there"
        return "kornia", f"fallback, slow: {missing}"
    if name == "dali" and colour != "linear":
        raise BadValue(
            "backend", name, f"one with {colour} colour; dali has linear only", "Use fused, or colour linear"
        )
    if name == "eager" and device.type != "cpu":
        raise BadValue("backend", name, f"one that works on {device}; eager needs the CPU", "Use fused, or device cpu")
    if name == "fused" and device.type == "cuda" and importlib.util.find_spec("triton") is None:
        raise BadValue("backend", name, "another one on CUDA without Triton, which is not installed", "Use dali")
    if missing is not None and (name == "dali" or (name == "fused" and device.type == "cuda")):
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
    device: "torch.device",
    dtype: "torch.dtype",
    workers: int,
    batch: int,
    say: Callable[[str], None] = lambda _: None,
    cache: "DecodedCache | None" = None,
) -> Backend:
    """The backend `name` (not "auto"). `batch` is the largest number of sources in one plan.

    Raises BadValue for a cache that the backend has no use for.
    """
    if cache is not None and name not in ("fused", "eager"):
        raise BadValue("backend", name, "fused or eager to keep decoded pictures", "Or use cache off")
    if name == "dali":
        from augment.backends.dali import DaliBackend

        return DaliBackend(policy, device, dtype, workers, batch)
    if name == "fused" and device.type == "cuda":
        from augment.backends.fused_cuda import FusedCudaBackend

        return FusedCudaBackend(policy, device, dtype, workers, batch, cache)
    if name in ("fused", "eager"):
        from augment.backends.fused import FusedBackend
        from augment.backends.native import NotBuilt

        try:
            return FusedBackend(policy, dtype, workers, say, compiled=name == "fused", cache=cache)
        except NotBuilt as error:
            say(f"fused backend without its kernel, in plain torch, about half as fast: {error}")
            return FusedBackend(policy, dtype, workers, compiled=False, cache=cache)
    from augment.backends.kornia import KorniaBackend

    return KorniaBackend(policy, device, dtype, workers)
