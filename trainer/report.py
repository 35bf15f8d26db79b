"""What a finished run learned: kNN accuracy, and localisation beside the centre prior, as numbers and one figure."""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from augment import eval_images, open_views
from precompute.files import replacing
from trainer.build import make_policy
from trainer.data import Data
from trainer.knn import knn_accuracy
from trainer.localise import Figures, box_masks, centre_prior, figures, fit_probe, probe_maps
from trainer.methods import Alignment, Byol
from trainer.model import build_encoder, feature_maps
from trainer.state import TrainingState

Say = Callable[[str], None]
MOST_IMAGES = 2000  # of a split, for localisation: its standard error is then well below a hundredth
SHOWN = 6  # pictures in the figure


@torch.no_grad()
def evaluate_run(state: TrainingState, data: Data, out: Path, say: Say) -> dict[str, Any]:
    """kNN and localisation of the online encoder as JSON values; prints them, writes evaluation.json and a figure."""
    state.method.eval()
    result: dict[str, Any] = {"knn": _knn(state, data, say), "localisation": None}
    result["localisation"], pictures = _localisation(state, data, say)
    state.method.train()
    with replacing(out / "evaluation.json") as temporary:
        temporary.write_text(json.dumps(result, indent=1) + "\n")
    if result["localisation"] is not None:
        _figure(result["localisation"], pictures, out, say)
    return result


def _knn(state: TrainingState, data: Data, say: Say) -> dict[str, Any] | None:
    """Accuracy from the training split's features on the held-out split's, beside an untrained encoder's and chance."""
    config, labels = state.config, torch.from_numpy(np.asarray(data.cache.labels, dtype=np.int64))
    splits = [data.split(name) for name in (config.train_split, config.eval_split)]
    rows = [torch.from_numpy(data.cache.indices(split)) for split in splits]
    if min(int((labels[r] >= 0).sum()) for r in rows) == 0:
        say("kNN: left out, the set has no labels in one of the splits")
        return None
    untrained = build_encoder(config.arch).to(_device(state)).eval()
    accuracy = {}
    for name, encoder in (("accuracy", state.method.online.encoder), ("untrained", untrained)):
        (bank, bank_labels), (queries, truth) = (_features(encoder, data, state, split, labels) for split in splits)
        centre = bank.mean(0)  # an untrained net's features all point the same way
        accuracy[name] = knn_accuracy(queries - centre, truth, bank - centre, bank_labels)
    chance = torch.bincount(truth).max().item() / len(truth)
    say(
        f"kNN (k=20, {len(truth)} held-out images): {accuracy['accuracy']:.3f}; the same net untrained "
        f"{accuracy['untrained']:.3f}; the most frequent class {chance:.3f}"
    )
    return {**accuracy, "majority": chance, "images": len(truth)}


def _features(
    encoder: Any, data: Data, state: TrainingState, split: str | None, labels: Tensor
) -> tuple[Tensor, Tensor]:
    """Pooled features [N, C] of a split's labelled images, and their labels [N]."""
    features, truth = [], []
    for images, indices in _images(data, state, split, "center"):
        features.append(feature_maps(encoder, images)[4].mean((2, 3)).float())
        truth.append(labels[indices.cpu()].to(images.device))
    known = torch.cat(truth) >= 0
    return torch.cat(features)[known], torch.cat(truth)[known]


def _images(data: Data, state: TrainingState, split: str | None, crop: str) -> Iterator[tuple[Tensor, Tensor]]:
    device = _device(state)
    for images, indices in eval_images(
        data.cache, data.root, split=split, size=state.config.size, batch_size=_batch(state), crop=crop
    ):
        yield images.to(device).contiguous(memory_format=torch.channels_last), torch.as_tensor(indices)


def _localisation(state: TrainingState, data: Data, say: Say) -> tuple[dict[str, Any] | None, list[tuple]]:
    """Figures of every score map there is on held-out images, and some pictures with their C maps."""
    held_out = data.split(state.config.eval_split)
    if len(data.cache.indices(held_out)) < 2 or (data.cache.scores[data.cache.indices(held_out)] <= 0).all():
        say("localisation: left out, there are no held-out images with boxes")
        return None, []
    found: dict[str, Figures] = {}
    extra: dict[str, Any] = {}
    pictures: list[tuple] = []
    if isinstance(state.method, Byol) and state.method.alignment is not None:
        found, extra, pictures = _correspondence(state, data, held_out)
    found |= _probe(state, data, held_out)
    say("localisation on held-out images (means; the centre prior knows nothing of the picture):")
    for name, value in found.items():
        say(f"  {name:38s} {value}  ({value.images} images)")
    return {name: asdict(value) for name, value in found.items()} | extra, pictures


