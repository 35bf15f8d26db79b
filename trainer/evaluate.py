"""What an encoder is worth: kNN, linear, fine-tuned accuracy and localisation, for anybody's ResNet or ViT weights.

python -m trainer.evaluate runs/cub/encoder.safetensors --boxes cache/cub.h5 --root data/CUB_200_2011
python -m trainer.evaluate resnet50.pth --dataset cub --protocol linear finetune --json
python -m trainer.evaluate runs/cub/encoder.safetensors --dataset cub --protocol localise --gallery sheet.png
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from augment.backends import NAMES as BACKENDS
from precompute.base.device import check_device
from precompute.base.errors import UsageError, UserError
from precompute.base.options import Parser, add_options, option, read_options
from precompute.base.program import check_out, main
from trainer.config.choices import let_idle_threads_sleep
from trainer.config.run import positive

NOTHING_TO_FIND = "no held-out picture has cells of both its box and its background (whole-picture boxes, or one cell)"
PROTOCOLS = ("knn", "localise", "linear", "finetune")
# Weights files hold no heads, so what a localisation report needs them for stands elsewhere.
NOT_HERE = """\
  The probe is a direct head per cell; the shuffled one was fitted on other images' boxes.
  Rolled keys need a run's heads: trainer.run. Twins trained with shuffled masks or a direct head: trainer.compare."""


@dataclass(frozen=True)
class EvaluateConfig:
    """Settings of `trainer.evaluate`. ValueError names the value and the remedy."""

    dataset: str | None = option(None, "name of a data set whose boxes are in cache/NAME.h5")
    boxes: str | None = option(None, "box file made by precompute.boxes")
    root: str | None = option(None, "image folder of the box file's paths; default: the one it was made with")
    protocol: tuple[str, ...] = option(
        (), "protocols, or all; default: knn (where there are labels) and localise", choices=(*PROTOCOLS, "all")
    )
    arch: str | None = option(None, "architecture of the weights; default: found from their shapes")
    train_split: str = option("train", "split to learn from")
    eval_split: str | None = option(None, "split to test on; default: test, else val")
    size: int | None = option(None, "side of the images in pixels; default 224, 64 for narrow encoders")
    batch_size: int | None = option(None, "images per step; default 64, 16 for finetune")
    linear_epochs: int = option(100, "epochs of the linear protocol")
    linear_lr: float = option(
        30.0, "learning rate of the linear protocol per 256 images, on features scaled to rms 0.06 (iNat2018: 0.025)"
    )
    finetune_epochs: int = option(200, "epochs of the finetune protocol")
    finetune_lr: float = option(0.001, "learning rate of the finetune protocol")
    pipeline: str = option("auto", "what makes the training crops", choices=BACKENDS)
    device: str = option("auto", "auto, cpu, cuda or cuda:N")
    workers: int | None = option(None, "threads for reading; default: the machine's cores")
    seed: int = option(0, "seed of crops and classifiers")
    gallery: str | None = option(None, "PNG of held-out pictures with label-free Grad-CAM, similarity and energy maps")

    def __post_init__(self) -> None:
        positive(self, "size", "batch_size", "linear_epochs", "linear_lr", "finetune_epochs", "finetune_lr", "workers")
        check_device(self.device)
        if self.size is not None and not 8 <= self.size <= 4096:
            raise ValueError(f"--size {self.size}: must be within 8 and 4096")
        if self.batch_size == 1 and {"finetune", "all"} & set(self.protocol):
            raise ValueError("--batch-size 1: --protocol finetune needs at least 2 images a step, for BatchNorm")
        if self.dataset is not None and self.boxes is not None:
            raise ValueError("--dataset and --boxes each name the data: give one of them")
        if self.gallery is not None and not self.gallery.lower().endswith(".png"):
            raise ValueError(f"--gallery {self.gallery}: name a .png file")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"--seed {self.seed}: must be at least 0 and less than 2^63")


def program(argv: list[str] | None = None) -> int:
    """Evaluates one weights file; exit status 0 done, 1 failed, 2 usage."""
    let_idle_threads_sleep()
    parser = Parser("trainer.evaluate", __doc__)
    parser.add_argument("weights", help="weights file, or 'random' with --arch for an untrained network")
    parser.add_argument("--json", action="store_true", help="print one JSON document as the last line")
    add_options(parser, EvaluateConfig)
    parsed = parser.parse_args(argv)
    config = read_options(EvaluateConfig, parsed)
    check_out(config.gallery, "--gallery")
    result = evaluate(parsed.weights, config)
    if parsed.json:
        from trainer.record.metrics import finite

        print(json.dumps(finite(result), allow_nan=False))
    return 0


