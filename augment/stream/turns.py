"""Quarter turns of finished views, the last step: the same pixels moved, so one place serves every backend."""

from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from torch import Tensor

    from augment.views.plan import Plan


def turned(views: "tuple[Tensor, ...]", plan: "Plan") -> "tuple[Tensor, ...]":
    """Views [N, 3, S, S] turned in place by the plan's number of quarter turns, counter-clockwise."""
    for v, view in enumerate(views):
        for turn in (1, 2, 3):
            rows = np.flatnonzero(plan.turns[:, v] == turn)
            if len(rows):
                chosen = torch.from_numpy(rows).to(view.device, non_blocking=True)
                view[chosen] = view[chosen].rot90(turn, (2, 3))
    return views
