"""The common part of detectors without weights."""

from typing import Any


class Handmade:
    """A detector whose maps depend on its code, its `side` and its `settings` alone."""

    name: str
    side: int
    batch = 32
    gamma = 0.05
    settings: tuple[tuple[str, Any], ...] = ()  # name and value

    def __init__(self, device: str = "cpu") -> None:
        """Tensors that a detector keeps are made on `device`."""

    def describe(self) -> dict[str, Any]:
        """See `Detector`."""
        return {"detector": self.name, "version": 1, "side": self.side, **dict(self.settings)}
