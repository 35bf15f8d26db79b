"""Shared by the trainer's tests: a batch of real photographs, two threads."""

from pathlib import Path

import pytest
import torch
from trainer_photos import PhotoBatch, photo_batch


@pytest.fixture(scope="session")
def photos(shared_data: Path) -> PhotoBatch:
    """Eight real birds as two 64-pixel views each."""
    return photo_batch(shared_data / "CUB_200_2011", count=8, size=64)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
