"""The encoder as a file that any torchvision or timm user can load."""

import json
from pathlib import Path

from safetensors.torch import save
from torchvision.models.resnet import ResNet

from precompute.base.files import replacing
from precompute.base.options import as_json
from trainer.config.run import FREE, RunConfig
from trainer.record import ENCODER as NAME


def save_encoder(encoder: ResNet, folder: Path, config: RunConfig) -> Path:
    """Writes weights and BN statistics in torchvision's names, contiguous NCHW, float32; the config as metadata.

    Settings that do not enter the mathematics (paths, device, ...) are left out of it.
    """
    tensors = {name: value.detach().cpu().contiguous() for name, value in encoder.state_dict().items()}
    settings = {name: value for name, value in as_json(config).items() if name not in FREE}
    metadata = {"format": "pt", "arch": config.model.arch, "config": json.dumps(settings)}
    path = folder / NAME
    with replacing(path) as temporary:
        temporary.write_bytes(_ordered(save(tensors, metadata)))  # save_file's error on a full disk is not an OSError
    return path


def _ordered(data: bytes) -> bytes:
    """The file with its metadata in the order of their names.

    safetensors 0.8.0 writes them in a random one, so that two files of equal weights would differ.
    """
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # the tensors begin at a multiple of 8
    return len(text).to_bytes(8, "little") + text + data[8 + size :]
