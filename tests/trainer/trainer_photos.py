"""A small batch of real photographs with pasted rectangles, made in memory: enough to exercise networks and losses."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from trainer.methods.base import Match

MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])


@dataclass
class PhotoBatch:
    """views: two of [N, 3, S, S]; rects [N, 2, 4] x0, y0, x1, y1 in view pixels, end-exclusive; flips bool [N, 2]."""

    views: tuple[Tensor, Tensor]
    rects: Tensor
    flips: Tensor
    size: int

    def masks(self, view: int, grid: int) -> Tensor:
        """Share of each cell that the rectangle covers, by averaging the pixel mask (grid divides size)."""
        mask = torch.zeros(len(self.rects), self.size, self.size)
        for m, (x0, y0, x1, y1) in zip(mask, self.rects[:, view].tolist(), strict=True):
            m[y0:y1, x0:x1] = 1
        return torch.nn.functional.avg_pool2d(mask[:, None], self.size // grid)[:, 0]

    def match(self, view: int, grid: int) -> Match:
        """Where the view's cells lie in the other: the rectangles show the same box, mirrored where flips differ."""
        across = torch.arange(grid) + 0.5
        cells = torch.stack(torch.meshgrid(across, across, indexing="xy"), -1)
        this, other = (self.rects[:, v, None, None] * (grid / self.size) for v in (view, 1 - view))
        place = (cells - this[..., :2]) / (this[..., 2:] - this[..., :2])  # within the box, 0 to 1
        same = ((place >= 0) & (place < 1)).all(-1)
        turned = (self.flips[:, 0] != self.flips[:, 1])[:, None, None]
        x = torch.where(turned, 1 - place[..., 0], place[..., 0])
        at = other[..., :2] + torch.stack((x, place[..., 1]), -1) * (other[..., 2:] - other[..., :2])
        return Match(at, same)


def read_cub(root: Path, count: int) -> tuple[list[Image.Image], list[tuple[float, float, float, float]], list[int]]:
    """`count` pictures of a CUB folder, spread over it, with boxes in pixels and class numbers."""
    names = [line.split() for line in (root / "images.txt").read_text().splitlines()]
    boxes = {
        i: tuple(map(float, b)) for i, *b in map(str.split, (root / "bounding_boxes.txt").read_text().splitlines())
    }
    chosen = [names[i] for i in np.linspace(0, len(names) - 1, count).astype(int)]
    images = [Image.open(root / "images" / name).convert("RGB") for _, name in chosen]
    xyxy = [(x, y, x + w, y + h) for x, y, w, h in (boxes[i] for i, _ in chosen)]
    return images, xyxy, [int(name[:3]) for _, name in chosen]


def photo_batch(root: Path, count: int = 8, size: int = 64, seed: int = 0) -> PhotoBatch:
    """Each bird pasted onto another picture's bird, twice, with other partners and flips."""
    rng = np.random.default_rng(seed)
    images, boxes, _ = read_cub(root, count)
    views, rects, flips = [], [], []
    for v in range(2):
        pixels, rect, flip = [], [], []
        for i in range(count):
            j = (i + 1 + v) % count
            sx, sy = size / images[j].width, size / images[j].height
            x0, y0, x1, y1 = boxes[j]
            r = (int(x0 * sx), int(y0 * sy), max(int(x1 * sx), int(x0 * sx) + 1), max(int(y1 * sy), int(y0 * sy) + 1))
            canvas = images[j].resize((size, size))
            canvas.paste(images[i].crop(tuple(map(int, boxes[i]))).resize((r[2] - r[0], r[3] - r[1])), r[:2])
            array = np.asarray(canvas)
            flip.append(rng.random() < 0.5)
            if flip[-1]:
                array, r = array[:, ::-1], (size - r[2], r[1], size - r[0], r[3])
            pixels.append(torch.from_numpy(array.copy()))
            rect.append(r)
        x = (torch.stack(pixels).float() / 255 - MEAN) / STD
        views.append(x.permute(0, 3, 1, 2))  # NHWC memory behind an NCHW shape: channels-last as it stands
        rects.append(torch.tensor(rect))
        flips.append(torch.tensor(flip))
    return PhotoBatch((views[0], views[1]), torch.stack(rects, 1), torch.stack(flips, 1), size)
