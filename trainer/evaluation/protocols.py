"""Evaluation protocols on frozen or fine-tuned encoders: kNN, linear, finetune, localise.

An encoder is a ResNet of torchvision's layout or a ViT (`encoders.Encoder`). Images are plain for testing and kNN;
classifiers train on random crops and flips alone.
"""

import copy
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from augment import Policy
from precompute.base.errors import UserError
from trainer.evaluation.bench import Bench, some
from trainer.evaluation.knn import knn_accuracy
from trainer.evaluation.localise import (
    box_masks,
    box_overlaps,
    centre_prior,
    figures,
    fit_probe,
    max_box_accuracy,
    off_centre,
    off_centre_windows,
    probe_maps,
)
from trainer.model.auc import cell_auc
from trainer.model.encoders import Encoder, maps, pooled, width

Say = Callable[[str], None]


@torch.no_grad()
def features(encoder: Encoder, bench: Bench, split: str) -> tuple[Tensor, Tensor]:
    """Pooled features [N, C] of a split's labelled images, centre crops, and their labels [N]."""
    z, labels = [], []
    for images, rows in bench.images(split, "center"):
        z.append(pooled(encoder, images).float())
        labels.append(bench.labels[rows].to(images.device))
    known = torch.cat(labels) >= 0
    return _finite(torch.cat(z)[known]), torch.cat(labels)[known]


def knn(encoder: Encoder, bench: Bench, k: int = 20) -> dict[str, Any]:
    """kNN accuracy on the test split. Features are centred: an untrained net's all point the same way."""
    encoder.eval()
    bank, labels = features(encoder, bench, bench.train_split)
    queries, truth = features(encoder, bench, bench.test_split)
    queries, bank = queries - bank.mean(0), bank - bank.mean(0)
    of = some(len(truth))
    return {
        "accuracy": knn_accuracy(queries, truth, bank, labels, k), "images": len(truth),
        "class_auc": class_auc(queries[of], truth[of], bank, labels),
    }  # fmt: skip


def class_auc(queries: Tensor, truth: Tensor, bank: Tensor, labels: Tensor) -> float:
    """Retrieval: how well the cosine tells training pictures of a query's class from others, as AUC; chance 0.5.

    queries [Q, C] of classes [Q], bank [B, C] of `labels` [B]; the mean over queries with both kinds in the bank, nan
    without any. It uses all pairs, so it differs less from seed to seed than kNN accuracy.
    """
    queries, bank = F.normalize(queries, dim=1), F.normalize(bank, dim=1)
    parts = zip(queries.split(256), truth.split(256), strict=True)
    aucs = [cell_auc((q @ bank.T)[:, None], (of[:, None] == labels)[:, None].float()) for q, of in parts]
    return torch.cat(aucs).nanmean().item()


def linear(encoder: Encoder, bench: Bench, say: Say, epochs: int = 100, lr: float = 30.0) -> dict[str, Any]:
    """MoCo's linear protocol: SGD 0.9, lr 30 per 256 images, ×0.1 at 60 % and 80 %, RRC + flip, frozen encoder."""
    encoder.eval().requires_grad_(False)
    classifier = _classifier(encoder, bench)
    nn.init.normal_(classifier.weight, std=0.01)
    nn.init.zeros_(classifier.bias)
    optimizer = torch.optim.SGD(classifier.parameters(), lr=0.0, momentum=0.9)

    def rate(progress: float) -> float:
        return lr * bench.batch / 256 * (0.1 ** ((progress >= 0.6) + (progress >= 0.8)))

    rms = features(encoder, bench, bench.train_split)[0].square().mean().sqrt().clamp_min(1e-6).item()
    scale = 0.06 / rms  # a rate of 30 wants small features; at this scale it is 0.1 on features of unit rms
    logits = lambda images: classifier(scale * pooled(encoder, images))  # noqa: E731
    _train(logits, optimizer, rate, bench, epochs, 0.08, say, "--linear-lr")
    return _test(encoder, lambda z: classifier(scale * z), bench, epochs)


def finetune(
    encoder: Encoder, bench: Bench, say: Say, epochs: int = 200, lr: float = 0.001, weight_decay: float = 5e-4
) -> dict[str, Any]:
    """The paper's fine-tuning: SGD 0.9, RRC(0.5, 1), cosine, everything trained; a copy of the encoder is used."""
    if len(bench.rows(bench.train_split)) < 2:
        raise UserError(f"split {bench.train_split!r}: fine-tuning needs at least 2 images, for BatchNorm")
    model = copy.deepcopy(encoder).requires_grad_(True).train()
    classifier = _classifier(model, bench)
    parameters = [*model.parameters(), *classifier.parameters()]
    optimizer = torch.optim.SGD(parameters, lr=0.0, momentum=0.9, weight_decay=weight_decay)

    def rate(progress: float) -> float:
        return lr * 0.5 * (1 + torch.cos(torch.tensor(torch.pi * progress)).item())

    logits = lambda images: classifier(pooled(model, images))  # noqa: E731
    _train(logits, optimizer, rate, bench, epochs, 0.5, say, "--finetune-lr")
    return _test(model.eval(), classifier, bench, epochs)


