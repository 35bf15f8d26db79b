"""Measures an encoder: kNN, linear and fine-tuned accuracy, and localisation, for anybody's ResNet or ViT weights.

python -m trainer.evaluate runs/cub/encoder.safetensors --boxes cache/cub.h5 --root data/CUB_200_2011
python -m trainer.evaluate resnet50.pth --dataset cub --protocol linear finetune --json
python -m trainer.evaluate runs/cub/encoder.safetensors --dataset cub --protocol localise --gallery sheet.png
"""

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from augment.request import Making
from augment.views.policy import LARGEST, SMALLEST
from precompute.base.errors import BadValue, UserError
from precompute.base.options import Parser, add_options, as_json, group, option, read_options
from precompute.base.program import check_out, main
from trainer.config.choices import let_idle_threads_sleep
from trainer.config.run import DataConfig, refuse_two_sets

if TYPE_CHECKING:
    from trainer.evaluation.bench import Bench
    from trainer.model.encoders import Encoder

PROTOCOLS = ("knn", "localise", "linear", "finetune")


@dataclass(frozen=True)
class EvaluateConfig:
    """Settings of `trainer.evaluate`. BadValue names the value, the valid ones and the remedy."""

    data: DataConfig = group(DataConfig, "data", hidden=("maps", "backgrounds", "own_backgrounds"))
    protocol: tuple[str, ...] = option(
        (), "protocols, or all; default: knn (where there are labels) and localise", choices=(*PROTOCOLS, "all")
    )
    arch: str | None = option(
        None,
        "architecture of the weights, where neither the file nor its shapes say it. resnet18 (any of torchvision's): a "
        "7x7 stem of stride 2 and a max-pool, stride 32 in all; resnet18_cifar (any): a 3x3 stem of stride 1, no "
        "max-pool, 8 in all; resnet18w64 (10, 18, 34; any width): a 3x3 stem of stride 2, no max-pool, stage 4 of "
        "stride 1, 8 in all; ViTs by timm's or torchvision's names",
    )
    size: int | None = option(
        None, "side of the images in pixels; default: that of the run's views, else 224, 64 for narrow ResNets",
        least=SMALLEST, most=LARGEST,
    )  # fmt: skip
    batch_size: int | None = option(None, "images per step; default 64, 16 for finetune", above=0)
    linear_epochs: int = option(100, "epochs of the linear protocol", above=0)
    linear_lr: float = option(
        30.0, "learning rate of the linear protocol per 256 images, on features scaled to rms 0.06 (iNat2018: 0.025)",
        above=0,
    )  # fmt: skip
    finetune_epochs: int = option(200, "epochs of the finetune protocol", above=0)
    finetune_lr: float = option(0.001, "learning rate of the finetune protocol", above=0)
    making: Making = group(
        Making,
        "making of the training crops",
        hidden=("cache", "cache_bytes", "cache_dir", "cache_side", "decode", "service", "address", "check", "on_bad"),
        on_bad="fail",
    )
    seed: int = option(0, "seed of crops and classifiers", least=0, most=2**63 - 1)
    gallery: str | None = option(None, "PNG of held-out pictures with label-free Grad-CAM, similarity and energy maps")

    def __post_init__(self) -> None:
        if self.batch_size == 1 and {"finetune", "all"} & set(self.protocol):
            raise BadValue("batch_size", 1, "at least 2 for --protocol finetune", "BatchNorm needs 2 images a step")
        if self.gallery is not None:
            from precompute.base.sheet import check_format

            check_format(self.gallery, "--gallery")


def program(argv: list[str] | None = None) -> int:
    """Evaluates one weights file; exit status 0 done, 1 failed, 2 usage."""
    let_idle_threads_sleep()
    parser = Parser("trainer.evaluate", __doc__)
    parser.add_argument("weights", help="weights file, or 'random' with --arch for an untrained network")
    parser.add_argument("--json", action="store_true", help="print one JSON document as the last line")
    add_options(parser, EvaluateConfig)
    parsed = parser.parse_args(argv)
    refuse_two_sets(vars(parsed))
    config = read_options(EvaluateConfig, parsed)
    check_out(config.gallery, "--gallery")
    result = evaluate(parsed.weights, config)
    if parsed.json:
        from trainer.record.metrics import finite

        print(json.dumps(finite(result), allow_nan=False))
    return 0