def _correspondence(
    state: TrainingState, data: Data, split: str | None
) -> tuple[dict[str, Figures], dict[str, Any], list[tuple]]:
    """C maps of held-out views, with the right keys and with another image's, beside the centre prior."""
    method, config = state.method, state.config
    assert isinstance(method, Byol) and method.alignment is not None  # noqa: PT018
    assert method.target is not None
    right, rolled = (Alignment(method.alignment.settings, c) for c in ("none", "rolled-keys"))
    if config.control == "direct-head":
        right = rolled = method.alignment
    stage = max(config.align_stages)
    maps: dict[str, list[Tensor]] = {"C": [], "rolled": [], "mask": []}
    pictures = []
    loader = open_views(
        data.cache, data.root, policy=make_policy(config), split=split, backend=config.pipeline, drop_last=False,
        batch_size=_batch(state), device=_device(state), seed=config.seed + 1, workers=config.workers, say=_quiet,
    )  # fmt: skip
    for batch in loader:
        online, keys = method.online(batch.q), method.target(batch.k)
        maps["C"].append(right.correspondence(online, keys, stage))
        maps["rolled"].append(rolled.correspondence(online, keys, stage))
        grid = maps["C"][-1].shape[-1]
        maps["mask"].append(batch.masks(0, grid))
        if not pictures:
            pictures = [(batch.q[i].float().cpu(), maps["C"][0][i].cpu(), batch.rects[i, 0].tolist()) for i in
                        range(min(SHOWN, len(batch.q)))]  # fmt: skip
        if sum(map(len, maps["C"])) >= MOST_IMAGES:
            break
    c, other, mask = (torch.cat(maps[name]) for name in ("C", "rolled", "mask"))
    prior = centre_prior(mask.shape[-1], mask.device).expand_as(mask)
    name = "direct head" if config.control == "direct-head" else "C map"
    found = {f"views: {name}": figures(c, mask), "views: centre prior": figures(prior, mask)}
    if config.control != "direct-head":
        found["views: C map, another image's keys"] = figures(other, mask)
    extra = {
        "mask_share": mask.mean().item(),
        "squared_error": (c - mask).square().mean().item(),
        "squared_error_of_constant": mask.var(correction=0).item(),
        "saturated": ((c < 0.01) | (c > 0.99)).float().mean().item(),
    }
    return found, extra, pictures


def _probe(state: TrainingState, data: Data, held_out: str | None) -> dict[str, Figures]:
    """A linear probe per cell, fitted on the training split's boxes, on whole held-out images."""
    cells = []
    for split in (data.split(state.config.train_split), held_out):
        features, masks = [], []
        for images, indices in _images(data, state, split, "whole"):
            z = feature_maps(state.method.online.encoder, images)[4]
            boxes = torch.from_numpy(data.cache.boxes[indices.cpu().numpy()]).to(z.device)
            features.append(z.float())
            masks.append(box_masks(boxes, z.shape[-1]))
            if sum(map(len, features)) >= MOST_IMAGES:
                break
        cells.append((torch.cat(features), torch.cat(masks)))
    (features, masks), (tested, truth) = cells
    scores = probe_maps(tested, fit_probe(features, masks))
    prior = centre_prior(truth.shape[-1], truth.device).expand_as(truth)
    return {"images: linear probe": figures(scores, truth), "images: centre prior": figures(prior, truth)}


def _figure(found: dict[str, Any], pictures: list[tuple], out: Path, say: Say) -> None:
    """localisation.png: held-out views with their rectangle and C map, and the AUCs side by side."""
    try:
        import matplotlib
    except ImportError:
        say("figure: left out, matplotlib is not installed (pip install 'saliencyswap[plots]')")
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.patches import Rectangle

    bars = {name: value["auc"] for name, value in found.items() if isinstance(value, dict)}
    figure = plt.figure(figsize=(2 * SHOWN, 7), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=(2, 1), squeeze=False)[:, 0]
    for i, (view, c, (x0, y0, x1, y1)) in enumerate(pictures):
        image = _as_picture(view)
        for row, title in ((0, "held-out view"), (1, "its C map")):
            axes = above.add_subplot(2, SHOWN, row * SHOWN + i + 1)
            axes.imshow(image)
            if row == 1:
                shown = torch.nn.functional.interpolate(c[None, None].float(), size=image.shape[:2], mode="bilinear")[
                    0, 0
                ]
                axes.imshow(shown.numpy(), cmap="inferno", alpha=0.6, vmin=0, vmax=1)
            axes.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor="lime", linewidth=1.5))
            axes.set_axis_off()
            if i == 0:
                axes.set_title(title, loc="left", fontsize=9)
    axes = below.add_subplot()
    colours = ["tab:gray" if "prior" in name else "tab:blue" for name in bars]
    axes.barh(list(bars)[::-1], list(bars.values())[::-1], color=colours[::-1])
    axes.axvline(0.5, color="black", linewidth=0.8)
    axes.set_xlim(0.4, 1)
    axes.set_xlabel("AUC of a cell's score against the box, mean over held-out images (chance 0.5)")
    with replacing(out / "localisation.png") as temporary:
        figure.savefig(temporary, dpi=110, format="png", metadata={"Software": None})
    plt.close(figure)
    say(f"figure: {out / 'localisation.png'}")


def _as_picture(view: Tensor) -> np.ndarray:
    """A normalised view [3, S, S] as float RGB [S, S, 3] in [0, 1]."""
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return (view.permute(1, 2, 0) * std + mean).clamp(0, 1).numpy()


def _batch(state: TrainingState) -> int:
    return max(state.settings.batch_size // state.config.accumulate, 16)


def _device(state: TrainingState) -> torch.device:
    return next(state.method.parameters()).device


def _quiet(line: str) -> None:
    """The held-out loader chooses what the training loader chose and said."""
