"""Weights files: read without executing anything in them, and compared with the shapes that a network needs."""

import pickle
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from precompute.base.errors import UserError

_COUNTER = "num_batches_tracked"


def read_tensors(path: Path | str, containers: Collection[str] = ("state_dict",)) -> dict[str, Tensor]:
    """The tensors of a .safetensors file or of a file of torch's (read with `weights_only`), by name, on the CPU.

    `containers`: keys under which files keep their weights; nested dictionaries of these names are opened in turn.
    UserError where there is no such file, it is damaged or of another kind, or it holds no tensors.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path}: is a folder; name the file of weights in it, such as encoder.safetensors")
    if not path.is_file():
        raise UserError(f"{path}: no such weights file")
    content = _safetensors(path) if path.suffix == ".safetensors" else _torch(path)
    while isinstance(content, Mapping) and (inner := next((k for k in containers if k in content), None)):
        content = content[inner]
    if not isinstance(content, Mapping):
        raise UserError(f"{path}: holds {type(content).__name__}, no dictionary of weights")
    tensors = {k: v for k, v in content.items() if isinstance(k, str) and isinstance(v, Tensor)}
    if not tensors:
        names = some([str(k) for k in content])
        raise UserError(f"{path}: no weights in it, and nothing called {', '.join(containers)}. It holds {names}")
    return tensors


def _safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise UserError(f"{path}: damaged or not a safetensors file ({error})") from error


def _torch(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises half a dozen kinds for files that are not its own
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        # Torch's own text advises to run whatever is in the file.
        if isinstance(error, pickle.UnpicklingError | IndexError | EOFError):
            reason = "no weights file of torch's, or one that holds more than tensors and plain values"
            if held := re.search(r"GLOBAL ([\w.]+)", str(error)):
                reason = (
                    f"it holds a {held[1]} beside its tensors, and what unpickles that could run anything. Where you "
                    "trust the file, save its weights alone: torch.save(torch.load(FILE, weights_only=False)['model'], "
                    "'weights.pth'), with the name that it has for them (a whole model: .state_dict() instead)"
                )
        raise UserError(
            f"{path}: cannot be read as torch weights ({reason}); .safetensors and torch's .pth are read"
        ) from error


def shape_differences(tensors: Mapping[str, Tensor], wanted: Mapping[str, Sequence[int]]) -> str:
    """How `tensors` differ from the `wanted` shapes, in words for a message; "" where they fit.

    BatchNorm's counters of steps (num_batches_tracked) may be missing or left over: no evaluation needs them.
    """
    wrong = [k for k, shape in wanted.items() if k in tensors and tuple(tensors[k].shape) != tuple(shape)]
    faults = {
        "missing": [k for k in wanted if k not in tensors and not k.endswith(_COUNTER)],
        "of another shape": [f"{k} ({list(tensors[k].shape)}, not {list(wanted[k])})" for k in wrong],
        "left over": [k for k in tensors if k not in wanted and not k.endswith(_COUNTER)],
    }
    return "; ".join(f"{fault} {some(sorted(names))}" for fault, names in faults.items() if names)


def some(names: Sequence[str]) -> str:
    """The first few names, for a message."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
