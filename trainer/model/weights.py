"""Encoders from anybody's files: torchvision, timm, OpenMixup, lightly, VISSL, BYOL- and MoCo-style ones, our own.

Strict: every weight of the encoder must be found with its shape, and what the file holds beside it is reported.
"""

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision.models.resnet import ResNet

from precompute.base.errors import UserError
from trainer.model.resnets import BLOCKS, architectures, build_encoder

_VISSL = ("classy_state_dict", "base_model", "trunk")  # the way down to its weights, with "model" on it
_CONTAINERS = ("method", "state_dict", "model", "model_state_dict", "teacher", "student", *_VISSL)
AVERAGED = ("target", "momentum", "ema", "encoder_k", "teacher", "key")  # prefixes of the slow copy of a network
_STEM, _FIRST = "conv1.weight", "layer1.0.conv1.weight"
_DEEP = "conv1.0.weight"  # of timm's resnet50d and the like
_OTHERS = "ResNets of other kinds (deep stems, squeeze-and-excitation, group norm) are not taken"
# A ResNet's children in an nn.Sequential, as lightly's examples keep them; 2 and 3 (ReLU, pooling) have no weights.
_IN_SEQUENCE = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}
VIT_STEMS = ("patch_embed.proj.weight", "conv_proj.weight")  # timm's, torchvision's


def load_encoder(path: str | Path, arch: str | None = None) -> tuple[ResNet, str, str]:
    """The encoder in a weights file, its architecture's name, and a sentence about what was loaded.

    Raises UserError where there is no file, no ResNet in it, the architecture is unknown or differs from `arch`.
    """
    return fit_encoder(read_state(Path(path)), path, arch)


def fit_encoder(state: Mapping[str, Tensor], path: str | Path, arch: str | None = None) -> tuple[ResNet, str, str]:
    """`load_encoder` from tensors that were read from `path`."""
    state = _named(state)
    prefix = _find_prefix(state, path)
    weights = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    found = arch or infer_arch(weights, path)
    encoder = build_encoder(found)
    expected = encoder.state_dict()
    missing = sorted(k for k in expected if k not in weights and not k.endswith("num_batches_tracked"))
    wrong = sorted(k for k in expected if k in weights and weights[k].shape != expected[k].shape)
    # A ResNet-34 holds all of a ResNet-18: half a network is none.
    more = sorted(k for k in weights if k.startswith("layer") and k not in expected)
    if missing or wrong or more:
        what = [f"missing {some(missing)}"] * bool(missing) + [f"of another shape {some(wrong)}"] * bool(wrong)
        what += [f"{some(more)} left over"] * bool(more)
        raise UserError(f"{path} does not fit --arch {found}: {'; '.join(what)}{_fitting(weights, path)}")
    refuse_broken({k: weights[k] for k in expected if k in weights}, path)
    encoder.load_state_dict({k: weights.get(k, v) for k, v in expected.items()})
    ignored = [k for k in state if not k.startswith(prefix) or k.removeprefix(prefix) not in expected]
    ignored.sort(key=lambda k: (not k.startswith(prefix), k))  # first what stands beside the encoder
    under = f" under {prefix!r}" if prefix else ""
    left = f"; not used: {some(ignored)}" if ignored else ""
    return encoder, found, f"weights: all {len(expected)} tensors of {found} from {path}{under}{left}"


def _fitting(weights: Mapping[str, Tensor], path: str | Path) -> str:
    """The architecture that these weights are of, as the end of a message."""
    try:
        return f". It holds a {infer_arch(weights, path)}"
    except UserError:
        return ""


def refuse_broken(weights: Mapping[str, Tensor], path: str | Path) -> None:
    """UserError that names the weights which are not finite."""
    if broken := sorted(k for k, v in weights.items() if not v.isfinite().all()):
        raise UserError(f"{path}: not finite: {some(broken)}. Take the weights of an earlier step")


