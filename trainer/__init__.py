"""Views to encoder: the training methods with their control arms, and the evaluation of what an encoder learned.

`python -m trainer.run --help` trains; the parts can be used from one's own loop as well:

    from trainer import build_model, alignment_loss, Lars

Nothing heavy is imported before one of these names is asked for.
"""

import importlib
from typing import Any

_PUBLIC = {
    "RunConfig": "trainer.config.run",
    "build_encoder": "trainer.model.resnets",
    "build_model": "trainer.model.networks",
    "feature_maps": "trainer.model.resnets",
    "alignment_loss": "trainer.methods.losses",
    "correspondence": "trainer.methods.losses",
    "negative_cosine": "trainer.methods.losses",
    "Lars": "trainer.engine.optim",
}
__all__ = [*_PUBLIC]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'trainer' has no attribute {name!r}; it offers {', '.join(__all__)}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)
