"""The encoder as a file that any torchvision or timm user can load."""

import json
from pathlib import Path

from safetensors.torch import save_file
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
        save_file(tensors, temporary, metadata=metadata)
    return path