def _classifier(encoder: Encoder, bench: Bench) -> nn.Linear:
    return nn.Linear(width(encoder), len(bench.data.cache.class_names)).to(bench.making.device)


def _train(
    logits: Callable[[Tensor], Tensor],
    optimizer: torch.optim.Optimizer,
    rate: Callable[[float], float],
    bench: Bench,
    epochs: int,
    crop_scale: float,
    say: Say,
    flag: str,
) -> None:
    """Trains `logits` (of images) by cross-entropy on randomly cropped and flipped training images.

    `rate`: the learning rate after a share of the steps. UserError names `flag`, which sets it, where that diverges.
    """
    policy = Policy(name="rrc", views=1, size=bench.size, crop_scale=crop_scale, jitter_p=0.0, gray_p=0.0, blur_p=0.0)
    batch_size = min(bench.batch, len(bench.rows(bench.train_split)))
    with bench.views(bench.train_split, policy, batch_size, bench.seed) as loader:
        steps, step = epochs * len(loader), 0
        for epoch in range(epochs):
            total = torch.zeros((), device=bench.making.device)
            for batch in loader:
                known = (batch.labels >= 0).sum().clamp_min(1)  # of a sparsely labelled set a batch may have none
                for group in optimizer.param_groups:
                    group["lr"] = rate(step / steps)
                loss = F.cross_entropy(logits(batch.views[0]), batch.labels, ignore_index=-1, reduction="sum") / known
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                total += loss.detach()
                step += 1
            if not total.isfinite():
                raise UserError(f"the classifier's training diverged in epoch {epoch + 1}: a lower {flag} may help")
            if (epoch + 1) % max(1, epochs // 5) == 0:
                say(f"  epoch {epoch + 1}/{epochs}  cross-entropy {total.item() / len(loader):.4f}")


def _test(encoder: Encoder, classify: Callable[[Tensor], Tensor], bench: Bench, epochs: int) -> dict[str, Any]:
    """The accuracy of `classify` (features [N, C] to logits) on the test split."""
    z, truth = features(encoder, bench, bench.test_split)
    accuracy = (classify(z).argmax(1) == truth).float().mean().item()
    return {"accuracy": accuracy, "images": len(truth), "epochs": epochs}


@torch.no_grad()
def localise(encoder: Encoder, bench: Bench) -> dict[str, Any]:
    """How well maps of the encoder's features find the boxes of held-out images, beside the centre prior.

    `probe` is a linear probe per cell fitted on the training split's boxes (a direct head: it has no keys to roll),
    `shuffled probe` the same fitted on other images' boxes; `energy` the length of the features, which needs no label.
    Each on whole images, on those whose box is off-centre, and (`crops`) on windows that push the box to the side,
    where a centre prior has little to say; MaxBoxAcc for IoU 0.3, 0.5, 0.7. Of a large split a sample of its images.
    """
    encoder.eval()
    bench = bench.sampled()
    whole = _figures(encoder, bench, crops=False)
    return {**whole, "crops": _figures(encoder, bench, crops=True)}


def _figures(encoder: Encoder, bench: Bench, crops: bool) -> dict[str, Any]:
    """The figures of every map on whole images or on off-centre crops (a probe of its own for each)."""
    splits = (bench.train_split, bench.test_split)
    (z, masks, _), (tested, truth, boxes) = (_cells(encoder, bench, s, crops) for s in splits)
    scores_of = {
        "probe": probe_maps(tested, fit_probe(z, masks)),
        "shuffled probe": probe_maps(tested, fit_probe(z, masks.roll(1, 0))),
        "energy": tested.norm(dim=1),
        "centre prior": centre_prior(truth.shape[-1], truth.device)[None],  # one map for all
    }
    away = off_centre(boxes)
    result: dict[str, Any] = {
        "area_share": truth.mean().item(),
        "off_centre_images": int(away.sum()),
        "cells": truth.shape[-1],  # along a side
    }
    for name, scores in scores_of.items():
        overlaps, scores = box_overlaps(scores, boxes), scores.expand_as(truth)
        result[name] = asdict(figures(scores, truth)) | {"max_box_accuracy": max_box_accuracy(overlaps)}
        result[name]["off_centre"] = asdict(figures(scores[away], truth[away]))
        if away.any():
            result[name]["off_centre"]["max_box_accuracy"] = max_box_accuracy(overlaps[:, away.cpu().numpy()])
    return result


def _cells(encoder: Encoder, bench: Bench, split: str, crops: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Maps [N, C, H, W], share of each cell that the box covers [N, H, W], boxes [N, 4] of a split's images."""
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
    return _finite(torch.cat(cells)), torch.cat(masks), torch.cat(all_boxes)


def _finite(features: Tensor) -> Tensor:
    """`features`; UserError where some are not finite, as no figure could be made of them."""
    if not features.isfinite().all():
        raise UserError("the encoder's features are not all finite: its weights are no result of a good training")
    return features
