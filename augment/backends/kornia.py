"""The fallback: Kornia's operators (torch's where Kornia's mean something else), wherever torch runs."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import kornia.color
import kornia.enhance
import kornia.filters
import numpy as np
import torch
from torch import Tensor

from augment.backends.protocol import Backend
from augment.backends.torch_ops import crop_resize, decode
from augment.request import Making
from augment.views import colour
from augment.views.plan import BRIGHTNESS, CONTRAST, HUE, SATURATION, Plan
from augment.views.policy import Policy, blur_radius


class KorniaBackend(Backend):
    """Decodes, crops and composes on the host, then colours, blurs and normalises whole batches on `device`."""

    name = "kornia"

    def __init__(self, policy: Policy, making: Making) -> None:
        self.policy, self.device, self.dtype = policy, torch.device(making.device), making.dtype
        self._threads = ThreadPoolExecutor(making.workers, thread_name_prefix="augment-kornia")

    def render(self, plan: Plan, files: Sequence[bytes]) -> tuple[Tensor, ...]:
        """See `augment.backends.protocol.Backend`."""
        images = list(self._threads.map(decode, files))
        return tuple(self.apply(plan, images, v) for v in range(plan.views))

    def apply(self, plan: Plan, images: Sequence[Tensor], v: int) -> Tensor:
        """View v of all sources from decoded images, uint8 [3, H, W] each."""
        composed = compose(plan, images, v).to(self.device)
        flip = torch.from_numpy(plan.flip[:, v]).to(self.device)
        view = torch.where(flip[:, None, None, None], composed.flip(-1), composed).float() / 255
        if self.policy.colour == "linear":
            view = linear_colour(view, *colour.collapse(plan.jitter[:, v], plan.gray[:, v]))
        else:
            view = torchvision_colour(view, plan, v)
        view = blur(view, plan.sigma[:, v])
        mean, std = (
            torch.tensor(x, dtype=torch.float32, device=self.device)[:, None, None]
            for x in (self.policy.mean, self.policy.std)
        )
        return ((view - mean) / std).to(self.dtype).contiguous(memory_format=torch.channels_last)

    def close(self) -> None:
        """Ends the threads."""
        self._threads.shutdown(cancel_futures=True)


def compose(plan: Plan, images: Sequence[Tensor], v: int) -> Tensor:
    """View v before flip and colour: uint8 [B, 3, size, size]."""
    size = plan.size
    canvas = torch.empty((len(plan), 3, size, size), dtype=torch.uint8, memory_format=torch.channels_last)
    for i in range(len(plan)):
        x0, y0, x1, y1 = plan.rects[i, v].tolist()
        width, height = max(x1 - x0, 0), max(y1 - y0, 0)
        if width < size or height < size or plan.alpha is not None:
            canvas[i] = crop_resize(images[plan.background_slot[i, v]], plan.scene[i, v], size, size)
        if width and height:
            patch = crop_resize(images[plan.source_slot[i]], plan.patch[i, v], height, width)
            if plan.alpha is not None:
                under, alpha = canvas[i, :, y0:y1, x0:x1], torch.from_numpy(plan.alpha[i, v, y0:y1, x0:x1]).int()
                patch = ((alpha * patch + (255 - alpha) * under + 127) // 255).to(torch.uint8)
            canvas[i, :, y0:y1, x0:x1] = patch
    return canvas


def linear_colour(view: Tensor, m: np.ndarray, k: np.ndarray) -> Tensor:
    """y = M·x + K·mean(x), clamped to [0, 1]; `view` float [B, 3, S, S]."""
    matrix, offset = torch.from_numpy(m).to(view.device), torch.from_numpy(k).to(view.device)
    shift = (offset @ view.mean(dim=(2, 3))[..., None])[..., None]
    return (torch.einsum("bij,bjhw->bihw", matrix, view) + shift).clamp_(0, 1)


def torchvision_colour(view: Tensor, plan: Plan, v: int) -> Tensor:
    """Brightness, contrast about the mean luma, saturation, HSV hue in each view's own order, clamped after each."""
    view = view.clone()
    for step in range(4):
        for op in (BRIGHTNESS, CONTRAST, SATURATION, HUE):
            chosen = np.flatnonzero((plan.order[:, v, step] == op) & plan.jittered[:, v])
            if len(chosen):
                rows = torch.from_numpy(chosen).to(view.device)
                view[rows] = _OPERATIONS[op](view[rows], torch.from_numpy(plan.jitter[chosen, v, op]).to(view.device))
    rows = torch.from_numpy(np.flatnonzero(plan.gray[:, v])).to(view.device)
    if len(rows):
        view[rows] = kornia.color.rgb_to_grayscale(view[rows]).expand(-1, 3, -1, -1)
    return view


def _contrast(view: Tensor, factor: Tensor) -> Tensor:
    """Kornia's contrast. A single view is doubled: torch sums a single mean in as many parts as it has threads."""
    if len(view) > 1:
        return kornia.enhance.adjust_contrast_with_mean_subtraction(view, factor)
    return kornia.enhance.adjust_contrast_with_mean_subtraction(view.expand(2, -1, -1, -1), factor.expand(2))[:1]


_OPERATIONS: dict[int, Callable[[Tensor, Tensor], Tensor]] = {
    BRIGHTNESS: kornia.enhance.adjust_brightness_accumulative,
    CONTRAST: _contrast,
    SATURATION: kornia.enhance.adjust_saturation_with_gray_subtraction,
    HUE: lambda view, turns: kornia.enhance.adjust_hue(view, turns * (2 * torch.pi)),
}


def blur(view: Tensor, sigma: np.ndarray) -> Tensor:
    """Gaussian blur with each view's own sigma (0: none), window 2·ceil(3σ) + 1, borders reflected without the edge."""
    radius = np.array([blur_radius(s) for s in sigma])
    view = view.clone()
    for r in sorted(set(radius[sigma > 0].tolist())):
        rows = torch.from_numpy(np.flatnonzero((radius == r) & (sigma > 0))).to(view.device)
        sigmas = torch.from_numpy(sigma[rows.cpu().numpy()]).to(view.device)
        window = (2 * r + 1, 2 * r + 1)
        view[rows] = kornia.filters.gaussian_blur2d(view[rows], window, sigmas[:, None].expand(-1, 2), "reflect")
    return view
