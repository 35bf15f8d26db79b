"""The kinds of policies. A new one is a record in `KINDS`: it says what is cut, and where that goes.

`augment.views.plan` draws by these values, backends follow the plan, and flags, defaults and checks come from here.
Only a patch that is placed in a new way needs more: a branch of `plan._compose`.
"""

from typing import NamedTuple


class Kind(NamedTuple):
    """How a view of such a policy is cut and composed."""

    crop_scale: float  # default of the smallest share that a crop keeps
    boxed: bool = False  # the patch is cut from the source's box, and may cover the background's; else from the image
    pastes: bool = True  # the patch goes on another image; False: it is the whole view
    own_scenes: bool = False  # a view may show its source in its own scene (`Policy.own`)
    maps: bool = False  # the patch's opacity is the source's saliency map


KINDS = {
    "saliencyswap": Kind(0.5, boxed=True, own_scenes=True),
    "rrc": Kind(0.2, pastes=False),  # torchvision's RandomResizedCrop
    "instloc": Kind(0.2),  # Yang et al. 2021
    "copy-paste": Kind(0.5, boxed=True, maps=True),  # DiLo, Zhao et al. 2021
}
