"""Files of network weights: reading them without executing anything in them, and how they differ from a network."""

import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from precompute.base import formats
from precompute.base.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

_TO_TENSORS = "torch.save(torch.jit.load(FILE).state_dict(), 'weights.pth')"
_UNPACKED = 100  # times an archive's own size: beyond, it is made to fill memory


def load_weights(path: Path | str) -> tuple[Any, dict[str, str]]:
    """The contents of a file of `torch.save`, of safetensors or of NumPy, and the words that it says beside them.

    Tensors are on the CPU; NumPy's arrays stand as they are or as `Array` (`flat` makes tensors of both). What the file
    is, its first bytes tell, not its name. Raises UserError for any other file, and for one that is cut or damaged.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            head, size = file.read(4096), path.stat().st_size
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    if path.suffix == ".safetensors" or (head[8:9] == b"{" and int.from_bytes(head[:8], "little") < size):
        return _load_safetensors(path)
    if head.startswith(b"PK\x03\x04"):
        if _check_archive(path):
            with np.load(path, allow_pickle=False) as arrays:
                return _read(path, lambda: dict(arrays)), {}
    elif what := formats.what_else(head):
        raise UserError(f"{path}: cannot be read as torch weights: {what}, no weights file")
    return _load_torch(path), {}


def _load_safetensors(path: Path) -> tuple[Any, dict[str, str]]:
    from safetensors import safe_open

    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except Exception as error:  # its own error, or one of torch's for types that it does not know
        raise UserError(f"{path}: damaged or not a safetensors file ({_first_line(error)})") from error


def _check_archive(path: Path) -> bool:
    """Whether a ZIP archive is NumPy's. UserError unless it is that or torch's, and whole."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            names = [member.filename for member in members]
            if any(name.endswith("constants.pkl") or "/code/" in name for name in names):
                raise UserError(f"{path}: TorchScript, a program. Save its weights alone: {_TO_TENSORS}")
            if any(name.endswith(("archive_format", "serialized_exported_program.json")) for name in names):
                raise UserError(
                    f"{path}: a program of torch.export. Save its weights alone: "
                    "torch.save(dict(torch.export.load(FILE).state_dict), 'weights.pth')"
                )
            numpys = bool(names) and all(name.endswith(".npy") for name in names)
            if not numpys and not any(name.endswith("data.pkl") for name in names):
                raise UserError(f"{path}: a ZIP archive that is no weights file (it holds {some(names)}). Unpack it")
            if sum(member.file_size for member in members) > _UNPACKED * path.stat().st_size:
                raise UserError(f"{path}: unpacks to over {_UNPACKED} times its size: not written by torch or NumPy")
            damaged = archive.testzip()
    except UserError:
        raise
    except Exception as error:  # zipfile and zlib have a dozen kinds for damaged files
        raise UserError(f"{path}: cut or damaged ({_first_line(error)}). Copy it again") from error
    if damaged is not None:
        raise UserError(f"{path}: damaged (checksum of {damaged} is wrong). Copy it again")
    return numpys


def _read(path: Path, read: Any) -> Any:
    try:
        return read()
    except Exception as error:  # NumPy's header parser raises nearly anything on foreign files
        raise UserError(f"{path}: cannot be read as NumPy arrays ({_first_line(error)})") from error


def _load_torch(path: Path) -> Any:
    import torch

    names = [(f"numpy.{core}.multiarray", name) for core in ("core", "_core") for name in ("_reconstruct", "scalar")]
    known = [({"_reconstruct": _array, "scalar": _scalar}[name], f"{module}.{name}") for module, name in names]
    known += [(Array, "numpy.ndarray"), (_DType, "numpy.dtype")]
    try:
        with torch.serialization.safe_globals(known), warnings.catch_warnings():  # type: ignore[arg-type]
            warnings.simplefilter("ignore")  # of pickle protocols; what cannot be read says so
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises nearly anything on foreign files
        reason = _first_line(error)
        # Torch's text advises to run whatever is in the file.
        if held := re.search(r"GLOBAL ([\w.]+)", str(error)):
            reason = (
                f"it holds a {held[1]} beside its tensors, and what unpickles that could run anything. Where you "
                "trust the file, save its weights alone: torch.save(torch.load(FILE, weights_only=False)['model'], "
                "'weights.pth'), with the name that it has for them (a whole model: .state_dict() instead)"
            )
        elif isinstance(error, pickle.UnpicklingError | IndexError | EOFError) or "weights_only" in str(error):
            reason = "no weights file of torch's, or one that is cut or holds more than tensors and plain values"
        raise UserError(f"{path}: cannot be read as torch weights ({reason})") from error


