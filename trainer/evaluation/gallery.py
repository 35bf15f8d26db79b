"""A sheet of held-out pictures with what an encoder sees in them, without labels: `trainer.evaluate --gallery`.

Columns, all on the cells of the last map f [C, H, W]:
  Grad-CAM     of the similarity of a picture with its mirror image, cos(mean f(x), mean f(mirrored x)), the quantity
               that BYOL raises: relu(Σ_c α_c f_c), α_c the mean gradient over the cells (Selvaraju et al. 2017, without
               a class)
  similarity   cos(f at a cell, mean f(mirrored x)): the paper's C map (Eq. 3) with the encoder's own features in place
               of the heads, which weights files do not hold; a run's own C maps are in its localisation.png
  energy       |f| at a cell
The green frame is the picture's box. The title gives the AUC of the cells against it, mean over all pictures shown.
"""

from collections.abc import Callable
from math import isfinite

import torch
import torch.nn.functional as F
from torch import Tensor

from precompute.base.sheet import GREEN, Tile, contact_sheet, save
from trainer.evaluation.bench import Bench
from trainer.evaluation.localise import box_masks, centre_prior, figures
from trainer.evaluation.pictures import as_pictures
from trainer.model.encoders import Encoder, maps


def score_maps(encoder: Encoder, images: Tensor) -> dict[str, Tensor]:
    """The three maps, [N, H, W] each, of normalised images [N, 3, S, S]; the encoder is not changed."""
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


def write_gallery(encoder: Encoder, bench: Bench, path: str, say: Callable[[str], None], count: int = 12) -> None:
    """Writes a sheet of the first pictures of each class (or of a split without classes) with their maps.

    Raises OSError where it cannot be written.
    """
    rows, images = _pictures(bench, count)
    boxes = torch.from_numpy(bench.data.cache.boxes[rows])
    encoder.eval()
    there = images.to(bench.making.device).contiguous(memory_format=torch.channels_last)
    scores = {name: of.cpu() for name, of in score_maps(encoder, there).items()}
    grid = scores["energy"].shape[-1]
    truth = box_masks(boxes, grid)
    aucs = {name: figures(of, truth).auc for name, of in scores.items()}
    aucs["centre prior"] = figures(centre_prior(grid).expand_as(truth), truth).auc
    by_map = ", ".join(f"{name} {auc:.3f}" if isfinite(auc) else name for name, auc in aucs.items())
    tiles = []
    for i, (pixels, box) in enumerate(zip(as_pictures(images), boxes.tolist(), strict=True)):
        frame = [(box, GREEN)]
        maps_of = [Tile(pixels, name, frame, heat=of[i].numpy()) for name, of in scores.items()]
        tiles.append([Tile(pixels, bench.data.cache.path(rows[i]), frame), *maps_of])
    lines = [[tile for row in tiles[i : i + 2] for tile in row] for i in range(0, len(tiles), 2)]  # two pictures a line
    save(contact_sheet(lines, title=f"AUC of the maps' cells against the boxes: {by_map}"), path)
    note = "" if isfinite(aucs["centre prior"]) else " there is none: the boxes cover every cell or none;"
    say(f"gallery: {path} ({len(images)} pictures; AUC against their boxes:{note} {by_map})")


def _pictures(bench: Bench, count: int) -> tuple[list[int], Tensor]:
    """`count` rows of the held-out split, of as many classes as there are, and their pictures [N, 3, S, S]."""
    seen: dict[int, int] = {}  # pictures of each class so far
    order = []
    for row in bench.rows(bench.test_split).tolist():
        label = int(bench.data.cache.labels[row])
        seen[label] = seen.get(label, 0) + 1
        order.append((seen[label], row))
    chosen = sorted(row for _, row in sorted(order)[:count])
    pictures: dict[int, Tensor] = {}
    for images, indices in bench.images(bench.test_split, "whole"):
        pictures |= {row: image.cpu() for row, image in zip(indices.tolist(), images, strict=True) if row in chosen}
        if len(pictures) == len(chosen):
            break
    return chosen, torch.stack([pictures[row] for row in chosen])
