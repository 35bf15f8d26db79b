"""A model card written from the run: what was trained on what, how, and what it can do."""

import json
from pathlib import Path
from typing import Any

from precompute.base.files import replacing
from precompute.base.program import count
from trainer.evaluation.localise import shown
from trainer.methods.registry import METHODS
from trainer.record import CARD as NAME
from trainer.record import metrics

FEW = 30  # images, from which on a mean is worth its standard error


def write_card(folder: Path, evaluation: dict[str, Any] | None) -> Path:
    """MODEL_CARD.md in the run's folder, from metrics.jsonl and the evaluation alone."""
    rows = metrics.read(folder / metrics.NAME)
    header, steps = metrics.header(folder / metrics.NAME), [r for r in rows if r["kind"] == "step"]
    config, settings, about = header["config"], header["settings"], header["about"]
    data = about["data"]
    lines = [
        f"# {config['arch']}, {config['method']} on {data['name']}",
        "",
        f"A ResNet encoder without classifier, trained without labels on {settings['images']} images of split "
        f"`{config['train_split']}` of `{data['name']}`. `encoder.safetensors` has torchvision's key names; load it "
        "with `strict=False` (only `fc` is missing), or with `hubconf.py`. Input: RGB, ImageNet mean and deviation.",
        "",
        "## Training",
        f"- {settings['steps']} steps of {settings['batch_size']} images ({count(config['epochs'], 'epoch')}), "
        f"{settings['optimizer']}, peak learning rate {settings['peak_lr']:g}, warm-up {settings['warmup']} steps, "
        f"weight decay {settings['weight_decay']:g}, {METHODS[config['method']].target(config['ema'])}, "
        f"autocast {settings['amp']}, seed {config['seed']}",
        *_method(config, settings),
        f"- views: {json.dumps(about['policy'])}",
        f"- torch {about['torch']}, Python {about['python']}, commit {about['commit']}",
        f"- boxes: {json.dumps(data['provenance'].get('config', {}))}",
    ]
    if config["control"] != "none":
        lines.append(f"- CONTROL ARM: {config['control']}; not a model to use")
    if steps:
        terms = [k for k in ("loss", "contrastive", "alignment") if k in steps[-1]]
        moved = ", ".join(f"{k} {steps[0][k]:.4g} → {steps[-1][k]:.4g}" for k in terms)
        lines.append(f"- first → last log line: {moved}")
    lines += ["", "## Evaluation (held-out images)", *_results(evaluation)]
    lines += [
        "",
        "## Limits",
        "One run and one seed; differences of a few hundredths are within the spread between seeds "
        "(`python -m trainer.compare`). A C map whose AUC stays the same with another image's keys is a foreground "
        "classifier per cell: no correspondence between views is claimed. The licence of the training images applies.",
        "",
    ]
    path = folder / NAME
    with replacing(path) as temporary:
        temporary.write_text("\n".join(lines))
    return path


def _method(config: dict[str, Any], settings: dict[str, Any]) -> list[str]:
    """What was learned with, beside the optimizer: the alignment, where the weights came from."""
    dim = {"rotpred": "4 (the turns)", "looc": f"2 x {config['dim']}"}.get(config["method"], config["dim"])
    conv = f", {settings['conv_hidden']} (1x1 conv)" if config["method"] == "cvsa" else ""
    lines = [f"- heads: d {dim}, hidden {settings['hidden']} (MLP){conv}"]
    if config["accumulate"] > 1:
        lines.append(f"- every step's batch in {config['accumulate']} parts; BatchNorm saw a part at a time")
    if others := config.get("backgrounds"):
        own = "beside the training images" if config["own_backgrounds"] else "alone"
        lines.append(f"- backgrounds from {', '.join(others[::2])} {own}")
    if config["method"] == "cvsa":
        given = {k: config[k] for k in ("scale", "temperature", "reduction", "align_weight", "mask")}
        options = "".join(f", {k} {v}" for k, v in given.items() if v is not None)
        stages = " and ".join(map(str, config["align_stages"]))
        lines.append(f"- alignment: preset `{config['loss']}`{options}; stage {stages}")
    if config["init"] or config["freeze_stages"]:
        frozen = (
            f"stem and stages 1 to {config['freeze_stages']} frozen" if config["freeze_stages"] else "nothing frozen"
        )
        lines.append(f"- started from {config['init'] or 'random weights'}, {frozen}")
    return lines


def _results(evaluation: dict[str, Any] | None) -> list[str]:
    if evaluation is None:
        return ["Not evaluated (`python -m trainer.evaluate encoder.safetensors ...`)."]
    lines = []
    if knn := evaluation["knn"]:
        lines.append(
            f"- kNN (k=20) top-1 {knn['accuracy']:.4f} of {knn['images']}; untrained net {knn['untrained']:.4f}, "
            f"most frequent class {knn['majority']:.4f}"
        )
    if found := evaluation["localisation"]:
        lines += ["", "| map | AUC per cell | pointing | energy in box |", "|---|---|---|---|"]
        for name, value in found.items():
            if isinstance(value, dict) and "auc" in value:
                told = " | ".join(shown(value[figure]) for figure in ("auc", "pointing", "energy"))
                lines.append(f"| {name} | {told} |")
        lines += ["", f"Box area share (chance for pointing and energy): {area_shares(found)}."]
        if "rolled_keys" in found:
            lines.append(f"C maps: {keys_sentence(found['rolled_keys'])}.")
    if bad := evaluation.get("left_out"):
        lines += ["", f"Left out of the evaluation, as their files went bad: {', '.join(bad)}."]
    return lines


def area_shares(found: dict[str, Any]) -> str:
    """The boxes' share of the area, wherever localisation was looked at."""
    shares = {"whole images": found["images"]["area_share"], "off-centre crops": found["images"]["crops"]["area_share"]}
    if "mask_share" in found:
        shares["views"] = found["mask_share"]
    return ", ".join(f"{where} {share:.3f}" for where, share in shares.items())


def keys_sentence(found: dict[str, float]) -> str:
    """What another image's keys say about correspondence between views: `change` of C's AUC, its `standard_error`."""
    change, error = found["change"], found["standard_error"]
    told = f"another image's keys change C's AUC by {change:+.3f} ± {error:.3f} (standard error)"
    if found.get("images", FEW) < FEW:
        return f"{told}: {found['images']} images are too few to show a correspondence of views"
    return f"{told}: {'some' if change < -2 * error else 'no'} correspondence of views shown"