class Array:
    """What stands for a numpy.ndarray while a file is unpickled: NumPy's own would believe what the file says."""

    def __init__(self, *_: Any) -> None:
        self._state: Any = None

    def __setstate__(self, state: Any) -> None:
        self._state = state

    def numpy(self) -> np.ndarray | None:
        """None where the file's words make no array of numbers."""
        try:
            _, shape, kind, fortran, raw = self._state
            return np.frombuffer(raw, kind.name).reshape(shape, order="F" if fortran else "C")
        except (AttributeError, TypeError, ValueError):
            return None


class _DType:
    """What stands for a numpy.dtype."""

    def __init__(self, code: Any = "", *_: Any) -> None:
        self._code, self._order = code, "<"

    def __setstate__(self, state: Any) -> None:
        self._order = state[1]

    @property
    def name(self) -> str:
        if not isinstance(self._code, str) or not re.fullmatch("[fiub][1248]", self._code):
            raise ValueError(self._code)
        return (">" if self._order == ">" else "<") + self._code


def _array(*_: Any) -> Array:
    return Array()


def _scalar(*_: Any) -> None:
    """A number of NumPy's beside the weights, such as a best accuracy, is not looked at."""


def flat(content: Any) -> "dict[str, Tensor]":
    """All tensors in nested dictionaries, by their names with dots between; those of optimizers are left out.

    A dictionary that holds itself is entered once.
    """
    import torch

    out: dict[str, Tensor] = {}
    entered: set[int] = set()

    def enter(value: Any, name: str, depth: int) -> None:
        if isinstance(value, Array):
            value = value.numpy()
        if isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
            value = torch.tensor(value.astype(value.dtype.newbyteorder("=")))
        if isinstance(value, torch.Tensor):
            out.setdefault(name, value)
        elif isinstance(value, Mapping) and id(value) not in entered and depth < 16:
            entered.add(id(value))
            for key, inner in value.items():
                if isinstance(key, str) and not key.startswith("optim"):
                    enter(inner, f"{name}.{key}" if name else key, depth + 1)

    enter(content, "", 0)
    return out


def require_plain(weights: "Mapping[str, Tensor]", path: Path | str) -> None:
    """UserError that names the weights which are no dense, finite floating-point numbers (counters: whole ones)."""
    faults: dict[str, list[str]] = {}
    for name, value in weights.items():
        if fault := _fault(name, value):
            faults.setdefault(fault, []).append(name)
    if faults:
        (fault, names), *_ = sorted(faults.items())
        what, remedy = fault.split("|")
        raise UserError(f"{path}: {what}: {some(sorted(names))}. {remedy}")


def _fault(name: str, value: "Tensor") -> str:
    """What is wrong with a tensor, and the remedy; "" where it is plain."""
    import torch

    if value.is_meta:
        return "only shapes, no values (device meta)|Save the weights after they were made on a device"
    if value.is_quantized:
        return "quantised|Save value.dequantize() of each"
    if value.layout is not torch.strided:
        return "sparse|Save value.to_dense() of each"
    floats = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    if value.dtype not in floats and not (name.endswith("num_batches_tracked") and not value.is_complex()):
        return f"of type {str(value.dtype).removeprefix('torch.')}|Save value.float() of each, scaled as its maker says"
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():
        return "one value that is shown many times|Save value.contiguous() of each"
    if not value.float().isfinite().all():
        return "not finite|Take the weights of an earlier step"
    if name.endswith("running_var") and bool((value < 0).any()):
        return "negative variances|The file is damaged, or another network's"
    return ""


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


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0][:200] if str(error).strip() else type(error).__name__
