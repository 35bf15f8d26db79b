"""Evaluation protocols on frozen or fine-tuned encoders: kNN, linear, finetune, localise.

An encoder is a ResNet of torchvision's layout or a ViT (`encoders.Encoder`). Images are plain (`eval_images`) for
testing and kNN, RandomResizedCrop and flip alone for training a classifier.
"""

import copy
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from augment import Making, Policy, Source, eval_images, open_views
from precompute.base.errors import BadFile, UserError
from trainer.engine.data import Data
from trainer.evaluation.knn import knn_accuracy
from trainer.evaluation.localise import (
    box_masks,
    centre_prior,
    figures,
    fit_probe,
    max_box_accuracy,
    off_centre,
    off_centre_windows,
    probe_maps,
)
from trainer.model.encoders import Encoder, maps, pooled, width

Say = Callable[[str], None]
MOST_IMAGES = 2000  # of a split, for localisation: its standard error is then well below a hundredth


@dataclass(frozen=True)
class Bench:
    """The images that encoders are held against.

    `on_bad`: whether a file that went bad is an error ("fail") or is left out; `left_out` then has its path and why.
    """

    data: Data
    train_split: str
    test_split: str
    size: int = 224
    batch: int = 64
    device: str = "cpu"
    workers: int | None = None
    pipeline: str = "auto"
    seed: int = 0
    on_bad: str = "fail"
    left_out: dict[str, str] = field(default_factory=dict)

    def images(self, split: str, crop: str) -> Iterator[tuple[Tensor, Tensor]]:
        """Plain images [N, 3, S, S] on the device and their rows [N] on the CPU, in order."""
        some = False
        for images, rows in eval_images(
            Source(self.data.cache, self.data.root, self.data.split(split)), size=self.size, batch_size=self.batch,
            crop=crop, making=Making(workers=self.workers), skip=self._bad,
        ):  # fmt: skip
            some = True
            yield images.to(self.device).contiguous(memory_format=torch.channels_last), rows
        if not some:
            why = "none of its images can be read" if self.left_out else "there are no images in it"
            raise UserError(f"split {split!r}: {why}")

    def _bad(self, error: BadFile) -> None:
        if self.on_bad == "fail":
            raise UserError(f"{error}. Boxes made anew (precompute.boxes) hold good files only") from error
        self.left_out[error.path] = error.reason

    @property
    def labels(self) -> Tensor:
        """Class of every image of the box file, -1 unknown."""
        return torch.from_numpy(self.data.cache.labels.astype("int64"))

    def has_labels(self) -> bool:
        """Whether both splits have labelled images."""
        rows = [self.data.cache.indices(self.data.split(s)) for s in (self.train_split, self.test_split)]
        return all((self.data.cache.labels[r] >= 0).any() for r in rows)

    def majority(self) -> float:
        """Share of the most frequent class in the test split: what guessing gives."""
        rows = self.data.cache.indices(self.data.split(self.test_split))
        labels = self.labels[torch.from_numpy(rows)]
        labels = labels[labels >= 0]
        return torch.bincount(labels).max().item() / len(labels)


@torch.no_grad()
def features(encoder: Encoder, bench: Bench, split: str) -> tuple[Tensor, Tensor]:
    """Pooled features [N, C] of a split's labelled images, centre crops, and their labels [N]."""
    found, truth = [], []
    for images, rows in bench.images(split, "center"):
        found.append(pooled(encoder, images).float())
        truth.append(bench.labels[rows].to(images.device))
    known = torch.cat(truth) >= 0
    return _finite(torch.cat(found)[known]), torch.cat(truth)[known]


def knn(encoder: Encoder, bench: Bench, k: int = 20) -> dict[str, Any]:
    """kNN accuracy on the test split. Features are centred: an untrained net's all point the same way."""
    encoder.eval()
    bank, labels = features(encoder, bench, bench.train_split)
    queries, truth = features(encoder, bench, bench.test_split)
    centre = bank.mean(0)
    return {"accuracy": knn_accuracy(queries - centre, truth, bank - centre, labels, k), "images": len(truth)}


