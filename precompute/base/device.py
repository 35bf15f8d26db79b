"""The device that a program or a library call names: one meaning everywhere."""

import re
from typing import TYPE_CHECKING, Any

from precompute.base.errors import BadValue

if TYPE_CHECKING:
    import torch

    from precompute.base.ranks import Process

VALID = "auto, cpu, cuda or cuda:N"


def check_device(name: Any) -> None:
    """BadValue for a name that no machine knows. Imports nothing heavy; `find_device` looks at the machine."""
    if name is not None and not re.fullmatch(r"auto|cpu|cuda(:\d+)?", str(name)):
        raise BadValue("device", str(name), VALID)


def find_device(name: "torch.device | str | None" = None) -> "torch.device":
    """The device of that name; "auto" or None: CUDA where there is one, else the CPU.

    Raises BadValue for an unknown name and for a CUDA device that torch does not see.
    """
    import torch

    check_device(name)
    if name is None or str(name) == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    count = torch.cuda.device_count() if device.type == "cuda" else 1
    if (device.index or 0) >= count:
        there = f"there are {count} CUDA devices, numbered from 0" if count else "torch sees no CUDA device here"
        raise BadValue("device", str(name), "one that is there", f"Here {there}; use cpu, or auto")
    return device


def rank_device(name: "torch.device | str | None", process: "Process") -> "tuple[torch.device, str]":
    """The device of that name for one of several ranks, which share out a machine's GPUs, and why it is taken."""
    import torch

    device = find_device(name)
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", process.local_rank % torch.cuda.device_count())
    why = "a GPU is there" if device.type == "cuda" else "no GPU is there"
    return device, why if name == "auto" else "as asked"
