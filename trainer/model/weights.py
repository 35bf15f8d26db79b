"""Encoders from anybody's files: torchvision, timm, OpenMixup, lightly, VISSL, BYOL- and MoCo-style ones, our own.

Strict: the file must hold every weight of the encoder in its shape; what it holds beside them is reported.
"""

import contextlib
import functools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchvision.models.resnet import ResNet

from precompute.base.errors import UserError
from precompute.base.weights import differences, flat, load_weights, require_plain, some
from trainer.model.resnets import BLOCKS, CIFAR, STRIDES, architectures, build_encoder, is_resnet

_VISSL = ("classy_state_dict", "base_model", "trunk")  # the way down to its weights, with "model" on it
_CONTAINERS = ("method", "state_dict", "model", "model_state_dict", "teacher", "student", *_VISSL)
_AVERAGED = ("target", "momentum", "ema", "encoder_k", "teacher", "key")  # prefixes of the slow copy of a network
_STEM, _FIRST = "conv1.weight", "layer1.0.conv1.weight"
_DEEP = "conv1.0.weight"  # of timm's resnet50d and the like
_TWINS = ("blur", "resnetaa", "dilated")  # in names: other networks than torchvision's, of the same shapes
_OTHERS = "ResNets of other kinds (deep stems, squeeze-and-excitation, group norm) are not taken"
# A ResNet's children in an nn.Sequential, as lightly's examples keep them; 2 and 3 (ReLU, pooling) have no weights.
_IN_SEQUENCE = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}
VIT_STEMS = ("patch_embed.proj.weight", "conv_proj.weight")  # timm's, torchvision's


class Said(NamedTuple):
    """What a file says of its network: `arch`, "" for nothing. `ours`: this program wrote it, so it is believed."""

    arch: str = ""
    ours: bool = False


def load_encoder(path: str | Path, arch: str | None = None) -> tuple[ResNet, str, str]:
    """The encoder in a weights file, its architecture's name, and a sentence about what was loaded.

    Raises UserError where there is no file, no ResNet in it, the architecture is unknown or differs from `arch`, or
    other networks have the same shapes and nothing says which it is.
    """
    return fit_encoder(*read_said(path), path, arch)


def fit_encoder(
    state: Mapping[str, Tensor], said: Said, path: str | Path, arch: str | None = None
) -> tuple[ResNet, str, str]:
    """`load_encoder` from what was read from `path`."""
    state = _with_resnet_names(state)
    prefix = _find_prefix(state, path)
    weights = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    name = arch or _which(weights, said, path)
    encoder = build_encoder(name)
    if faults := _differences(weights, name):
        raise UserError(f"{path} does not fit --arch {name}: {faults}{_its_own_arch(weights)}")
    if said.ours and said.arch not in ("", name):
        raise UserError(f"{path}: it says that it is a {said.arch}, not --arch {name}: {STRIDES}")
    expected = encoder.state_dict()
    require_plain({k: weights[k] for k in expected if k in weights}, path)
    encoder.load_state_dict({k: weights.get(k, v) for k, v in expected.items()})
    unused = sorted(prefix + k for k in weights if k not in expected)  # its classifier, then other networks
    unused += sorted(k for k in state if not k.startswith(prefix))
    under = f" under {prefix!r}" if prefix else ""
    guessed = (
        "" if arch or said.arch else f"; {name} by its shapes, which blurred or dilated ones share: --arch says so"
    )
    return (
        encoder,
        name,
        f"weights: all {len(expected)} tensors of {name} from {path}{under}{not_used(unused)}{guessed}",
    )


def _which(weights: Mapping[str, Tensor], said: Said, path: str | Path) -> str:
    """The architecture of a file without --arch. UserError asks for it where the shapes cannot tell."""
    if said.ours and is_resnet(said.arch):
        return said.arch
    named = said.arch.partition(".")[0]  # timm's names end with a tag of the training
    if is_resnet(named) and not _differences(weights, named):
        return named
    shape = infer_arch(weights, path)
    if weights[_STEM].shape[-1] == 3 and not said.ours:
        known = " or ".join(_fitting(weights))
        raise UserError(f"{path}: its shapes do not tell its strides: --arch {known}. {STRIDES}")
    hint = next((word for word in _TWINS if word in str(path).lower()), "")
    if said.arch or hint:
        what = f"it says that it is a {said.arch}" if said.arch else f"its name says {hint!r}"
        raise UserError(f"{path}: its shapes are those of {shape}, but {what}. --arch {shape} takes it as that")
    return shape


