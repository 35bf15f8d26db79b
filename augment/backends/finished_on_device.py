"""Crops from CPUs, finished on a GPU: what a training makes of its helpers' crops where its views are on CUDA."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from augment.backends.decoded import Picture
from augment.backends.fused import FusedBackend
from augment.backends.fused_cuda import finish_views, put
from augment.request import Making
from augment.views.plan import Plan
from augment.views.policy import Policy


class FinishedOnDevice(FusedBackend):
    """Decodes and cuts on the CPU; the crops' bytes go to the device, where kernels paste, colour, blur and normalise.

    So a batch that is made here is, to the bit, the one that is finished here of a helper's crops. `FusedCudaBackend`
    decodes on the device, by another decoder, and its crops are a little different.
    """

    def __init__(self, policy: Policy, making: Making, *, compiled: bool = True) -> None:
        """See `FusedBackend`."""
        super().__init__(policy, making, compiled=compiled)
        self._device = torch.device(making.device)

    def finish(self, plan: Plan, crops: np.ndarray, kept: Sequence[Picture] = ()) -> tuple[Tensor, ...]:
        """See `FusedBackend`; on the device. `crops` is only read."""
        layout = self._layout_of(plan, crops)
        there = put(self._device, crops=crops)["crops"]
        return finish_views(self.policy, plan, there, layout.scenes, layout.patches, self.dtype)
