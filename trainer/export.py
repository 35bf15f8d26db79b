"""The encoder as a file that any torchvision or timm user can load."""

import json
from pathlib import Path

from safetensors.torch import save
from torchvision.models.resnet import ResNet

from precompute.cli import as_json
from precompute.files import replacing
from trainer.config import RunConfig

NAME = "encoder.safetensors"


def save_encoder(encoder: ResNet, folder: Path, config: RunConfig) -> Path:
    """Writes weights and BN statistics in torchvision's names, contiguous NCHW, float32; the config as metadata."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in encoder.state_dict().items()}
    metadata = {"format": "pt", "arch": config.arch, "config": json.dumps(as_json(config))}
    path = folder / NAME
    with replacing(path) as temporary:
        temporary.write_bytes(save(tensors, metadata))  # save_file's error on a full disk is not an OSError
    return path
