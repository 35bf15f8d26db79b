"""A sheet of views with their rectangles, so that a person can look before training on them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from augment.request import Making, Source
from augment.views.policy import Policy
from precompute.base.errors import BadValue
from precompute.base.options import Parser, add_options, group, option, read_options
from precompute.base.program import check_out, main

if TYPE_CHECKING:
    from augment.stream.batch import Batch
    from augment.stream.imageset import ImageSet
    from precompute.base.sheet import Tile

EXAMPLE = """examples:
  python -m augment.preview --boxes cache/demo.h5 --root data/demo --out views.png
  python -m augment.preview --boxes cache/cub.h5 --root data/CUB_200_2011 --out views.png --mode paste --colour torchvision
"""  # noqa: E501 - as one would type it


@dataclass(frozen=True)
class PreviewConfig:
    """What the sheet shows."""

    source: Source = group(Source, "pictures", hidden=("backgrounds", "own_backgrounds"))
    out: str = option("views.png", "the sheet; its ending says the format")
    count: int = option(8, "sources, one row each", least=1)
    epoch: int = option(0, "epoch of the plan", least=0)
    seed: int = option(0, "seed of the plan", least=0, most=2**64 - 1)
    outlines: bool = option(True, "draw the boxes and the pasted rectangles")
    json: bool = option(False, "print what was drawn as one JSON document as the last line")
    policy: Policy = group(Policy, "policy")
    making: Making = group(
        Making,
        "making",
        hidden=("workers", "cache", "cache_bytes", "cache_dir", "cache_side", "decode", "service", "address", "check",
                "on_bad"),
        device="cpu",
    )  # fmt: skip

    def __post_init__(self) -> None:
        if self.source.boxes is None:
            raise BadValue("boxes", None, "the box file", "Name it, and --root DIR where its images have moved")
        self.source.check_maps(self.policy)


def program(argv: Sequence[str] | None = None) -> int:
    """Reads the command line, draws the sheet."""
    words = "Draws a sheet: each row a source with its box, then its views with the pasted rectangle."
    parser = Parser("augment.preview", words, EXAMPLE)
    add_options(parser, PreviewConfig)
    config = read_options(PreviewConfig, parser.parse_args(argv))

    import json

    from augment import Share, open_views
    from precompute.base.sheet import check_format, contact_sheet, save

    check_format(config.out)
    check_out(config.out)
    policy, share = config.policy, Share(drop_last=False)
    with open_views(
        config.source, policy=policy, batch_size=config.count, seed=config.seed, making=config.making, share=share
    ) as loader:
        loader.set_epoch(config.epoch)
        batch, images = next(iter(loader)), loader.images
    save(contact_sheet(rows_of(batch, images, config), height=policy.size), config.out)
    print(f"{config.out}: {len(batch)} sources, {policy}")
    print("yellow: the source's box; green: the patch in the view (after the flip)")
    if config.json:
        print(json.dumps({"out": config.out, "policy": policy.to_json(), "views": describe(batch, images)}))
    return 0


def rows_of(batch: "Batch", images: "ImageSet", config: PreviewConfig) -> "list[list[Tile]]":
    """One row a source: the picture with its box, then the views with their rectangles."""
    from augment.views.colour import denormalise
    from precompute.base.pixels import decode
    from precompute.base.sheet import GREEN, YELLOW, Tile

    policy, pool = config.policy, images.pool
    views = [denormalise(view.float().cpu().numpy(), policy.mean, policy.std) for view in batch.views]
    rows = []
    for i, source in enumerate(batch.sources.tolist()):
        picture = decode(images.read(source))[: pool.heights[source]]  # without its banner
        boxes = [(pool.boxes[source].tolist(), YELLOW)] if config.outlines else []
        row = [Tile(picture, PurePath(images.path(source)).name, boxes)]
        for v, pixels in enumerate(views):
            x0, y0, x1, y1 = (batch.rects[i, v] / policy.size).tolist()
            boxes = [((x0, y0, x1, y1), GREEN)] if config.outlines and x1 > x0 and y1 > y0 else []
            name = PurePath(images.path(int(batch.backgrounds[i, v]))).name
            row.append(Tile(pixels[i], f"on {name}", boxes))
        rows.append(row)
    return rows


def describe(batch: "Batch", images: "ImageSet") -> list[dict[str, Any]]:
    """What the sheet shows, in words and numbers, one entry a view."""
    plan = batch.plan
    return [
        {
            "source": images.path(int(plan.sources[i])),
            "view": v,
            "background": images.path(int(plan.backgrounds[i, v])),
            "rect": batch.rects[i, v].tolist(),
            "patch": plan.patch[i, v].tolist(),
            "flip": bool(plan.flip[i, v]),
            "gray": bool(plan.gray[i, v]),
            "sigma": round(float(plan.sigma[i, v]), 3),
        }
        for i in range(len(plan))
        for v in range(plan.views)
    ]


if __name__ == "__main__":
    main(program)