def linear(encoder: Encoder, bench: Bench, say: Say, epochs: int = 100, lr: float = 30.0) -> dict[str, Any]:
    """MoCo's linear protocol: SGD 0.9, lr 30 per 256 images, ×0.1 at 60 % and 80 %, RRC + flip, frozen encoder."""
    encoder.eval().requires_grad_(False)
    classifier = nn.Linear(width(encoder), len(bench.data.cache.class_names)).to(bench.device)
    nn.init.normal_(classifier.weight, std=0.01)
    nn.init.zeros_(classifier.bias)
    optimizer = torch.optim.SGD(classifier.parameters(), lr=0.0, momentum=0.9)

    def rate(progress: float) -> float:
        return lr * bench.batch / 256 * (0.1 ** ((progress >= 0.6) + (progress >= 0.8)))

    with torch.no_grad():
        rms = features(encoder, bench, bench.train_split)[0].square().mean().sqrt().clamp_min(1e-6).item()
    scale = 0.06 / rms  # a rate of 30 wants small features; at this scale it is 0.1 on features of unit rms
    forward = lambda x: classifier(scale * pooled(encoder, x))  # noqa: E731
    _classify(forward, optimizer, rate, bench, epochs, 0.08, say, "--linear-lr")
    with torch.no_grad():
        queries, truth = features(encoder, bench, bench.test_split)
        predicted = classifier(scale * queries).argmax(1)
    return {"accuracy": (predicted == truth).float().mean().item(), "images": len(truth), "epochs": epochs}


def finetune(
    encoder: Encoder, bench: Bench, say: Say, epochs: int = 200, lr: float = 0.001, weight_decay: float = 5e-4
) -> dict[str, Any]:
    """The paper's fine-tuning: SGD 0.9, RRC(0.5, 1), cosine, everything trained; a copy of the encoder is used."""
    if len(bench.data.cache.indices(bench.data.split(bench.train_split))) < 2:
        raise UserError(f"split {bench.train_split!r}: fine-tuning needs at least 2 images, for BatchNorm")
    model = copy.deepcopy(encoder).requires_grad_(True).train()
    classifier = nn.Linear(width(model), len(bench.data.cache.class_names)).to(bench.device)
    parameters = [*model.parameters(), *classifier.parameters()]
    optimizer = torch.optim.SGD(parameters, lr=0.0, momentum=0.9, weight_decay=weight_decay)

    def rate(progress: float) -> float:
        return lr * 0.5 * (1 + torch.cos(torch.tensor(torch.pi * progress)).item())

    _classify(lambda x: classifier(pooled(model, x)), optimizer, rate, bench, epochs, 0.5, say, "--finetune-lr")
    with torch.no_grad():
        queries, truth = features(model.eval(), bench, bench.test_split)
        predicted = classifier(queries).argmax(1)
    return {"accuracy": (predicted == truth).float().mean().item(), "images": len(truth), "epochs": epochs}


