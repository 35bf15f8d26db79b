"""What a finished run learned: kNN accuracy, and localisation beside the centre prior, as numbers and one figure."""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from augment import Batch, open_views
from precompute.base.files import replacing
from precompute.base.program import count
from trainer.engine.data import Data
from trainer.engine.state import TrainingState
from trainer.evaluate import NOTHING_TO_FIND
from trainer.evaluation.localise import Figures, cell_auc, centre_prior, figures, fit_probe, probe_maps
from trainer.evaluation.protocols import MOST_IMAGES, Bench, knn, localise
from trainer.methods.base import Alignment, Byol
from trainer.model.networks import build_encoder
from trainer.record import EVALUATION, FIGURE
from trainer.record.metrics import finite
from trainer.record.model_card import area_shares, keys_sentence

Say = Callable[[str], None]
SHOWN = 6  # pictures in the figure


@torch.no_grad()
def evaluate_run(state: TrainingState, data: Data, held_out: str, out: Path, say: Say) -> dict[str, Any]:
    """kNN and localisation of the online encoder as JSON values; prints them, writes evaluation.json and a figure.

    `held_out` is the split to evaluate on.
    """
    state.method.eval()
    config, settings = state.config, state.settings
    batch = max(settings.batch_size // config.schedule.accumulate, 16)
    device = str(next(state.method.parameters()).device)
    bench = Bench(
        data, config.data.train_split, held_out, config.views.size, batch, device, config.making.workers,
        config.making.backend, on_bad=config.making.on_bad,
    )  # fmt: skip
    result: dict[str, Any] = {"eval_split": held_out, "knn": _knn(state, bench, say), "localisation": None}
    result["localisation"], pictures = _localisation(state, bench, say)
    state.method.train()
    if bench.left_out:
        result["left_out"] = bench.left_out
        first = next(f"{path}: {reason}" for path, reason in bench.left_out.items())
        say(f"note: left out of the evaluation, {count(len(bench.left_out), 'file')} that went bad ({first})")
    with replacing(out / EVALUATION) as temporary:
        temporary.write_text(json.dumps(finite(result), indent=1, allow_nan=False) + "\n")
    if result["localisation"] is not None:
        _figure(result["localisation"], pictures, out, say)
    return result


def _knn(state: TrainingState, bench: Bench, say: Say) -> dict[str, Any] | None:
    """Accuracy from the training split's features on the held-out split's, beside an untrained encoder's and chance."""
    if not bench.has_labels():
        say("kNN: left out, the set has no labels in one of the splits")
        return None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(state.config.run.seed)
        untrained = build_encoder(state.config.model.arch).to(bench.device)
    found = knn(state.method.online.encoder, bench)
    found |= {"untrained": knn(untrained, bench)["accuracy"], "majority": bench.majority()}
    say(
        f"kNN (k=20, {found['images']} held-out images): {found['accuracy']:.3f}; the same net untrained "
        f"{found['untrained']:.3f}; the most frequent class {found['majority']:.3f}"
    )
    return found


def _localisation(state: TrainingState, bench: Bench, say: Say) -> tuple[dict[str, Any] | None, list[tuple]]:
    """Figures of every score map there is on held-out images, and some pictures with their C maps."""
    data, held_out = bench.data, bench.data.split(bench.test_split)
    if len(data.cache.indices(held_out)) < 2 or (data.cache.scores[data.cache.indices(held_out)] <= 0).all():
        say("localisation: left out, there are no held-out images with boxes")
        return None, []
    found: dict[str, Figures] = {}
    extra: dict[str, Any] = {}
    pictures: list[tuple] = []
    if isinstance(state.method, Byol) and state.method.alignment is not None:
        found, extra, pictures = _correspondence(state, bench)
    probed = localise(state.method.online.encoder, bench)
    if probed["probe"]["images"] == 0:
        say(f"localisation: left out, {NOTHING_TO_FIND}")
        return None, []
    keys = {"linear probe": "probe", "shuffled probe": "shuffled probe", "feature energy": "energy",
            "centre prior": "centre prior"}  # fmt: skip
    for name, key in keys.items():
        for where, of in (("images", probed), ("off-centre crops", probed["crops"])):
            found[f"{where}: {name}"] = Figures(**{f: of[key][f] for f in ("auc", "pointing", "energy", "images")})
    extra["images"] = probed
    say("localisation on held-out images (means; the centre prior knows nothing of the picture):")
    width = max(38, *map(len, found))
    for name, value in found.items():
        say(f"  {name:{width}s} {value}  ({value.images} images)")
    if len({value.images for value in found.values()}) > 1:
        say("  (of fewer images where a box covers every cell or none, as such a map has no AUC)")
    result = {name: asdict(value) for name, value in found.items()} | extra
    say(f"  box area share (chance for pointing and energy): {area_shares(result)}")
    if "rolled_keys" in extra:
        say("  " + keys_sentence(extra["rolled_keys"]))
    return result, pictures


def _correspondence(state: TrainingState, bench: Bench) -> tuple[dict[str, Figures], dict[str, Any], list[tuple]]:
    """C maps of held-out views beside their controls, and some pictures with their C maps.

    The controls that one run can show: another image's keys, another image's mask (what is left when a map knows where
    objects lie as a rule), a direct head (linear, per cell, on the same features, no keys), the centre prior.
    """
    method, config = state.method, state.config
    assert isinstance(method, Byol) and method.alignment is not None  # noqa: PT018
    assert method.target is not None
    trained_head = config.loss.control == "direct-head"
    alignment = method.alignment if trained_head else Alignment(method.alignment.settings)
    stage = max(config.loss.align_stages)
    head = _direct_head(state, bench, stage)
    before: dict[int, Tensor] = {}
    maps: dict[str, list[Tensor]] = {"C": [], "rolled": [], "head": [], "mask": []}
    pictures = []
    for batch in _views(state, bench, bench.test_split):
        online, keys = method.online(batch.q), method.target(batch.k)
        maps["C"].append(alignment.correspondence(online, keys, stage))
        # Rolled here: this process evaluates alone, and the arm of that name rolls over all processes. A picture that
        # is alone in the last batch gets the keys of one before it.
        before = keys.maps if len(batch) > 1 else before
        rolled = replace(keys, maps={s: m.roll(1, 0)[: len(batch)] for s, m in before.items()})
        maps["rolled"].append(alignment.correspondence(online, rolled, stage))
        maps["head"].append(probe_maps(online.z[stage], head))
        maps["mask"].append(batch.masks(0, maps["C"][-1].shape[-1]))
        if not pictures:
            pictures = [(batch.q[i].float().cpu(), maps["C"][0][i].cpu(), batch.rects[i, 0].tolist()) for i in
                        range(min(SHOWN, len(batch.q)))]  # fmt: skip
    c, other, direct, mask = (torch.cat(maps[name]) for name in maps)
    name = "direct head" if trained_head else "C map"
    found = {f"views: {name}": figures(c, mask)}
    if not trained_head:
        found["views: C map, another image's keys"] = figures(other, mask)
    found[f"views: {name}, another image's mask"] = figures(c, mask.roll(1, 0))
    found["views: linear direct head, no keys"] = figures(direct, mask)
    found["views: centre prior"] = figures(centre_prior(mask.shape[-1], mask.device).expand_as(mask), mask)
    extra: dict[str, Any] = {
        "mask_share": mask.mean().item(),
        "squared_error": (c - mask).square().mean().item(),
        "squared_error_of_constant": mask.var(correction=0).item(),
        "saturated": ((c < 0.01) | (c > 0.99)).float().mean().item(),
    }
    if not trained_head:
        change = cell_auc(other, mask) - cell_auc(c, mask)
        change = change[change.isfinite()].double()
        if len(change) > 1:  # else there is no standard error
            error = (change.std() / len(change) ** 0.5).item()
            extra["rolled_keys"] = {"change": change.mean().item(), "standard_error": error, "images": len(change)}
    return found, extra, pictures


def _direct_head(state: TrainingState, bench: Bench, stage: int) -> tuple[Tensor, Tensor]:
    """A linear head per cell on the online features of training views, fitted to their masks."""
    z, masks = [], []
    for batch in _views(state, bench, bench.train_split):
        z.append(state.method.online(batch.q).z[stage].float())
        masks.append(batch.masks(0, z[-1].shape[-1]))
    return fit_probe(torch.cat(z), torch.cat(masks))


def _views(state: TrainingState, bench: Bench, split: str) -> Iterator[Batch]:
    """Batches of a split's views, each image once, as many as localisation looks at."""
    config, data, seen = state.config, bench.data, 0
    with open_views(
        data.cache, data.root, policy=config.views, split=data.split(split),
        backend=config.making.backend, drop_last=False, maps=config.maps_used, on_bad=config.making.on_bad,
        batch_size=bench.batch, device=bench.device, seed=config.run.seed + 1,
        workers=config.making.workers, say=_quiet,
    ) as loader:  # fmt: skip
        for batch in loader:
            yield batch
            seen += len(batch)
            if seen >= MOST_IMAGES:
                break


def _figure(found: dict[str, Any], pictures: list[tuple], out: Path, say: Say) -> None:
    """localisation.png: held-out views with their rectangle and C map, and the AUCs side by side."""
    try:
        import matplotlib
    except ImportError:
        say("figure: left out, matplotlib is not installed (pip install 'saliencyswap[plots]')")
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.patches import Patch, Rectangle

    bars = {name: value["auc"] for name, value in found.items() if isinstance(value, dict) and "auc" in value}
    figure = plt.figure(figsize=(2 * SHOWN, 8), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=(5, 3), squeeze=False)[:, 0]
    for i, (view, c, (x0, y0, x1, y1)) in enumerate(pictures):
        image = as_picture(view)
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
    controls = ("prior", "another image", "shuffled")
    colours = ["tab:gray" if any(word in name for word in controls) else "tab:blue" for name in bars]
    axes.barh(list(bars)[::-1], list(bars.values())[::-1], color=colours[::-1])
    axes.axvline(0.5, color="black", linewidth=0.8)
    axes.set_xlim(0.4, 1)
    axes.legend(
        handles=[Patch(color="tab:blue", label="what was learned"), Patch(color="tab:gray", label="its controls")],
        loc="lower right", fontsize=8,
    )  # fmt: skip
    axes.set_xlabel("AUC of a cell's score against the box, mean over held-out images (chance 0.5)")
    with replacing(out / FIGURE) as temporary:
        figure.savefig(temporary, dpi=110, format="png", metadata={"Software": None})
    plt.close(figure)
    say(f"figure: {out / FIGURE}")


def as_picture(view: Tensor) -> np.ndarray:
    """A normalised view [3, S, S] as float RGB [S, S, 3] in [0, 1]."""
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return (view.permute(1, 2, 0) * std + mean).clamp(0, 1).numpy()


def _quiet(line: str) -> None:
    """The held-out loader chooses what the training loader chose and said."""