def read_state(path: Path) -> dict[str, Tensor]:
    """The flat tensors of a weights file (.safetensors, or torch's formats read with weights_only)."""
    if path.is_dir():
        raise UserError(f"{path}: is a folder; name the file of weights in it, such as encoder.safetensors")
    if not path.is_file():
        raise UserError(f"{path}: no such weights file")
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except SafetensorError as error:
            raise UserError(f"{path}: damaged or not a safetensors file ({error})") from error
    try:
        found: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises half a dozen kinds for files that are not its own
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
        raise UserError(
            f"{path}: cannot be read as torch weights ({reason}); .safetensors and torch's .pth are read"
        ) from error
    while isinstance(found, Mapping) and (inner := next((k for k in _CONTAINERS if k in found), None)):
        found = found[inner]
    if not isinstance(found, Mapping):
        raise UserError(f"{path}: holds {type(found).__name__}, no dictionary of weights")
    tensors = {k: v for k, v in found.items() if isinstance(k, str) and isinstance(v, Tensor)}
    if not tensors:
        held = some([str(k) for k in found])
        raise UserError(f"{path}: no weights in it, and nothing called {', '.join(_CONTAINERS)}. It holds {held}")
    return tensors


def infer_arch(weights: Mapping[str, Tensor], path: str | Path) -> str:
    """The architecture that has exactly these shapes; UserError asks for --arch where none has."""
    shapes = {k: v.shape for k, v in weights.items()}
    width = shapes[_STEM][0]
    names = [f"resnet{depth}w{width}" for depth in BLOCKS] if shapes[_STEM][-1] == 3 else architectures()
    for name in names:
        with torch.device("meta"):
            expected = build_encoder(name).state_dict()
        wanted = {k: v.shape for k, v in expected.items() if not k.endswith("num_batches_tracked")}
        layers = {k for k in shapes if k.startswith("layer") and not k.endswith("num_batches_tracked")}
        if layers <= wanted.keys() and all(shapes.get(k) == shape for k, shape in wanted.items()):
            return name
    raise UserError(
        f"{path}: its shapes are those of no ResNet that is known here ({', '.join(architectures())}, or narrow ones). "
        f"If it should be one of them, --arch tells what differs; {_OTHERS}"
    )


def _named(state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The tensors with the children of an nn.Sequential under a ResNet's own names."""
    stem, first = "0.weight", "4.0.conv1.weight"
    stems = [k.removesuffix(stem) for k, v in state.items() if k.endswith(stem) and v.ndim == 4]
    prefixes = [p for p in stems if p + first in state and (not p or p.endswith("."))]

    def name(key: str) -> str:
        for prefix in prefixes:
            number, dot, rest = key.removeprefix(prefix).partition(".")
            if key.startswith(prefix) and number in _IN_SEQUENCE:
                return prefix + _IN_SEQUENCE[number] + dot + rest
        return key

    return {name(k): v for k, v in state.items()} if prefixes else state


def _find_prefix(state: Mapping[str, Tensor], path: str | Path) -> str:
    """What stands before "conv1.weight" in a network that also has layers; the online copy before the averaged one."""
    prefixes = [
        k.removesuffix(_STEM)
        for k, v in state.items()
        if k.endswith(_STEM) and v.ndim == 4 and k.removesuffix(_STEM) + _FIRST in state
    ]
    if not prefixes and any(k.endswith(VIT_STEMS) for k in state):
        raise UserError(f"{path}: no ResNet in it, but a ViT (trainer.evaluate takes those, without a ResNet's --arch)")
    if not prefixes and any(k.endswith(_DEEP) for k in state):
        raise UserError(
            f"{path}: a ResNet with a stem of several convolutions, which torchvision has none of: {_OTHERS}"
        )
    if not prefixes:
        raise UserError(
            f"{path}: no ResNet or ViT in it (no '{_STEM}' beside '{_FIRST}'). It holds {some(sorted(state))}"
        )
    return min(prefixes, key=lambda p: (any(word in p.lower() for word in AVERAGED), len(p)))


def some(names: list[str]) -> str:
    """The first few names, for a message."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
