"""Encoders from anybody's files: torchvision, timm, OpenMixup, lightly, VISSL, BYOL- and MoCo-style ones, our own.

Strict: the file must hold every weight of the encoder in its shape; what it holds beside them is reported.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torchvision.models.resnet import ResNet

from precompute.base.errors import UserError
from precompute.base.weights import differences, load_torch, some
from trainer.model.resnets import BLOCKS, architectures, build_encoder

_VISSL = ("classy_state_dict", "base_model", "trunk")  # the way down to its weights, with "model" on it
_CONTAINERS = ("method", "state_dict", "model", "model_state_dict", "teacher", "student", *_VISSL)
_AVERAGED = ("target", "momentum", "ema", "encoder_k", "teacher", "key")  # prefixes of the slow copy of a network
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
    return fit_encoder(read_state(path), path, arch)


def fit_encoder(state: Mapping[str, Tensor], path: str | Path, arch: str | None = None) -> tuple[ResNet, str, str]:
    """`load_encoder` from tensors that were read from `path`."""
    state = _with_resnet_names(state)
    prefix = _find_prefix(state, path)
    weights = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    name = arch or infer_arch(weights, path)
    encoder = build_encoder(name)
    if faults := _differences(weights, name):
        raise UserError(f"{path} does not fit --arch {name}: {faults}{_its_own_arch(weights, path)}")
    expected = encoder.state_dict()
    require_finite({k: weights[k] for k in expected if k in weights}, path)
    encoder.load_state_dict({k: weights.get(k, v) for k, v in expected.items()})
    unused = sorted(prefix + k for k in weights if k not in expected)  # its classifier, then other networks
    unused += sorted(k for k in state if not k.startswith(prefix))
    under = f" under {prefix!r}" if prefix else ""
    return encoder, name, f"weights: all {len(expected)} tensors of {name} from {path}{under}{not_used(unused)}"


def not_used(names: list[str]) -> str:
    """The tensors of a file that were not loaded, as the end of a sentence."""
    return f"; not used: {some(names)}" if names else ""


def _differences(weights: Mapping[str, Tensor], arch: str) -> str:
    """How `weights` differ from those of the ResNet `arch`; "" where they fit.

    Heads beside its layers do not count, and BatchNorm's counters of steps may be missing.
    """
    with torch.device("meta"):
        shapes = {k: v.shape for k, v in build_encoder(arch).state_dict().items()}
    # Unknown layers do count: a ResNet-34 holds all of a ResNet-18, and half a network is none.
    own = {k: v for k, v in weights.items() if k in shapes or k.startswith("layer")}
    return differences(own, {k: v for k, v in shapes.items() if k in own or not k.endswith("num_batches_tracked")})


def _its_own_arch(weights: Mapping[str, Tensor], path: str | Path) -> str:
    """The architecture that these weights have, as the end of a message."""
    try:
        return f". It holds a {infer_arch(weights, path)}"
    except UserError:
        return ""


def require_finite(weights: Mapping[str, Tensor], path: str | Path) -> None:
    """UserError that names the weights which are not finite."""
    if broken := sorted(k for k, v in weights.items() if not v.isfinite().all()):
        raise UserError(f"{path}: not finite: {some(broken)}. Take the weights of an earlier step")


def read_state(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file or one of torch's, by name. UserError says why there are none."""
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path}: is a folder; name the file of weights in it, such as encoder.safetensors")
    if not path.is_file():
        raise UserError(f"{path}: no such weights file")
    try:
        content = load_file(path) if path.suffix == ".safetensors" else load_torch(path)
    except SafetensorError as error:
        raise UserError(f"{path}: damaged or not a safetensors file ({error})") from error
    while isinstance(content, Mapping) and (inner := next((k for k in _CONTAINERS if k in content), None)):
        content = content[inner]
    if not isinstance(content, Mapping):
        raise UserError(f"{path}: holds {type(content).__name__}, no dictionary of weights")
    tensors = {k: v for k, v in content.items() if isinstance(k, str) and isinstance(v, Tensor)}
    if not tensors:
        names = some([str(k) for k in content])
        raise UserError(f"{path}: no weights in it, and nothing called {', '.join(_CONTAINERS)}. It holds {names}")
    return tensors


def infer_arch(weights: Mapping[str, Tensor], path: str | Path) -> str:
    """The architecture that has exactly these shapes; UserError asks for --arch where none has."""
    width, _, _, kernel = weights[_STEM].shape
    names = [f"resnet{depth}w{width}" for depth in BLOCKS] if kernel == 3 else architectures()
    for name in names:
        if not _differences(weights, name):
            return name
    raise UserError(
        f"{path}: its shapes are those of no ResNet that is known here ({', '.join(architectures())}, or narrow ones). "
        f"If it should be one of them, --arch says what differs; {_OTHERS}"
    )


def prefixes(state: Mapping[str, Tensor], stem: str) -> list[str]:
    """What stands before the first convolution `stem` of every network in `state`, averaged copies last."""
    before = [k.removesuffix(stem) for k, v in state.items() if k.endswith(stem) and v.ndim == 4]
    return sorted(before, key=lambda prefix: (any(word in prefix.lower() for word in _AVERAGED), len(prefix)))


def _with_resnet_names(state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The tensors with the children of an nn.Sequential under a ResNet's own names."""
    parents = prefixes(state, "0.weight")
    sequences = [p for p in parents if p + "4.0.conv1.weight" in state and (not p or p.endswith("."))]

    def name(key: str) -> str:
        for prefix in sequences:
            number, dot, rest = key.removeprefix(prefix).partition(".")
            if key.startswith(prefix) and number in _IN_SEQUENCE:
                return prefix + _IN_SEQUENCE[number] + dot + rest
        return key

    return {name(k): v for k, v in state.items()} if sequences else state


def _find_prefix(state: Mapping[str, Tensor], path: str | Path) -> str:
    """What stands before "conv1.weight" in a network that also has layers; UserError where there is none."""
    if networks := [p for p in prefixes(state, _STEM) if p + _FIRST in state]:
        return networks[0]
    if any(k.endswith(VIT_STEMS) for k in state):
        raise UserError(f"{path}: no ResNet in it, but a ViT (trainer.evaluate takes those, without a ResNet's --arch)")
    if any(k.endswith(_DEEP) for k in state):
        raise UserError(
            f"{path}: a ResNet with a stem of several convolutions, which torchvision has none of: {_OTHERS}"
        )
    raise UserError(f"{path}: no ResNet or ViT in it (no '{_STEM}' beside '{_FIRST}'). It holds {some(sorted(state))}")