def evaluate(weights: str, config: EvaluateConfig) -> dict[str, Any]:
    """All protocols asked for, as JSON values; prints what it finds."""
    import torch

    from precompute.base.options import as_json
    from trainer.config.choices import find_hardware
    from trainer.engine.data import open_data
    from trainer.evaluation import gallery, protocols
    from trainer.model.encoders import load_any, untrained

    if config.gallery:
        gallery.require()
    torch.manual_seed(config.seed)
    if weights == "random":
        if config.arch is None:
            raise UsageError("random weights need --arch, for example --arch resnet18")
        arch, remark = config.arch, "weights: none, a random initialisation"
        encoder, size = untrained(arch, config.size)
    else:
        encoder, arch, size, remark = load_any(weights, config.arch, config.size)
    print(remark)
    data = open_data(config.dataset, config.boxes, config.root, print)
    held_out = data.held_out(config.train_split, config.eval_split)
    if held_out is None:
        raise UserError(data.nothing_held_out)
    hardware, _ = find_hardware(config.device)
    encoder = encoder.to(hardware.device).to(memory_format=torch.channels_last)
    result: dict[str, Any] = {
        "weights": weights,
        "arch": arch,
        "config": as_json(config),
        "eval_split": held_out,
        "size": size,
    }

    def bench_of(batch: int) -> protocols.Bench:
        return protocols.Bench(
            data, config.train_split, held_out, size, config.batch_size or batch,
            hardware.device, config.workers, config.pipeline, config.seed,
        )  # fmt: skip

    if config.gallery:
        gallery.write_gallery(encoder, bench_of(64), Path(config.gallery), print)
        result["gallery"] = config.gallery
    asked = PROTOCOLS if "all" in config.protocol else config.protocol
    if not asked:
        asked = ("knn", "localise") if bench_of(64).has_labels() else ("localise",)
        print(f"--protocol {' '.join(asked)}: the default" + ("" if "knn" in asked else " where there are no labels"))
    for name in asked:
        bench = bench_of(16 if name == "finetune" else 64)
        if name != "localise" and not bench.has_labels():
            raise UserError(
                f"--protocol {name}: the set has no labels in {config.train_split} or {held_out}. "
                "--protocol localise needs none"
            )
        if name == "knn":
            result[name] = protocols.knn(encoder, bench)
        elif name == "linear":
            result[name] = protocols.linear(encoder, bench, print, config.linear_epochs, config.linear_lr)
        elif name == "finetune":
            result[name] = protocols.finetune(encoder, bench, print, config.finetune_epochs, config.finetune_lr)
        else:
            result[name] = protocols.localise(encoder, bench)
        print(_sentence(name, result[name], bench))
    return result


def _sentence(name: str, found: dict[str, Any], bench: Any) -> str:
    """A protocol's result for a person."""
    if name != "localise":
        return (
            f"{name}: {found['accuracy']:.4f} of {found['images']} images (most frequent class {bench.majority():.4f})"
        )
    if found["probe"]["images"] == 0:
        return f"localise: left out, {NOTHING_TO_FIND}"
    whole, crops = _table(found), _table(found["crops"])
    if found["cells"] < 4:
        few = "few to localise on: the figures mean little. A larger --size gives more"
        whole = f"{whole}\n  note: maps of {found['cells']}×{found['cells']} cells are {few}"
    return f"localise, whole images: {whole}\nlocalise, off-centre crops: {crops}\n{NOT_HERE}"


def _table(found: dict[str, Any]) -> str:
    """The maps' figures, one a line."""
    from trainer.evaluation.localise import shown

    lines = [f"box area share {found['area_share']:.3f}, {found['off_centre_images']} images off-centre"]
    lines.append(f"  {'map':14s} {'AUC':>6s} {'point':>6s} {'energy':>6s}  off-centre AUC  MaxBoxAcc@0.3 @0.5 @0.7")
    for key in ("probe", "shuffled probe", "energy", "centre prior"):
        f, accuracy = found[key], found[key]["max_box_accuracy"]
        boxes = "  ".join(f"{accuracy[iou]:.3f}" for iou in ("0.3", "0.5", "0.7"))
        line = f"  {key:14s} " + " ".join(f"{shown(f[name]):>6s}" for name in ("auc", "pointing", "energy"))
        lines.append(f"{line}  {shown(f['off_centre']['auc']):>14s}  {boxes}")
    return "\n".join(lines)


if __name__ == "__main__":
    main(program)
