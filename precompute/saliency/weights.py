"""Weights of a learned detector from a file that the user points to: .pth (tensors only) or .onnx.

Nothing of a file is ever executed.
"""

import hashlib
from pathlib import Path

import torch

from precompute.base.errors import UserError
from precompute.base.weights import flat, load_weights, require_plain

Convolutions = list[tuple[torch.Tensor, torch.Tensor]]  # weight [O, I, k, k] and bias [O], in order of execution

STATISTICS = ("weight", "bias", "running_mean", "running_var")  # a batch normalisation's
_BN_EPSILON = 1e-5


def sha256(path: Path | str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_onnx(path: Path | str) -> Convolutions:
    """All convolutions of an ONNX graph in its order, float32. Raises UserError where the file is no such graph."""
    try:
        import onnx
    except ImportError:
        raise UserError(f"{path}: .onnx files are read by the package onnx: pip install 'saliencyswap[onnx]'") from None
    out: Convolutions = []
    try:
        graph = onnx.load(path, load_external_data=False).graph
        floats = onnx.TensorProto.FLOAT
        tensors = {t.name: t for t in graph.initializer if t.data_type == floats and not t.external_data}
        for node in graph.node:
            if node.op_type == "Conv":
                weight, *bias = (torch.tensor(onnx.numpy_helper.to_array(tensors[name])) for name in node.input[1:3])
                out.append((weight, bias[0] if bias else torch.zeros(weight.shape[:1])))
                require_convolution(node.name or node.input[1], *out[-1], path)
    except UserError:
        raise
    except Exception as error:  # protobuf, onnx and NumPy have a dozen kinds for damaged files
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path}: not an ONNX file that can be read ({reason})") from error
    if not out:
        raise UserError(f"{path}: not an ONNX file that can be read (no convolution in it)")
    return out


def read_pth(path: Path | str, first: str) -> dict[str, torch.Tensor]:
    """The tensors of the network that has one called `first`, by its own names, whatever they are kept under.

    The counters of batches (`num_batches_tracked`) are left out. Raises UserError where the file holds no such network;
    nothing in it is executed.
    """
    state = flat(load_weights(path)[0])
    if not state:
        raise UserError(f"{path}: holds no state dict")
    before = min((k.removesuffix(first) for k in state if k == first or k.endswith("." + first)), key=len, default="")
    own = {k.removeprefix(before): v for k, v in state.items() if k.startswith(before)}
    return {k: v for k, v in own.items() if not k.endswith(".num_batches_tracked")}


def require_convolution(name: str, weight: torch.Tensor, bias: torch.Tensor, path: Path | str) -> None:
    """UserError unless these are a convolution's: finite, of shapes [O, I, k, k] and [O]."""
    if weight.ndim != 4 or bias.shape != weight.shape[:1]:
        raise UserError(f"{path}: {name} is no convolution (weight {[*weight.shape]}, bias {[*bias.shape]})")
    require_plain({f"{name}.weight": weight, f"{name}.bias": bias}, path)


def fold(
    state: dict[str, torch.Tensor], name: str, norm: str | None = None, biased: bool = True
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight and bias of the convolution `name`, with its batch normalisation `norm` (evaluation mode) folded in.

    `biased` False: the convolution itself has no bias. Raises KeyError where a tensor is missing.
    """
    weight = state[f"{name}.weight"].float()
    bias = state[f"{name}.bias"].float() if biased else weight.new_zeros(len(weight))
    if norm is None:
        return weight, bias
    gain = state[f"{norm}.weight"].float() / torch.sqrt(state[f"{norm}.running_var"].float() + _BN_EPSILON)
    shifted = (bias - state[f"{norm}.running_mean"].float()) * gain + state[f"{norm}.bias"].float()
    return weight * gain.view(-1, 1, 1, 1), shifted
