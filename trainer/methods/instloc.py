"""InsLoc (Yang et al. 2021): MoCo v2 whose features are pooled where the instance was pasted, not over the whole view.

The original pools by RoIAlign through a detector's neck; here stage 4's cells are averaged with the exact share that
the pasted rectangle covers as weight. Meant for `--policy instloc`, and good with any policy that pastes.
"""

from collections.abc import Iterator, Sequence

from torch import Tensor

from trainer.methods.base import Masks, Matches, Part
from trainer.methods.moco import MocoV2
from trainer.methods.registry import method


@method(
    "instloc",
    "mocov2 with features that are pooled where the instance was pasted",
    optimizer="sgd",
    queue=True,
    pools_at=(4,),
    needs_pasting="there is nowhere to pool. Use --policy instloc, or --method mocov2",
    options=("dim", "mask"),
)
class InstLoc(MocoV2):
    """InfoNCE between the instance's features in both views, a queue of keys as negatives."""

    def parts(self, views: Sequence[Tensor], masks: Masks, matches: Matches = ()) -> Iterator[Part]:
        """One part."""
        key = self.key(views[1], masks[1][4])
        yield self.contrast(self.forward_online(views[0], masks[0][4]), key)
