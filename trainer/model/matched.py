"""Which cell of another view is most similar to a cell, and how often that is the one that shows the same point.

Points are x, y in cells of a map; the middle of cell j is at j + 0.5. A cell is matched if the middle of the most
similar cell lies within one cell of its true point.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def middles(grid: Sequence[int], device: torch.device | str = "cpu") -> Tensor:
    """The middles of a map's cells: float32 [H, W, 2]."""
    y, x = (torch.arange(side, device=device) + 0.5 for side in grid)
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)


def most_similar(query: Tensor, key: Tensor) -> Tensor:
    """For every cell of query [N, C, H, W] the middle of the most similar cell of key [N, C, H, W]: [N, H, W, 2].

    By the cosine of features less their mean over the batch's cells, without which all of an untrained net's point
    the same way.
    """
    q, k = (F.normalize((x.float() - x.float().mean((0, 2, 3), keepdim=True)).flatten(2), dim=1) for x in (query, key))
    best = (q.transpose(1, 2) @ k).argmax(2)
    return middles(key.shape[2:], q.device).flatten(0, 1)[best].view(-1, *query.shape[2:], 2)


def share_matched(found: Tensor, points: Tensor, same: Tensor) -> Tensor:
    """Share of an image's cells that are matched: [N]; nan where no cell's point is seen in both views.

    `found`: places of the other view, [N, H, W, 2] or what broadcasts to it; `points`, `same`: where the cells truly
    are, and whether both views show the object there (`augment.Batch.correspondence`, in cells).
    """
    near = ((found - points).norm(dim=-1) <= 1) & same
    return near.flatten(1).sum(1) / same.flatten(1).sum(1)


def own_beats_rolled(own: Tensor, rolled: Tensor, masks: Tensor) -> Tensor:
    """1 where the mean of C [N, H, W] over the object is higher with the own keys than with another image's, else 0.

    1/2 where they are equal, nan where no cell is the object's (a mask of half or more). [N], chance 1/2.
    """
    foreground = (masks >= 0.5).flatten(1)
    change = ((own - rolled).flatten(1) * foreground).sum(1).float()
    return torch.where(foreground.any(1), (change.sign() + 1) / 2, torch.full_like(change, float("nan")))
