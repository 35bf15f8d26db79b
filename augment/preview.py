"""A sheet of views with their rectangles, so that a person can look before training on them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from augment.backends import NAMES
from augment.views.policy import Policy
from precompute.base.errors import UsageError
from precompute.base.files import replacing
from precompute.base.options import Parser, add_options, option, read_options
from precompute.base.program import check_out, main
from precompute.base.sheet import drawable

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

    from augment.stream.batch import Batch
    from augment.stream.imageset import ImageSet

EXAMPLE = """examples:
  python -m augment.preview --boxes cache/demo.h5 --root data/demo --out views.png
  python -m augment.preview --boxes cache/cub.h5 --root data/CUB_200_2011 --out views.png --mode paste --colour torchvision
"""  # noqa: E501 - as one would type it
_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
_GAP, _LINE = 6, 14  # pixels between pictures; height of a line of text
_BOX, _PATCH = (255, 220, 0), (0, 255, 120)


@dataclass(frozen=True)
class PreviewConfig:
    """What the sheet shows; the policy has its own flags."""

    boxes: str | None = option(None, "box file made by precompute.boxes")
    root: str | None = option(None, "image folder of the box file's paths; default: the one it was made with")
    out: str = option("views.png", "the sheet; its ending says the format")
    maps: str | None = option(None, "folder of saliency maps, for --name copy-paste: PATH-OF-THE-PICTURE.png")
    split: str = option("train", "split to take the sources from; 'all' for every image")
    backend: str = option("auto", "what makes the pixels", choices=NAMES)
    device: str = option("cpu", "cpu or cuda")
    count: int = option(8, "sources, one row each")
    epoch: int = option(0, "epoch of the plan")
    seed: int = option(0, "seed of the plan")
    outlines: bool = option(True, "draw the boxes and the pasted rectangles")
    json: bool = option(False, "print what was drawn as one JSON document")

    def __post_init__(self) -> None:
        for name in ("count", "epoch", "seed"):
            if getattr(self, name) < (name == "count"):
                raise ValueError(f"--{name} {getattr(self, name)}: must be at least {int(name == 'count')}")
        if self.boxes is None:
            raise ValueError("--boxes FILE is needed: the box file (and --root DIR where its images have moved)")


def program(argv: Sequence[str] | None = None) -> int:
    """Reads the command line, draws the sheet."""
    words = "Draws a sheet: each row a source with its box, then its views with the pasted rectangle."
    parser = Parser("augment.preview", words, EXAMPLE)
    add_options(parser, PreviewConfig)
    add_options(parser.add_argument_group("policy"), Policy)  # type: ignore[arg-type] - groups add arguments too
    parsed = parser.parse_args(argv)
    config, policy = read_options(PreviewConfig, parsed), read_options(Policy, parsed)
    if Path(config.out).suffix.lower() not in _FORMATS:
        raise UsageError(f"--out {config.out}: must end in {', '.join(_FORMATS)}")
    check_out(config.out)
    if (policy.name == "copy-paste") != (config.maps is not None):
        raise UsageError("--name copy-paste and --maps DIR, its folder of saliency maps, belong together")

    import json

    batch, images = first_batch(config, policy)
    sheet = draw_sheet(batch, images, policy, config.outlines)
    with replacing(config.out) as temporary:
        sheet.save(temporary, format=_FORMATS[Path(config.out).suffix.lower()])
    print(f"{config.out}: {len(batch)} sources, {policy}")
    print("yellow: the source's box; green: the patch in the view (after the flip)")
    if config.json:
        print(json.dumps({"out": config.out, "policy": policy.to_json(), "views": describe(batch, images)}))
    return 0


def first_batch(config: PreviewConfig, policy: Policy) -> "tuple[Batch, ImageSet]":
    """The first views of the epoch."""
    from augment.open import open_views
    from augment.stream.request import Making, Share, Source

    assert config.boxes is not None  # PreviewConfig has checked
    with open_views(
        Source(config.boxes, config.root, config.split, maps=config.maps),
        policy=policy,
        batch_size=config.count,
        seed=config.seed,
        making=Making(config.backend, config.device, prefetch=1),
        share=Share(drop_last=False),
    ) as loader:
        loader.set_epoch(config.epoch)
        return next(iter(loader)), loader.images


def draw_sheet(batch: "Batch", images: "ImageSet", policy: Policy, outlines: bool = True) -> "Image.Image":
    """One row a source: the picture with its box, then the views with their rectangles; names below."""
    from PIL import Image, ImageDraw

    size, views = policy.size, len(batch.views)
    step = size + _GAP
    sheet = Image.new("RGB", (_GAP + step * (1 + views), _GAP + (step + _LINE) * len(batch)), (24, 24, 24))
    draw = ImageDraw.Draw(sheet)
    pixels = [denormalise(view.float().cpu().numpy(), policy) for view in batch.views]
    for i, source in enumerate(batch.sources.tolist()):
        x, y = _GAP, _GAP + i * (step + _LINE)
        picture, box = _fitted(images, source, size)
        sheet.paste(picture, (x, y))
        if outlines:
            draw.rectangle((x + box[0], y + box[1], x + box[2] - 1, y + box[3] - 1), outline=_BOX, width=2)
        _write(draw, (x, y + size), _short(images.path(source)), size)
        for v in range(views):
            x += step
            sheet.paste(Image.fromarray(pixels[v][i]), (x, y))
            x0, y0, x1, y1 = batch.rects[i, v].tolist()
            if outlines and x1 > x0 and y1 > y0:
                draw.rectangle((x + x0, y + y0, x + x1 - 1, y + y1 - 1), outline=_PATCH)
            _write(draw, (x, y + size), "on " + _short(images.path(int(batch.backgrounds[i, v]))), size)
    return sheet


def denormalise(view: "np.ndarray", policy: Policy) -> "np.ndarray":
    """[N, 3, S, S] as a network gets it to uint8 [N, S, S, 3]."""
    import numpy as np

    pixels = np.moveaxis(view, 1, -1) * np.asarray(policy.std, np.float32) + np.asarray(policy.mean, np.float32)
    return (pixels * 255).round().clip(0, 255).astype(np.uint8)


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


def _fitted(images: "ImageSet", row: int, size: int) -> "tuple[Image.Image, list[int]]":
    """The picture without its banner, at most `size` wide and high, and its box there."""
    from PIL import Image

    from augment.views.geometry import box_to_pixels
    from precompute.base.pixels import decode

    width, height = int(images.pool.widths[row]), int(images.pool.heights[row])
    picture = Image.fromarray(decode(images.read(row))[:height])
    scale = size / max(width, height)
    shape = max(round(width * scale), 1), max(round(height * scale), 1)
    return picture.resize(shape), box_to_pixels(images.pool.boxes[row], *shape).tolist()


def _short(path: str) -> str:
    return drawable(path.rsplit("/", 1)[-1])


def _write(draw: Any, place: tuple[int, int], text: str, width: int) -> None:
    """A line of text, cut to what fits."""
    while text and draw.textlength(text) > width:
        text = text[:-1]
    draw.text(place, text, fill=(220, 220, 220))


if __name__ == "__main__":
    main(program)
