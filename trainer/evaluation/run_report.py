"""What a finished run learned: kNN accuracy, and localisation beside the centre prior, as numbers and one figure."""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from augment import Batch
from precompute.base.files import replacing
from trainer.config.run import RunConfig
from trainer.engine.data import Data
from trainer.engine.state import TrainingState
from trainer.evaluation.bench import MOST_IMAGES, Bench
from trainer.evaluation.localise import Figures, centre_prior, figures, fit_probe, mean_and_error, probe_maps
from trainer.evaluation.matching import matching
from trainer.evaluation.pictures import SHOWN, SeenView, draw_run
from trainer.evaluation.protocols import knn, localise
from trainer.methods.losses import relative_correspondence
from trainer.model.auc import cell_auc
from trainer.model.encoders import Encoder
from trainer.model.matched import own_beats_rolled
from trainer.model.resnets import build_encoder
from trainer.record import EVALUATION, FIGURE, MATCHES
from trainer.record.figures import NOTHING_TO_FIND, area_shares, keys_sentence, own_keys_sentence, shown
from trainer.record.metrics import finite

Say = Callable[[str], None]
# The maps of `protocols.localise` by their names in a run's report.
_MAPS = {"linear probe": "probe", "shuffled probe": "shuffled probe", "feature energy": "energy",
         "centre prior": "centre prior"}  # fmt: skip


@torch.no_grad()
def evaluate_run(state: TrainingState, data: Data, held_out: str, out: Path, say: Say) -> dict[str, Any]:
    """kNN and localisation of the online encoder as JSON values; prints them, writes evaluation.json and a figure.

    `held_out` is the split to evaluate on.
    """
    state.method.eval()
    config = state.config
    batch = max(state.settings.batch_size // config.schedule.accumulate, 16)
    device = str(next(state.method.parameters()).device)
    making = replace(config.making, device=device)
    bench = Bench(data, config.data.train_split, held_out, config.views.size, batch, making=making)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.run.seed)
        untrained = build_encoder(config.model.arch).to(device)
    encoder = state.method.online.encoder
    result: dict[str, Any] = {"eval_split": held_out, "knn": _knn(encoder, untrained, bench, say)}
    result["localisation"], views = _localisation(state, bench, say)
    result["matching"] = matching(encoder, untrained, bench, config.run.seed + 1, out / MATCHES, say)
    state.method.train()
    if bench.left_out:
        result["left_out"] = bench.left_out
        say(bench.remark)
    with replacing(out / EVALUATION) as temporary:
        temporary.write_text(json.dumps(finite(result), indent=1, allow_nan=False) + "\n")
    if result["localisation"] is not None and views:
        draw_run(result["localisation"], views, out / FIGURE)
        say(f"figure: {out / FIGURE}")
    return result


def _knn(encoder: Encoder, untrained: Encoder, bench: Bench, say: Say) -> dict[str, Any] | None:
    """kNN accuracy on the held-out split, beside an untrained encoder's and that of guessing."""
    if not bench.has_labels():
        say("kNN: left out, the set has no labels in one of the splits")
        return None
    result, before = knn(encoder, bench), knn(untrained, bench)
    result |= {"untrained": before["accuracy"], "untrained_class_auc": before["class_auc"]}
    result["majority"] = bench.majority()
    say(
        f"kNN (k=20, {result['images']} held-out images): {result['accuracy']:.3f}; the same net untrained "
        f"{result['untrained']:.3f}; the most frequent class {result['majority']:.3f}"
    )
    sample = f" (of {MOST_IMAGES} of them)" if result["images"] > MOST_IMAGES else ""
    auc, auc_before = (shown(x["class_auc"]) for x in (result, before))
    say(f"same-class retrieval AUC{sample}: {auc}; untrained {auc_before}")
    return result


def _localisation(state: TrainingState, bench: Bench, say: Say) -> tuple[dict[str, Any] | None, list[SeenView]]:
    """The figures of all score maps on held-out images, as JSON values, and some views with their C maps."""
    scores = bench.data.cache.scores[bench.rows(bench.test_split).numpy()]
    if len(scores) < 2:
        held_out = f"split {bench.test_split!r} has {len(scores)}"
        say(f"localisation: left out, its controls need another held-out picture; {held_out}")
        return None, []
    if (scores <= 0).all():
        say("localisation: left out, there are no held-out images with boxes")
        return None, []
    rows: dict[str, Figures] = {}
    more: dict[str, Any] = {}
    views: list[SeenView] = []
    probed = localise(state.method.online.encoder, bench)  # before the views: it finds the files that went bad
    if getattr(state.method, "alignment", None) is not None:
        rows, more, views = _correspondence(state, bench.sampled())
    if probed["probe"]["images"] == 0:
        say(f"localisation: left out, {NOTHING_TO_FIND}")
        return None, []
    for name, key in _MAPS.items():
        for where, of in (("images", probed), ("off-centre crops", probed["crops"])):
            rows[f"{where}: {name}"] = Figures(**{f: of[key][f] for f in ("auc", "pointing", "energy", "images")})
    result = {name: asdict(value) for name, value in rows.items()} | more | {"images": probed}
    say("localisation on held-out images (means; the centre prior knows nothing of the picture):")
    width = max(38, *map(len, rows))
    for name, value in rows.items():
        say(f"  {name:{width}s} {value}  ({value.images} images)")
    if len({value.images for value in rows.values()}) > 1:
        say("  (of fewer images where a box covers every cell or none, as such a map has no AUC)")
    say(f"  box area share (chance for pointing and energy): {area_shares(result)}")
    if "rolled_keys" in more:
        say("  " + keys_sentence(more["rolled_keys"]))
    if "relative_rolled_keys" in more:
        say("  " + keys_sentence(more["relative_rolled_keys"], "relative C"))
    if "own_keys" in more:
        say("  " + own_keys_sentence(more["own_keys"]))
    return result, views


