"""Pictures of more than 8 bits a value: which bits they fill, and these in 8.

Cameras and instruments keep 10, 12 or 14 bits in 16, and programs keep 8 bits in 32. The upper 8 bits of the container
would be black. A declared range is taken (TIFF); else the smallest usual number of bits that holds the brightest value.
"""

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image
from PIL.ImageFile import ImageFile

_USUAL = (1, 2, 4, 8, 10, 12, 14, 16)  # bits of a value
_BITS, _SAMPLE_FORMAT, _LARGEST = 258, 339, 281  # TIFF tags; the last is MaxSampleValue
_OTHER_ORDER = {"RGB;16B": "RGB;16L", "RGBA;16B": "RGBA;16L", "RGBX;16B": "RGBX;16L"}
_OTHER_ORDER |= {f"{kind};16{order}": f"{kind};16B" for kind in ("RGB", "RGBA", "RGBX") for order in "LN"}


@dataclass(frozen=True)
class Depth:
    """What a picture of more than 8 bits a value says of itself before its pixels are loaded.

    `layout`: Pillow's name for its bytes in the file, such as "RGB;16B"; `bits`: those it says it fills, 1: unknown.
    """

    layout: str
    bits: int


def read_depth(picture: ImageFile) -> Depth | None:
    """None for a picture of 8 bits a value. Only before its pixels are loaded."""
    tile = picture.tile[0] if picture.tile else None
    arguments = tile.args if tile else ""
    layout = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    layout = layout if isinstance(layout, str) else ""
    if not picture.mode.startswith("I") and ";16" not in layout:
        return None
    if picture.format == "TIFF":
        (*_, width), largest = (8, *_numbers(picture, _BITS)), max(_numbers(picture, _LARGEST), default=65535)
        return Depth(layout, width if width % 8 else largest.bit_length() if 0 < largest < 65535 else 1)
    # Pillow scales these to 16 bits by the range that they declare.
    scaled = picture.format == "JPEG2000" or (tile is not None and tile.codec_name == "ppm")
    return Depth(layout, 16 if scaled else 1)


def in_eight_bits(picture: ImageFile, depth: Depth, data: bytes) -> tuple[Image.Image, str]:
    """The loaded picture in 8 bits a value, and a note where its values do not fill 16 bits, else "".

    `data`: the file. Of 16-bit colours Pillow gives the upper 8 bits only.
    """
    values = np.asarray(picture)
    if picture.mode == "I" and picture.format == "TIFF" and _numbers(picture, _SAMPLE_FORMAT) != [2]:
        values = values.view(np.uint32)  # Pillow's 32 bits have a sign
    values = values.clip(0)
    colours = values if values.ndim == 2 else values[..., :3]
    if values.ndim == 3:
        if colours.max() >= 64 or (depth.layout not in _OTHER_ORDER and depth.layout != "LA;16B"):
            return picture, ""  # 16 bits are filled
        colours = colours.astype(np.uint16) << 8 | _lower_bytes(picture, depth, data)
    peak = int(colours.max())
    bits = max(depth.bits, next((b for b in _USUAL if peak < 1 << b), peak.bit_length()))
    scaled = colours >> (bits - 8) if bits >= 8 else colours * 255 // ((1 << bits) - 1)
    note = "" if bits == 16 or not peak else f"pictures whose 16- or 32-bit values fill {bits} bits: scaled from these"
    return Image.fromarray(scaled.astype(np.uint8)), note


def _lower_bytes(picture: ImageFile, depth: Depth, data: bytes) -> np.ndarray:
    """uint8 [H, W, 3]: the lower 8 of 16 bits, by reading the file in the other order of bytes."""
    again = type(picture)(io.BytesIO(data))
    grey = depth.layout == "LA;16B"  # grey and alpha together are one value of 32 bits
    if grey:
        again._mode = "I"
    other = "I;32B" if grey else _OTHER_ORDER[depth.layout]
    again.tile = [t._replace(args=other if isinstance(t.args, str) else (other, *t.args[1:])) for t in again.tile]  # type: ignore[index]
    again.load()
    lower = np.asarray(again)
    return (np.stack([lower >> 16] * 3, -1) & 255).astype(np.uint8) if grey else lower[..., :3]


def _numbers(picture: ImageFile, tag: int) -> list[int]:
    """The numbers of a TIFF tag."""
    found = getattr(picture, "tag_v2", {}).get(tag)
    return [n for n in (found if isinstance(found, tuple) else (found,)) if isinstance(n, int)]
