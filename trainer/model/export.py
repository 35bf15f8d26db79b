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

    Equal runs give equal files, wherever they lay: without what does not enter the mathematics.
    """
    tensors = {name: value.detach().cpu().contiguous() for name, value in encoder.state_dict().items()}
    told = {name: value for name, value in as_json(config).items() if name not in FREE}
    metadata = {"format": "pt", "arch": config.model.arch, "config": json.dumps(told)}
    path = folder / NAME
    with replacing(path) as temporary:
        temporary.write_bytes(_in_order(save(tensors, metadata)))  # save_file's error on a full disk is not an OSError
    return path


def _in_order(file: bytes) -> bytes:
    """The same file with its header's keys sorted: safetensors writes metadata in a random order."""
    end = 8 + int.from_bytes(file[:8], "little")
    header = json.dumps(json.loads(file[8:end]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + file[end:]