def _correspondence(state: TrainingState, bench: Bench) -> tuple[dict[str, Figures], dict[str, Any], list[SeenView]]:
    """Figures of the C maps of held-out views beside their controls, further facts, and some views with their C maps.

    The controls that one run can show: another image's keys, another image's mask (what is left when a map knows where
    objects lie as a rule), a direct head (linear, per cell, on the same features, no keys), the centre prior. Relative
    C maps say how much better a pair's keys fit than those of other images (`losses.relative_correspondence`).
    """
    (c, rolled, direct, mask), relative, views = _score_maps(state, bench)
    trained_head = state.config.loss.control == "direct-head"
    name = "direct head" if trained_head else "C map"
    rows = {f"views: {name}": figures(c, mask)}
    found: dict[str, tuple[str, Tensor]] = {}
    if not trained_head:
        rows["views: C map, another image's keys"] = figures(rolled, mask)
        found["rolled_keys"] = "change", cell_auc(rolled, mask) - cell_auc(c, mask)
        found["own_keys"] = "share", own_beats_rolled(c, rolled, mask)
    if relative:
        own, others, seen = relative
        rows["views: relative C map"] = figures(own, seen)
        rows["views: relative C map, another image's keys"] = figures(others, seen)
        found["relative_rolled_keys"] = "change", cell_auc(others, seen) - cell_auc(own, seen)
    rows[f"views: {name}, another image's mask"] = figures(c, mask.roll(1, 0))
    rows["views: linear direct head, no keys"] = figures(direct, mask)
    rows["views: centre prior"] = figures(centre_prior(mask.shape[-1], mask.device).expand_as(mask), mask)
    more: dict[str, Any] = {
        "mask_share": mask.mean().item(),
        "squared_error": (c - mask).square().mean().item(),
        "squared_error_of_constant": mask.var(correction=0).item(),
        "saturated": ((c < 0.01) | (c > 0.99)).float().mean().item(),
    }
    for key, (what, values) in found.items():
        mean, error, count = mean_and_error(values)
        if count > 1:  # else there is no standard error
            more[key] = {what: mean, "standard_error": error, "images": count}
    return rows, more, views


def _score_maps(state: TrainingState, bench: Bench) -> tuple[list[Tensor], list[Tensor], list[SeenView]]:
    """Maps of held-out views at the last aligned stage, and some views.

    C, C with another image's keys, a linear head's scores and masks, [N, H, W] each; then relative C with its own keys
    and with another image's, and masks, of the pictures that have others in their batch (none of a direct head).
    """
    method: Any = state.method
    stage = max(state.config.loss.align_stages)
    alignment = method.alignment
    if alignment.control != "direct-head":
        alignment = replace(alignment, control="none")
    head = _direct_head(state, bench, stage)
    before: dict[int, Tensor] = {}
    maps: list[list[Tensor]] = []
    relative: list[list[Tensor]] = []
    views: list[SeenView] = []
    for batch in _views(state, bench, bench.test_split):
        online, keys = method.online(batch.q), method.target(batch.k)
        c = alignment.correspondence(online, keys, stage)
        mask = batch.masks(0, c.shape[-1])
        # Rolled here: this process evaluates alone, and the arm of that name rolls over all processes. A picture that
        # is alone in the last batch gets the keys of one before it.
        before = keys.maps if len(batch) > 1 else before
        others = replace(keys, maps={s: m.roll(1, 0)[: len(batch)] for s, m in before.items()})
        maps.append([c, alignment.correspondence(online, others, stage), probe_maps(online.z[stage], head), mask])
        if alignment.control != "direct-head" and len(batch) > 1:
            own = torch.arange(len(batch), device=mask.device)
            pairs = online.predicted_maps[stage], keys.maps[stage], torch.stack([own, own.roll(1)])
            relative.append([*relative_correspondence(*pairs, alignment.settings), mask])
        if not views:
            shown = zip(batch.q[:SHOWN].float().cpu(), c[:SHOWN].cpu(), batch.rects[:SHOWN, 0].tolist(), strict=True)
            views = [SeenView(*view) for view in shown]
    whole, against_others = ([torch.cat(part) for part in zip(*of, strict=True)] for of in (maps, relative))
    return whole, against_others, views


def _direct_head(state: TrainingState, bench: Bench, stage: int) -> tuple[Tensor, Tensor]:
    """A linear head per cell on the online features of training views, fitted to their masks."""
    z, masks = [], []
    for batch in _views(state, bench, bench.train_split):
        z.append(state.method.online(batch.q).z[stage].float())
        masks.append(batch.masks(0, z[-1].shape[-1]))
    return fit_probe(torch.cat(z), torch.cat(masks))


def _views(state: TrainingState, bench: Bench, split: str) -> Iterator[Batch]:
    """Batches of a split's views."""
    config = state.config
    # C maps of views that are wholly the object say nothing, so methods trained on such are shown the usual ones.
    policy = config.views if config.views.kind.pastes else RunConfig.of(size=bench.size).views
    return bench.every_view(split, policy, config.run.seed + 1, config.maps_used)
