"""Contact sheets: rows of captioned pictures with outlines on them, for a person to look at.

rows = [[Tile(pixels, "a.jpg", [((0.1, 0.2, 0.6, 0.9), GREEN)]), Tile(pixels, "its map", heat=saliency)], ...]
save(contact_sheet(rows, title="two of them"), "sheet.png")
"""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from precompute.base.errors import UsageError
from precompute.base.files import replacing, sweep

Colour = tuple[int, int, int]
GREEN, WHITE, RED, YELLOW = (64, 224, 96), (255, 255, 255), (255, 72, 72), (255, 208, 0)
_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
_GROUND, _TEXT = (24, 24, 24), (200, 200, 200)
_GAP, _LINE, _TITLE = 4, 15, 20  # pixels between tiles; height of a caption, of the title
_LEAST = 144  # a tile's width, for its caption
_HEAT = np.array([(0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164)])  # of low to high values
_HEAT_SHARE = 0.6  # of the colour in a pixel; the rest is the picture's


@dataclass(frozen=True)
class Tile:
    """One picture of a sheet.

    `boxes`: outlines on it, each x0, y0, x1, y1 in [0, 1] of the picture and a colour. `heat`: a float map [h, w] of
    any range and size, laid over the picture in colours from its least value (dark) to its largest (bright). `lines`:
    each from x0, y0 to x1, y1 with dots at its ends, and a colour.
    """

    pixels: np.ndarray  # uint8 [H, W, 3]
    caption: str = ""
    boxes: Sequence[tuple[Sequence[float], Colour]] = ()
    heat: np.ndarray | None = None
    lines: Sequence[tuple[Sequence[float], Colour]] = ()


def contact_sheet(rows: Sequence[Sequence[Tile]], *, height: int = 160, title: str = "") -> Image.Image:
    """The tiles row by row, in columns, every picture `height` pixels high (and at most twice as wide)."""
    drawn = [[_draw(tile, height) for tile in row] for row in rows]
    columns = max(map(len, drawn), default=0)
    widths = [max(row[c].width for row in drawn if c < len(row)) for c in range(columns)]
    head, step = _GAP + (_TITLE if title else 0), height + _LINE + _GAP
    width = max(sum(widths) + _GAP * (columns + 1), 8 * len(title))
    sheet = Image.new("RGB", (width, head + step * len(drawn)), _GROUND)
    if title:
        ImageDraw.Draw(sheet).text((_GAP, _GAP), drawable(title), fill=WHITE, font=ImageFont.load_default(12))
    for r, row in enumerate(drawn):
        for c, tile in enumerate(row):
            left = _GAP * (c + 1) + sum(widths[:c]) + (widths[c] - tile.width) // 2
            sheet.paste(tile, (left, head + r * step))
    return sheet


def check_format(path: Path | str, flag: str = "--out") -> None:
    """UsageError for a file name whose ending is no format that `save` writes."""
    if Path(path).suffix.lower() not in _FORMATS:
        raise UsageError(f"{flag} {path}: must end in {', '.join(_FORMATS)}")


def save(sheet: Image.Image, path: Path | str) -> None:
    """Writes the sheet in the format of the file's ending; the file is the old one or the new one, whole."""
    sweep(path)
    with replacing(path) as temporary:
        sheet.save(temporary, format=_FORMATS[Path(path).suffix.lower()])


def _draw(tile: Tile, height: int) -> Image.Image:
    picture = Image.fromarray(tile.pixels)
    width = int(np.clip(round(picture.width * height / picture.height), height // 3, 2 * height))
    picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    if tile.heat is not None:
        picture = Image.blend(picture, _heat_colours(tile.heat, picture.size), _HEAT_SHARE)
    draw = ImageDraw.Draw(picture)
    for (x0, y0, x1, y1), colour in tile.boxes:
        left, top = round(x0 * width), round(y0 * height)
        right, bottom = max(round(x1 * width) - 1, left), max(round(y1 * height) - 1, top)
        # A dark rim, so that the line shows on any ground.
        draw.rectangle((left - 1, top - 1, right + 1, bottom + 1), outline=(0, 0, 0))
        draw.rectangle((left, top, right, bottom), outline=colour, width=2)
    for (x0, y0, x1, y1), colour in tile.lines:
        ends = [(x0 * width, y0 * height), (x1 * width, y1 * height)]
        draw.line(ends, fill=colour, width=1)
        for x, y in ends:
            draw.ellipse((x - 3, y - 3, x + 3, y + 3), fill=colour, outline=(0, 0, 0))
    whole = Image.new("RGB", (max(width, _LEAST), height + _LINE), _GROUND)
    whole.paste(picture, ((whole.width - width) // 2, 0))
    fits = whole.width // 6
    caption = drawable(tile.caption)
    if len(caption) > fits:  # the end of a file's name says more than its middle
        caption = caption[: fits // 2] + "…" + caption[len(caption) - (fits - 1) // 2 :]
    ImageDraw.Draw(whole).text((2, height + 1), caption, fill=_TEXT, font=ImageFont.load_default(10))
    return whole


def _heat_colours(heat: np.ndarray, size: tuple[int, int]) -> Image.Image:
    """The map as an RGB picture of `size` (width, height); a constant map is all dark."""
    low, high = float(heat.min()), float(heat.max())
    scaled = Image.fromarray(((heat - low) / max(high - low, 1e-12)).astype(np.float32))
    values = np.asarray(scaled.resize(size, Image.Resampling.BILINEAR))
    stops = np.linspace(0, 1, len(_HEAT))
    return Image.fromarray(np.stack([np.interp(values, stops, channel) for channel in _HEAT.T], -1).astype(np.uint8))


def drawable(text: str) -> str:
    """A name as Pillow's own font can write it, which has ASCII only: without accents, ? for other signs."""
    letters = (c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    return "".join(c if c.isascii() else "?" for c in letters)
