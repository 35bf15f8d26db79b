"""A sheet of held-out pictures with what an encoder sees in them, without labels: `trainer.evaluate --gallery`.

Columns, all on the cells of the last map f [C, H, W]:
  Grad-CAM     of the similarity of a picture with its mirror image, cos(mean f(x), mean f(mirrored x)), the quantity
               that BYOL raises: relu(Σ_c α_c f_c), α_c the mean gradient over the cells (Selvaraju et al. 2017, without
               a class)
  similarity   cos(f at a cell, mean f(mirrored x)): the paper's C map (Eq. 3) with the encoder's own features in place
               of the heads, which weights files do not hold; a run's own C maps are in its localisation.png
  energy       the length of f
The green frame is the picture's box. Titles give the AUC of the cells against it, mean over all pictures shown.
"""

import importlib.util
from collections.abc import Callable
from math import isfinite
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from precompute.base.errors import UserError
from precompute.base.files import replacing
from trainer.evaluation.localise import box_masks, centre_prior, figures
from trainer.evaluation.protocols import Bench
from trainer.model.encoders import Encoder, maps

COLUMNS = ("Grad-CAM", "similarity", "energy")


def require() -> None:
    """Raises UserError where matplotlib is not installed."""
    if importlib.util.find_spec("matplotlib") is None:
        raise UserError("--gallery needs matplotlib. Remedy: pip install 'saliencyswap[plots]'")


def score_maps(encoder: Encoder, images: Tensor) -> dict[str, Tensor]:
    """The maps of `COLUMNS`, [N, H, W] each, of normalised images [N, 3, S, S]; the encoder is not changed."""
    with torch.no_grad():
        mirrored = maps(encoder, images.flip(3)).float().mean((2, 3))
    with torch.enable_grad():
        # Frozen weights take no gradients, so the graph starts at the map.
        f = maps(encoder, images).float().detach().requires_grad_()
        similarity = F.cosine_similarity(f.mean((2, 3)), mirrored)
        (gradient,) = torch.autograd.grad(similarity.sum(), f)
    f = f.detach()
    cam = (gradient.mean((2, 3))[:, :, None, None] * f).sum(1).relu()
    return {"Grad-CAM": cam, "similarity": F.cosine_similarity(f, mirrored[:, :, None, None]), "energy": f.norm(dim=1)}


def write_gallery(encoder: Encoder, bench: Bench, path: Path, say: Callable[[str], None], count: int = 12) -> None:
    """Draws the first pictures of each class (or of the split, where there are no classes) and writes a PNG.

    Raises UserError where the folder is missing or cannot be written.
    """
    require()
    images, boxes = _pictures(bench, count)
    encoder.eval()
    found = score_maps(encoder, images.to(bench.device).contiguous(memory_format=torch.channels_last))
    grid = found["energy"].shape[-1]
    truth = box_masks(boxes, grid)
    aucs = {name: figures(found[name].cpu(), truth).auc for name in COLUMNS}
    prior = figures(centre_prior(grid).expand_as(truth), truth).auc
    _draw(images, boxes, {name: found[name].cpu() for name in COLUMNS}, aucs, prior, path)
    told = ", ".join(_with(name, auc) for name, auc in (*aucs.items(), ("centre prior", prior)))
    note = "" if isfinite(prior) else " there is none: the boxes cover every cell or none;"
    say(f"gallery: {path} ({len(images)} pictures; AUC against their boxes:{note} {told})")


def _with(name: str, auc: float) -> str:
    """A map's name and its AUC, where it has one."""
    return f"{name} {auc:.3f}" if isfinite(auc) else name


def _pictures(bench: Bench, count: int) -> tuple[Tensor, Tensor]:
    """`count` held-out pictures [N, 3, S, S] of as many classes as there are, and their boxes [N, 4]."""
    cache = bench.data.cache
    rows = cache.indices(bench.data.split(bench.test_split))
    rank: dict[int, int] = {}  # how many of its class came before a row
    order = []
    for row in rows.tolist():
        label = int(cache.labels[row])
        rank[label] = rank.get(label, -1) + 1
        order.append((rank[label], row))
    chosen = sorted(row for _, row in sorted(order)[:count])
    pictures: dict[int, Tensor] = {}
    for images, indices in bench.images(bench.test_split, "whole"):
        pictures |= {row: image.cpu() for row, image in zip(indices.tolist(), images, strict=True) if row in chosen}
        if len(pictures) == len(chosen):
            break
    return torch.stack([pictures[row] for row in chosen]), torch.from_numpy(cache.boxes[chosen])


def _draw(
    images: Tensor, boxes: Tensor, found: dict[str, Tensor], aucs: dict[str, float], prior: float, path: Path
) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.patches import Rectangle

    from trainer.evaluation.run_report import as_picture

    across = 2 if len(images) > 1 else 1  # pictures side by side
    rows = -(-len(images) // across)
    widths = [1.0] * 4 + ([0.2] + [1.0] * 4) * (across - 1)  # with a gap between the two
    figure, axes = plt.subplots(
        rows, len(widths), figsize=(1.6 * sum(widths), 1.7 * rows + 0.3), width_ratios=widths, layout="constrained",
        squeeze=False,
    )  # fmt: skip
    figure.suptitle("Maps without labels, and the AUC of their cells against the boxes (green)", fontsize=9)
    for panel in axes.flat:
        panel.set_axis_off()
    for i, (image, (x0, y0, x1, y1)) in enumerate(zip(images, boxes.tolist(), strict=True)):
        picture, side = as_picture(image), image.shape[-1]
        panels = axes[i // across, 5 * (i % across) : 5 * (i % across) + 4]
        for panel, name in zip(panels, ("picture", *COLUMNS), strict=True):
            panel.imshow(picture)
            if name != "picture":
                cells = found[name][i]
                low, high = cells.min(), cells.max()
                scaled = ((cells - low) / (high - low).clamp_min(1e-12))[None, None]
                shown = F.interpolate(scaled, size=(side, side), mode="bilinear", align_corners=False)[0, 0]
                panel.imshow(shown.numpy(), cmap="inferno", alpha=0.6, vmin=0, vmax=1)
            frame = ((x0 * side, y0 * side), (x1 - x0) * side, (y1 - y0) * side)
            panel.add_patch(Rectangle(*frame, fill=False, edgecolor="lime", linewidth=1.2))
            if i < across:
                title = f"picture; {_with('centre prior', prior)}" if name == "picture" else _with(name, aucs[name])
                panel.set_title(title, fontsize=8)
    try:
        with replacing(path) as temporary:
            figure.savefig(temporary, dpi=100, format="png", metadata={"Software": None})
    finally:
        plt.close(figure)
