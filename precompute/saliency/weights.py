"""Weights of a learned detector from a file that the user points to: .pth (tensors only) or .onnx.

Nothing of a file is ever executed.
"""

import hashlib
from pathlib import Path

import torch

from precompute.base.errors import UserError
from precompute.base.weights import load_torch

Convolutions = list[tuple[torch.Tensor, torch.Tensor]]  # weight [O, I, k, k] and bias [O], in order of execution

_BN_EPSILON = 1e-5


def sha256(path: Path | str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_onnx(path: Path | str) -> Convolutions:
    """All convolutions of an ONNX graph in its order, float32. Raises UserError where the file is no such graph."""
    try:
        import onnx
        from google.protobuf.message import DecodeError
    except ImportError:
        raise UserError(f"{path}: .onnx files are read by the package onnx: pip install 'saliencyswap[onnx]'") from None
    try:
        graph = onnx.load(path, load_external_data=False).graph
        floats = onnx.TensorProto.FLOAT
        tensors = {t.name: t for t in graph.initializer if t.data_type == floats and not t.external_data}
        out = []
        for node in graph.node:
            if node.op_type == "Conv":
                weight, *bias = (torch.tensor(onnx.numpy_helper.to_array(tensors[name])) for name in node.input[1:])
                out.append((weight, *(bias or [torch.zeros(len(weight))])))
    except (DecodeError, KeyError, ValueError) as error:
        raise UserError(f"{path}: not an ONNX file that can be read ({error})") from error
    if not out:
        raise UserError(f"{path}: not an ONNX file that can be read (no convolution in it)")
    return out


def read_pth(path: Path | str) -> dict[str, torch.Tensor]:
    """A state dict of tensors. Raises UserError where the file holds anything else; nothing in it is executed."""
    content = load_torch(path)
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict) or not all(isinstance(v, torch.Tensor) for v in content.values()):
        raise UserError(f"{path}: holds no state dict")
    return {key.removeprefix("module."): value for key, value in content.items()}


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
