"""Contact sheets: pictures with their boxes, for a person to look at."""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

GREEN, WHITE, RED, YELLOW = (64, 224, 96), (255, 255, 255), (255, 72, 72), (255, 208, 0)
_GAP = 4
_CAPTION = 15
_LEAST = 144  # a tile's width, for its caption


@dataclass(frozen=True)
class Tile:
    """One picture uint8 [H, W, 3], boxes on it (x0, y0, x1, y1 in [0, 1], colour), and a line of text below it."""

    pixels: np.ndarray
    boxes: Sequence[tuple[Sequence[float], tuple[int, int, int]]]
    caption: str


def contact_sheet(tiles: Sequence[Tile], *, columns: int, height: int = 160, title: str = "") -> Image.Image:
    """All tiles at one height (at most twice as wide), row by row."""
    drawn = [_draw(tile, height) for tile in tiles]
    rows = [drawn[i : i + columns] for i in range(0, len(drawn), columns)]
    widths = [max((row[c].width for row in rows if c < len(row)), default=0) for c in range(columns)]
    head = 20 if title else 0
    width = max(sum(widths) + _GAP * (columns + 1), 8 * len(title))
    sheet = Image.new("RGB", (width, head + _GAP + len(rows) * (height + _CAPTION + _GAP)), (24, 24, 24))
    if title:
        ImageDraw.Draw(sheet).text((_GAP, _GAP), title, fill=WHITE, font=ImageFont.load_default(12))
    for r, row in enumerate(rows):
        for c, tile in enumerate(row):
            left = _GAP + sum(widths[:c]) + c * _GAP + (widths[c] - tile.width) // 2
            sheet.paste(tile, (left, head + _GAP + r * (height + _CAPTION + _GAP)))
    return sheet


def _draw(tile: Tile, height: int) -> Image.Image:
    picture = Image.fromarray(tile.pixels)
    width = int(np.clip(round(picture.width * height / picture.height), height // 3, 2 * height))
    picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    draw = ImageDraw.Draw(picture)
    for (x0, y0, x1, y1), colour in tile.boxes:
        left, top = round(x0 * width), round(y0 * height)
        right, bottom = max(round(x1 * width) - 1, left), max(round(y1 * height) - 1, top)
        # A dark rim, so that the line shows on any ground.
        draw.rectangle((left - 1, top - 1, right + 1, bottom + 1), outline=(0, 0, 0))
        draw.rectangle((left, top, right, bottom), outline=colour, width=2)
    whole = Image.new("RGB", (max(width, _LEAST), height + _CAPTION), (24, 24, 24))
    whole.paste(picture, ((whole.width - width) // 2, 0))
    fits = whole.width // 6
    caption = drawable(tile.caption)
    if len(caption) > fits:  # of a file's name the end tells more than the middle
        caption = caption[: fits // 2] + "…" + caption[len(caption) - (fits - 1) // 2 :]
    ImageDraw.Draw(whole).text((2, height + 1), caption, fill=(200, 200, 200), font=ImageFont.load_default(10))
    return whole


def drawable(text: str) -> str:
    """A name as Pillow's own font can write it, which has ASCII only: without accents, ? for other signs."""
    letters = (c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    return "".join(c if c.isascii() else "?" for c in letters)
