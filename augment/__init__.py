"""Box file + images → views with their geometry. The public names; each is imported when it is first used."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from augment.open import open_views
    from augment.request import Making, Share, Source
    from augment.stream.batch import Batch
    from augment.stream.evaluation import eval_images
    from augment.stream.loader import ViewLoader
    from augment.views.plan import Plan
    from augment.views.policy import Policy

__all__ = ["Batch", "Making", "Plan", "Policy", "Share", "Source", "ViewLoader", "eval_images", "open_views"]

_HOMES = {
    "Batch": "augment.stream.batch",
    "Making": "augment.request",
    "Plan": "augment.views.plan",
    "Policy": "augment.views.policy",
    "Share": "augment.request",
    "Source": "augment.request",
    "ViewLoader": "augment.stream.loader",
    "eval_images": "augment.stream.evaluation",
    "open_views": "augment.open",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'augment' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
