"""Weights of a learned detector from a file that the user points to: .pth (tensors only) or .onnx.

The .onnx reader knows just enough of protocol buffers to list a graph's convolutions and their weights, so that no
further package is needed. Nothing of a file is ever executed.
"""

import hashlib
import pickle
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from precompute.base.errors import UserError

Convolutions = list[tuple[torch.Tensor, torch.Tensor]]  # weight [O, I, k, k] and bias [O], in order of execution

_BN_EPSILON = 1e-5


def sha256(path: Path | str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_onnx(path: Path | str) -> Convolutions:
    """All convolutions of an ONNX graph in its order, float32. Raises UserError where the file is no such graph."""
    try:
        return _onnx_convolutions(Path(path).read_bytes())
    except (struct.error, IndexError, KeyError, ValueError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not an ONNX file that can be read ({error})") from error


def _onnx_convolutions(data: bytes) -> Convolutions:
    # Field numbers of onnx.proto: ModelProto.graph 7; GraphProto.node 1, initializer 5; NodeProto.input 1, op_type 4;
    # TensorProto.dims 1, data_type 2 (1 is float), float_data 4, name 8, raw_data 9.
    graph = next((value for number, value in _fields(data) if number == 7), b"")
    tensors: dict[str, torch.Tensor] = {}
    convolutions = []
    for number, value in _fields(graph):
        if number == 5:
            name, tensor = _tensor(value)
            if tensor is not None:
                tensors[name] = tensor
        elif number == 1:
            parts = list(_fields(value))
            if any(n == 4 and v == b"Conv" for n, v in parts):
                convolutions.append([v.decode() for n, v in parts if n == 1])
    out = []
    for inputs in convolutions:
        weight = tensors[inputs[1]]
        out.append((weight, tensors[inputs[2]] if len(inputs) > 2 else torch.zeros(len(weight))))
    if not out:
        raise ValueError("no convolution in it")
    return out


def _fields(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Field numbers and contents of one protocol-buffer message; numbers come as their bytes, little-endian."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        kind = key & 7
        if kind == 0:
            value, at = _varint(data, at)
            yield key >> 3, value.to_bytes(10, "little")
            continue
        if kind == 2:
            length, at = _varint(data, at)
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
        else:
            raise ValueError(f"unknown field type {kind}")
        if at + length > len(data):
            raise ValueError("it is cut")
        yield key >> 3, data[at : at + length]
        at += length


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
        if shift > 63:
            raise ValueError("a number of more than 64 bits")


def _tensor(message: bytes) -> tuple[str, torch.Tensor | None]:
    """Name and float32 contents of a TensorProto; None for another type."""
    shape, name, raw, floats, kind = [], "", None, [], 0
    for number, value in _fields(message):
        if number == 1:
            shape.append(int.from_bytes(value, "little"))
        elif number == 2:
            kind = int.from_bytes(value, "little")
        elif number == 4:
            floats.append(value)
        elif number == 8:
            name = value.decode()
        elif number == 9:
            raw = value
    if kind != 1:
        return name, None
    values = np.frombuffer(raw if raw is not None else b"".join(floats), "<f4").astype(np.float32)
    return name, torch.from_numpy(values.reshape(shape))


def read_pth(path: Path | str) -> dict[str, torch.Tensor]:
    """A state dict of tensors, loaded with `weights_only`. Raises UserError where the file holds anything else."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises nearly anything on foreign files
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if isinstance(error, pickle.UnpicklingError):  # torch's text advises to run whatever is in the file
            reason = "no file of torch's, or one that holds more than tensors and plain values"
        raise UserError(f"{path}: not a file of tensors that torch can load ({reason})") from error
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict) or not all(isinstance(v, torch.Tensor) for v in content.values()):
        raise UserError(f"{path}: holds no state dict")
    return {key.removeprefix("module."): value for key, value in content.items()}


def fold(
    state: dict[str, torch.Tensor], name: str, norm: str | None, biased: bool = True
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