def not_used(names: list[str]) -> str:
    """The tensors of a file that were not loaded, as the end of a sentence."""
    return f"; not used: {some(names)}" if names else ""


@functools.lru_cache(maxsize=64)
def _shapes(arch: str) -> dict[str, torch.Size]:
    """The shapes of a ResNet's weights by name. Networks without values take a quarter of a second, too."""
    with torch.device("meta"):
        return {k: v.shape for k, v in build_encoder(arch).state_dict().items()}


def _differences(weights: Mapping[str, Tensor], arch: str) -> str:
    """How `weights` differ from those of the ResNet `arch`; "" where they fit.

    Heads beside its layers do not count, and BatchNorm's counters of steps may be missing.
    """
    shapes = _shapes(arch)
    # Unknown layers do count: a ResNet-34 holds all of a ResNet-18, and half a network is none.
    own = {k: v for k, v in weights.items() if k in shapes or k.startswith("layer")}
    return differences(own, {k: v for k, v in shapes.items() if k in own or not k.endswith("num_batches_tracked")})


def _its_own_arch(weights: Mapping[str, Tensor]) -> str:
    """The architectures that have these weights' shapes, as the end of a message."""
    found = " or ".join(_fitting(weights))
    return f". It holds a {found}" if found else ""


def read_said(path: str | Path) -> tuple[dict[str, Tensor], Said]:
    """The tensors of a weights file by name, and what it says of its network. UserError says why there are none."""
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path}: is a folder; name the file of weights in it, such as encoder.safetensors")
    if not path.is_file():
        raise UserError(f"{path}: no such weights file")
    content, words = load_weights(path)
    said = _said(content, words, path)
    for _ in range(8):  # a file may hold itself
        if not isinstance(content, Mapping):
            break
        inner = next((content[k] for k in _CONTAINERS if k in content and flat(content[k])), None)
        if not isinstance(inner, Mapping):
            break
        content = inner
    if not isinstance(content, Mapping):
        raise UserError(f"{path}: holds {type(content).__name__}, no dictionary of weights")
    if not (tensors := flat(content)):
        raise UserError(f"{path}: no weights in it. It holds {some([str(k) for k in content])}")
    return tensors, said


def _said(content: Any, words: Mapping[str, str], path: Path) -> Said:
    """Our own files name their architecture in "arch" or their settings; others in "arch" or a config.json beside."""
    if "config" in words and "arch" in words:
        return Said(words["arch"], ours=True)
    found = content if isinstance(content, Mapping) else {}
    if "schema" in found and "method" in found:
        config = found.get("config")
        model = config.get("model") if isinstance(config, Mapping) else None
        places = [place for place in (model, config) if isinstance(place, Mapping)]
        return Said(next((str(place["arch"]) for place in places if "arch" in place), ""), ours=True)
    beside: Any = {}
    with contextlib.suppress(OSError, ValueError, RecursionError):  # mostly there is none
        beside = json.loads((path.parent / "config.json").read_text())
    places = [words, found, *(found.get(k) for k in ("args", "hyper_parameters", "config")), beside]
    for place in places:
        for key in ("arch", "architecture", "model", "backbone"):
            if isinstance(place, Mapping) and isinstance(name := place.get(key), str) and "resn" in name.lower():
                return Said(name)
    return Said()


def infer_arch(weights: Mapping[str, Tensor], path: str | Path) -> str:
    """The first architecture that has exactly these shapes; UserError asks for --arch where none has."""
    if found := next(_fitting(weights), None):
        return found
    raise UserError(
        f"{path}: its shapes are those of no ResNet that is known here ({', '.join(architectures())}, or narrow ones). "
        f"If it should be one of them, --arch says what differs; {_OTHERS}"
    )


def _fitting(weights: Mapping[str, Tensor]) -> Iterator[str]:
    """The architectures that have exactly these shapes."""
    width, _, _, kernel = weights[_STEM].shape
    names = architectures()
    if kernel == 3:
        narrow = [f"resnet{depth}w{width}" for depth in BLOCKS] if 0 < width < 10_000 else []
        names = narrow + [name + CIFAR for name in names]
    return (name for name in names if not _differences(weights, name))


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
