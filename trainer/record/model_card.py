"""A model card written from the run: what was trained on what, how, and how good it is."""

from pathlib import Path
from typing import Any

from precompute.base.files import replacing
from precompute.base.markup import code, json_code, markdown, without_folders
from precompute.base.program import count
from trainer.methods.registry import METHODS, MethodRecord
from trainer.record import CARD, METRICS, metrics
from trainer.record.figures import MEASURES, area_shares, keys_sentence, matching_lines, own_keys_sentence, shown


def write_card(folder: Path, evaluation: dict[str, Any] | None) -> Path:
    """MODEL_CARD.md in the run's folder, from metrics.jsonl and the evaluation alone."""
    header = metrics.header(folder / METRICS)
    steps = [row for row in metrics.read(folder / METRICS) if row["kind"] == "step"]
    path = folder / CARD
    with replacing(path) as temporary:
        temporary.write_text(_card(header, steps, evaluation))
    return path


def _card(header: dict[str, Any], steps: list[dict[str, Any]], evaluation: dict[str, Any] | None) -> str:
    config, settings, about = header["config"], header["settings"], header["about"]
    data, record = about["data"], METHODS[config["method"]]
    config = without_folders(config)  # a card is published, and folders name people and machines
    boxes = without_folders(data["provenance"].get("config", {}))
    return f"""\
# {config["arch"]}, {record.name} on {markdown(data["name"])}

A ResNet encoder without classifier, trained without labels on {settings["images"]} images of split \
{code(config["train_split"])} of {code(data["name"])}. `encoder.safetensors` has torchvision's key names; load it with \
`strict=False` (only `fc` is missing), or with `hubconf.py`. Input: RGB, ImageNet mean and deviation.

## Training
- {record.name}: {record.about}
- {settings["steps"]} steps of {settings["batch_size"]} images ({count(config["epochs"], "epoch")}), \
{settings["optimizer"]}, peak learning rate {settings["peak_lr"]:g}, warm-up {settings["warmup"]} steps, \
weight decay {settings["weight_decay"]:g}, {record.target(config["ema"])}, autocast {settings["amp"]}, \
seed {config["seed"]}
{_items(*_method(record, config, settings))}\
- views: {json_code(about["policy"])}
- torch {markdown(about["torch"])}, Python {markdown(about["python"])}, commit {markdown(about["commit"])}
- boxes: {json_code(boxes)}
{_items(*_remarks(config, steps))}
## Evaluation (held-out images)
{_results(evaluation)}
## Limits
One run and one seed; differences of a few hundredths are within the spread between seeds \
(`python -m trainer.compare`). A C map whose AUC stays the same with another image's keys is a foreground classifier \
per cell: no correspondence between views is claimed. The licence of the training images applies.
"""


def _items(*texts: str | None) -> str:
    """The texts as lines of a list; None is left out."""
    return "".join(f"- {text}\n" for text in texts if text is not None)


def _method(record: MethodRecord, config: dict[str, Any], settings: dict[str, Any]) -> list[str | None]:
    """Heads, parts of a batch, backgrounds, alignment, and the weights at the start."""
    dim = f"{record.outputs} (set by the method)" if record.outputs else f"{config['dim']}"
    dim = f"{record.embeddings} x {dim}" if record.embeddings > 1 else dim
    heads = f"heads: d {dim}, hidden {settings['hidden']} (MLP)"
    parts = backgrounds = alignment = start = None
    if config["accumulate"] > 1:
        parts = f"every step's batch in {config['accumulate']} parts; BatchNorm saw a part at a time"
    if sets := config.get("backgrounds"):
        own = "beside the training images" if config["own_backgrounds"] else "alone"
        backgrounds = f"backgrounds from {', '.join(map(markdown, sets[::2]))} {own}"
    if record.aligns:
        heads += f", {settings['conv_hidden']} (1x1 conv)"
        given = {k: config[k] for k in ("scale", "temperature", "reduction", "align_weight", "mask")}
        options = "".join(f", {k} {v}" for k, v in given.items() if v is not None)
        alignment = (
            f"alignment: preset `{config['loss']}`{options}; stage {' and '.join(map(str, config['align_stages']))}"
        )
    if record.matches:
        alignment = (
            f"{alignment}; whole views: {config['contrast']}; dense weight {config['dense_weight']:g}, "
            f"temperature {config['dense_temperature']:g}"
        )
    if config["init"] or config["freeze_stages"]:
        frozen = f"stem and stages 1 to {config['freeze_stages']}" if config["freeze_stages"] else "nothing"
        start = f"started from {markdown(config['init'] or 'random weights')}, {frozen} frozen"
    return [heads, parts, backgrounds, alignment, start]


def _remarks(config: dict[str, Any], steps: list[dict[str, Any]]) -> list[str | None]:
    """Whether the run is a control arm, and how its losses fell."""
    control = None if config["control"] == "none" else f"CONTROL ARM: {config['control']}; not a model to use"
    if not steps:
        return [control]
    first, last = steps[0], steps[-1]
    losses = [f"{k} {first[k]:.4g} → {last[k]:.4g}" for k in ("loss", "contrastive", "alignment", "dense") if k in last]
    return [control, f"first → last log line: {', '.join(losses)}"]


def _results(evaluation: dict[str, Any] | None) -> str:
    if evaluation is None:
        return "Not evaluated (`python -m trainer.evaluate encoder.safetensors ...`).\n"
    text = ""
    if knn := evaluation.get("knn"):
        text += (
            f"- kNN (k=20) top-1 {knn['accuracy']:.4f} of {knn['images']}; untrained net {knn['untrained']:.4f}, "
            f"most frequent class {knn['majority']:.4f}\n"
        )
    if localisation := evaluation.get("localisation"):
        text += "\n| map | AUC per cell | pointing | energy in box |\n|---|---|---|---|\n"
        for name, figures in localisation.items():
            if isinstance(figures, dict) and "auc" in figures:
                text += f"| {markdown(name)} | {' | '.join(shown(figures[measure]) for measure in MEASURES)} |\n"
        text += f"\nBox area share (chance for pointing and energy): {area_shares(localisation)}.\n"
        if "rolled_keys" in localisation:
            text += f"C maps: {keys_sentence(localisation['rolled_keys'])}.\n"
        if "relative_rolled_keys" in localisation:
            text += f"C maps: {keys_sentence(localisation['relative_rolled_keys'], 'relative C')}.\n"
        if "own_keys" in localisation:
            text += f"C maps: {own_keys_sentence(localisation['own_keys'])}.\n"
    if matching := evaluation.get("matching"):
        text += "".join(f"\n{' '.join(line.split())}" for line in matching_lines(matching)) + "\n"
    if bad := evaluation.get("left_out"):
        first = "; ".join(f"{code(path)} ({markdown(reason)})" for path, reason in list(bad.items())[:5])
        text += f"\nLeft out of the evaluation: {count(len(bad), 'picture')}, such as {first}.\n"
    return text