def _classify(
    forward: Callable[[Tensor], Tensor],
    optimizer: torch.optim.Optimizer,
    rate: Callable[[float], float],
    bench: Bench,
    epochs: int,
    crop_scale: float,
    say: Say,
    flag: str,
) -> None:
    """Trains `forward` (images to logits) by cross-entropy on randomly cropped and flipped training images."""
    policy = Policy(name="rrc", views=1, size=bench.size, crop_scale=crop_scale, jitter_p=0.0, gray_p=0.0, blur_p=0.0)
    count = len(bench.data.cache.indices(bench.data.split(bench.train_split)))
    making = Making(bench.pipeline, bench.device, workers=bench.workers, on_bad=bench.on_bad, say=_quiet)
    with open_views(
        Source(bench.data.cache, bench.data.root, bench.data.split(bench.train_split)), policy=policy,
        batch_size=min(bench.batch, count), seed=bench.seed, making=making,
    ) as loader:  # fmt: skip
        steps, step = epochs * len(loader), 0
        for epoch in range(epochs):
            total = torch.zeros((), device=bench.device)
            for batch in loader:
                known = (batch.labels >= 0).sum().clamp_min(1)  # of a sparsely labelled set a batch may have none
                for group in optimizer.param_groups:
                    group["lr"] = rate(step / steps)
                logits = forward(batch.views[0])
                loss = F.cross_entropy(logits, batch.labels, ignore_index=-1, reduction="sum") / known
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                total += loss.detach()
                step += 1
            if not total.isfinite():
                raise UserError(f"the classifier's training diverged in epoch {epoch + 1}: a lower {flag} may help")
            if (epoch + 1) % max(1, epochs // 5) == 0:
                say(f"  epoch {epoch + 1}/{epochs}  cross-entropy {total.item() / len(loader):.4f}")


@torch.no_grad()
def localise(encoder: Encoder, bench: Bench) -> dict[str, Any]:
    """Where the encoder's features find the box on whole held-out images, beside the centre prior.

    `probe` is a linear probe per cell fitted on the training split's boxes (a direct head: it has no keys to roll),
    `shuffled probe` the same fitted on other images' boxes; `energy` the length of the features, which needs no label.
    Each on whole images, on those whose box is off-centre, and (`crops`) on windows that push the box to the side,
    where a centre prior has little to say; MaxBoxAcc for IoU 0.3, 0.5, 0.7.
    """
    encoder.eval()
    whole = _figures(encoder, bench, crops=False)
    return {**whole, "crops": _figures(encoder, bench, crops=True)}


def _figures(encoder: Encoder, bench: Bench, crops: bool) -> dict[str, Any]:
    """The figures of every map on whole images or on off-centre crops (a probe of its own for each)."""
    splits = (bench.train_split, bench.test_split)
    (z, masks, _), (tested, truth, boxes) = (_cells(encoder, bench, s, crops) for s in splits)
    prior = centre_prior(truth.shape[-1], truth.device).expand_as(truth)
    found_maps = {
        "probe": probe_maps(tested, fit_probe(z, masks)),
        "shuffled probe": probe_maps(tested, fit_probe(z, masks.roll(1, 0))),
        "energy": tested.norm(dim=1),
        "centre prior": prior,
    }
    away = off_centre(boxes)
    result: dict[str, Any] = {"area_share": truth.mean().item(), "off_centre_images": int(away.sum())}
    result["cells"] = truth.shape[-1]  # along a side
    for name, scores in found_maps.items():
        found: dict[str, Any] = asdict(figures(scores, truth))
        found["max_box_accuracy"] = max_box_accuracy(scores, boxes)
        found["off_centre"] = asdict(figures(scores[away], truth[away]))
        if away.any():
            found["off_centre"]["max_box_accuracy"] = max_box_accuracy(scores[away], boxes[away])
        result[name] = found
    return result


def _cells(encoder: Encoder, bench: Bench, split: str, crops: bool) -> tuple[Tensor, Tensor, Tensor]:
    """The encoder's maps [N, C, H, W], box cover of their cells [N, H, W], boxes [N, 4] of a split's first images."""
    cells, masks, all_boxes = [], [], []
    source = replace(bench, size=round(bench.size * 1.5)) if crops else bench
    for pictures, rows in source.images(split, "whole"):
        images, boxes = pictures, torch.from_numpy(bench.data.cache.boxes[rows.numpy()]).to(pictures.device)
        if crops:
            corners, boxes = off_centre_windows(boxes, rows, source.size, bench.size)
            s, places = bench.size, enumerate(corners.tolist())
            windows = torch.stack([pictures[i, :, y : y + s, x : x + s] for i, (x, y) in places])
            images = windows.contiguous(memory_format=torch.channels_last)
        z = maps(encoder, images).float()
        cells.append(z)
        masks.append(box_masks(boxes, z.shape[-1]))
        all_boxes.append(boxes)
        if sum(map(len, cells)) >= MOST_IMAGES:
            break
    return _finite(torch.cat(cells)), torch.cat(masks), torch.cat(all_boxes)


def _finite(features: Tensor) -> Tensor:
    """`features`; UserError where some are no numbers, of which no figure could be made."""
    if not features.isfinite().all():
        raise UserError(
            "the encoder's features are not all finite: its weights are no result of a training that went well"
        )
    return features


def _quiet(line: str) -> None:
    """The loader's choices are the trainer's business."""
