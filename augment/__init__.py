"""Box file + images → views with their geometry. The public names; each is imported when it is first used."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from augment.batch import Batch
    from augment.evaluation import eval_images
    from augment.loader import ViewLoader
    from augment.open import open_views
    from augment.plan import Plan
    from augment.policy import Policy

__all__ = ["Batch", "Plan", "Policy", "ViewLoader", "eval_images", "open_views"]

_HOMES = {
    "Batch": "augment.batch",
    "Plan": "augment.plan",
    "Policy": "augment.policy",
    "ViewLoader": "augment.loader",
    "eval_images": "augment.evaluation",
    "open_views": "augment.open",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'augment' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
