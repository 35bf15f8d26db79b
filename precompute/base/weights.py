"""Files of network weights: reading them without executing anything in them, and how they differ from a network."""

import pickle
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from precompute.base.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor


def load_torch(path: Path | str) -> Any:
    """The contents of a file of `torch.save`: tensors and plain values, on the CPU. Raises UserError for any other."""
    import torch

    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises nearly anything on foreign files
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        # Torch's text advises to run whatever is in the file.
        if isinstance(error, pickle.UnpicklingError | IndexError | EOFError):
            reason = "no weights file of torch's, or one that holds more than tensors and plain values"
            if held := re.search(r"GLOBAL ([\w.]+)", str(error)):
                reason = (
                    f"it holds a {held[1]} beside its tensors, and what unpickles that could run anything. Where you "
                    "trust the file, save its weights alone: torch.save(torch.load(FILE, weights_only=False)['model'], "
                    "'weights.pth'), with the name that it has for them (a whole model: .state_dict() instead)"
                )
        raise UserError(f"{path}: cannot be read as torch weights ({reason})") from error


def differences(weights: "Mapping[str, Tensor]", shapes: Mapping[str, Sequence[int]]) -> str:
    """How the names and shapes of `weights` differ from those of a network, for a message; "" where they do not."""
    missing = sorted(name for name in shapes if name not in weights)
    wrong = sorted(
        f"{name} ({list(weights[name].shape)}, not {list(shape)})"
        for name, shape in shapes.items()
        if name in weights and tuple(weights[name].shape) != tuple(shape)
    )
    unknown = sorted(name for name in weights if name not in shapes)
    kinds = (("missing", missing), ("of another shape", wrong), ("unknown", unknown))
    return "; ".join(f"{kind} {some(names)}" for kind, names in kinds if names)


def some(names: Sequence[str]) -> str:
    """The first few names, for a message."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