def evaluate(weights: str, config: EvaluateConfig) -> dict[str, Any]:
    """The results of all protocols asked for, as JSON values; prints them as well."""
    import torch

    from precompute.base.device import find_device
    from trainer.engine.data import open_data
    from trainer.evaluation.bench import Bench
    from trainer.evaluation.gallery import write_gallery
    from trainer.model.encoders import load_any

    torch.manual_seed(config.seed)  # of random weights
    trained = trained_at(weights)
    encoder, arch, size, remark = load_any(weights, config.arch, config.size or trained)
    print(remark)
    if trained is not None and config.size is None:
        print(f"--size {size}: that of the views it was trained on")
    elif trained not in (None, size):
        print(f"note: trained on views of {trained} px, and judged at {size}: leave --size out to judge it at its own")
    data = open_data(config.data.dataset, config.data.boxes, config.data.root, print)
    held_out = data.held_out(config.data.train_split, config.data.eval_split)
    if held_out is None:
        raise UserError(data.nothing_held_out)
    if config.protocol != ("localise",):
        data.check_classes(config.data.train_split, held_out, "take what needs no classes: --protocol localise")
    if config.data.eval_split is None and (why := data.why(held_out)):
        print(why)
    making = replace(config.making, device=find_device(config.making.device))
    encoder = encoder.to(making.device).to(memory_format=torch.channels_last)
    batch = config.batch_size or 64
    bench = Bench(data, config.data.train_split, held_out, size, batch, seed=config.seed, making=making)
    result: dict[str, Any] = {"weights": weights, "arch": arch, "config": as_json(config)}
    result |= {"eval_split": held_out, "size": size, "left_out": bench.left_out}
    if bench.remark:
        print(bench.remark)
    if config.gallery:
        write_gallery(encoder, bench, config.gallery, print)
        result["gallery"] = config.gallery
    for name in _protocols(config, bench):
        result[name] = _measure(name, encoder, bench, config)
    return result


def trained_at(weights: str) -> int | None:
    """The side of the views that weights of ours were trained on, by what the file or its run's folder says."""
    from pathlib import Path

    from safetensors import SafetensorError, safe_open

    from trainer.record import CHECKPOINT, METRICS, PREVIOUS, metrics

    path, size = Path(weights), None
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, "pt") as file:
                size = json.loads((file.metadata() or {}).get("config", "{}")).get("size")
        elif path.name in (CHECKPOINT, PREVIOUS):
            size = metrics.header(path.with_name(METRICS))["config"]["size"]
    except (OSError, SafetensorError, ValueError, UserError, LookupError, AttributeError):
        return None  # `load_any` says what is wrong with the file
    return size if isinstance(size, int) and SMALLEST <= size <= LARGEST else None


def _protocols(config: EvaluateConfig, bench: "Bench") -> tuple[str, ...]:
    """The protocols to run; prints them where none was asked for."""
    if config.protocol:
        return PROTOCOLS if "all" in config.protocol else config.protocol
    labels = bench.has_labels()
    chosen = ("knn", "localise") if labels else ("localise",)
    print(f"--protocol {' '.join(chosen)}: the default" + ("" if labels else " where there are no labels"))
    return chosen


def _measure(name: str, encoder: "Encoder", bench: "Bench", config: EvaluateConfig) -> dict[str, Any]:
    """One protocol's result, printed too; the same whether others ran before it."""
    import torch

    from trainer.evaluation import protocols
    from trainer.record import figures

    torch.manual_seed(config.seed)
    if name == "localise":
        result = protocols.localise(encoder, bench)
        print(figures.localisation_table(result))
        return result
    if not bench.has_labels():
        raise UserError(
            f"--protocol {name}: the set has no labels in {bench.train_split} or {bench.test_split}. "
            "--protocol localise needs none"
        )
    if name == "knn":
        result = protocols.knn(encoder, bench)
    elif name == "linear":
        result = protocols.linear(encoder, bench, print, config.linear_epochs, config.linear_lr)
    else:
        smaller = replace(bench, batch=config.batch_size or 16)
        result = protocols.finetune(encoder, smaller, print, config.finetune_epochs, config.finetune_lr)
    guessed = f"most frequent class {bench.majority():.4f}"
    print(f"{name}: {result['accuracy']:.4f} of {result['images']} images ({guessed})")
    return result


if __name__ == "__main__":
    main(program)
