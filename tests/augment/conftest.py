"""Shared by the loader's tests."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def demo(demo_boxes: Path, demo_root: Path) -> tuple[Path, Path]:
    """Root and box file of the small demo set."""
    return demo_root, demo_boxes
