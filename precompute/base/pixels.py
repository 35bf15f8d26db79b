"""The pixels of an image file: one meaning for every package, whatever the decoder.

The picture is RGB, 8 bits, three channels, turned as its EXIF orientation says. Almost every file of a real image set
is *plain*: DALI, torchvision.io and Pillow decode it to the same pixels, so its bytes may go to any of them (with their
EXIF orientation switched on). The others (a GIF named .jpg, CMYK, 16 bits, junk between the headers, ...) go through
`to_png`, which any decoder takes.

A file's name is never trusted: the format is read from the first bytes.
"""

import contextlib
import importlib
import io
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
from PIL import Image
from PIL.ImageFile import ImageFile

from precompute.base import endings, formats
from precompute.base.depth import in_eight_bits, read_depth
from precompute.base.jpeg import ORIENTATION, JpegHeader, ScanFile, read_jpeg_header

MAX_PIXELS = 178_956_970  # Pillow's own limit for a "decompression bomb", twice its warning's: 512 MiB of RGB

_PLAINER = {  # Pillow's words for damaged JPEG headers, in a reader's words
    "not identified by this driver": "the header names no picture size",
    "not a JPEG file": "the header is cut or damaged",
    "Truncated File Read": "the header is cut or damaged",
    "cannot load this image": "there are headers but no pixels",
}


class BadImage(Exception):
    """A file that holds no usable picture; the text is the reason, without the path."""


@dataclass(frozen=True)
class ImageInfo:
    """A file's header: size in pixels as a person sees it (after EXIF), and whether any decoder will do.

    `note`: under which words pictures are counted whose values were scaled as this one's; known once it is decoded.
    """

    width: int
    height: int
    plain: bool
    orientation: int = 1  # EXIF, 1-8; `width` and `height` are those after it
    # Of 16×16 sampled pixels, where they were decoded: the highest level, and the largest range of a channel.
    brightest: int = field(default=255, compare=False)
    contrast: int = field(default=255, compare=False)
    note: str = field(default="", compare=False)


def probe(data: bytes, *, max_pixels: int = MAX_PIXELS) -> ImageInfo:
    """Reads the header only. Raises BadImage where there is no picture, or one of more than `max_pixels`."""
    header = read_jpeg_header(data)
    if header is None:
        with _quiet, _open(data, endings.opened(data)) as picture:
            size, orientation = picture.size, _orientation_by_pillow(picture)
    else:
        size, orientation = (header.width, header.height), header.orientation
    _check_size(*size, max_pixels)
    return _info(size, orientation, header)


def _info(size: tuple[int, int], orientation: int, header: JpegHeader | None, note: str = "") -> ImageInfo:
    width, height = size if orientation < 5 else size[::-1]
    return ImageInfo(width, height, header is not None, orientation, note=note)


def decode(data: bytes, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """The picture as uint8 [H, W, 3], RGB, turned by its EXIF orientation. Raises BadImage.

    CMYK is converted as Pillow does, 16 and 32 bits keep the upper 8 of those that they fill (`depth`), transparency is
    dropped, animations give their first picture.
    """
    return read(data, max_pixels=max_pixels)[1]


def read(data: bytes, *, max_pixels: int = MAX_PIXELS) -> tuple[ImageInfo, np.ndarray]:
    """The header with its `note`, and the picture as `decode` gives it. Raises BadImage."""
    with _loaded(data, max_pixels) as (picture, orientation, info):
        return info, np.ascontiguousarray(turn(np.asarray(_to_rgb(picture)), orientation))


def check(data: bytes, *, max_pixels: int = MAX_PIXELS) -> ImageInfo:
    """`probe`, then decodes every pixel without returning them: raises BadImage exactly when `decode` would."""
    with _loaded(data, max_pixels) as (picture, _, info):
        return _sampled(info, picture if picture.mode in ("RGB", "L") else _to_rgb(picture))


def thumbnail(data: bytes, side: int, *, banner: int = 0, max_pixels: int = MAX_PIXELS) -> tuple[ImageInfo, np.ndarray]:
    """`check`, and the picture squashed to uint8 [side, side, 3] (antialiased), without its banner.

    `banner`: rows at the foot of the picture that are cut off first. Raises BadImage, also where nothing is left.
    """
    with _loaded(data, max_pixels) as (picture, orientation, info):
        if info.height <= banner:
            raise BadImage(f"{info.height} rows, all of them within the banner of {banner}")
        picture = _to_rgb(picture)
        if banner and orientation != 1:
            picture, orientation = Image.fromarray(turn(np.asarray(picture), orientation)), 1
        # Cut off before the resize: its `box` would read on below the edge and mix the banner into the last row.
        kept = picture.crop((0, 0, picture.width, picture.height - banner)) if banner else picture
        small = kept.resize((side, side), Image.Resampling.BILINEAR, reducing_gap=2.0)
        return _sampled(info, picture), np.ascontiguousarray(turn(np.asarray(small), orientation))


def _sampled(info: ImageInfo, picture: Image.Image) -> ImageInfo:
    """`info` with what 16×16 pixels of the picture (RGB or grey) say of its brightness."""
    small = np.asarray(picture.resize((16, 16), Image.Resampling.NEAREST)).reshape(256, -1)
    return replace(info, brightest=int(small.max()), contrast=int(np.ptp(small, axis=0).max()))


def to_png(data: bytes, *, max_pixels: int = MAX_PIXELS) -> bytes:
    """The same pixels as `decode`, as a PNG file that every decoder reads alike. Raises BadImage."""
    out = io.BytesIO()
    Image.fromarray(decode(data, max_pixels=max_pixels)).save(out, format="PNG", compress_level=1)
    return out.getvalue()


@contextlib.contextmanager
def _loaded(data: bytes, max_pixels: int) -> Iterator[tuple[Image.Image, int, ImageInfo]]:
    """The decoded picture in 8 bits a value (not turned, any mode of Pillow), its orientation 1-8, and its header."""
    header = read_jpeg_header(data)
    file = endings.opened(data)
    with _quiet, _open(data, file) as picture:
        _check_size(*picture.size, max_pixels)
        depth = read_depth(picture)  # first, for a PNG is loaded to look for its EXIF
        orientation = header.orientation if header else _orientation_by_pillow(picture)
        expected = (header.width, header.height) if header else picture.size
        with _bad_when_failing():
            picture.load()
            if fault := endings.fault_of(picture, file):
                raise BadImage(fault)
        if picture.size != expected:
            decoded = "{}x{}".format(*picture.size)
            raise BadImage(f"the header says {expected[0]}x{expected[1]} pixels, {decoded} were decoded")
        shown, note = picture, ""
        if depth is not None:
            with _bad_when_failing():
                shown, note = in_eight_bits(picture, depth, data)
        yield shown, orientation, _info(expected, orientation, header, note)


@contextlib.contextmanager
def _open(data: bytes, file: io.BytesIO) -> Iterator[ImageFile]:
    """The file's header read by the plugin of Pillow that its first bytes name."""
    if not data:
        raise BadImage("empty file (0 bytes)")
    if (plugin := formats.plugin(data)) is None:
        what = formats.what_else(data)
        raise BadImage(f"{what}: not a picture that can be read" if what else f"no known image format ({data[:8]!r})")
    if lacking := formats.lacking(plugin):
        raise BadImage(lacking)
    if isinstance(file, ScanFile) and file.coded.start == 0 and file.coded.fault:
        raise BadImage(file.coded.fault)
    with _bad_when_failing():
        # The plugin's class instead of Image.open: that would warn of large pictures (we have our own limit),
        # and would try formats that run other programs.
        picture = getattr(importlib.import_module(f"PIL.{plugin}ImagePlugin"), f"{plugin}ImageFile")(file)
    with contextlib.closing(picture):
        yield picture


@contextlib.contextmanager
def _bad_when_failing() -> Iterator[None]:
    """Whatever a decoder throws at damaged bytes becomes BadImage."""
    try:
        yield
    except (BadImage, MemoryError):
        raise
    except Exception as error:  # Pillow's plugins raise nearly every built-in exception on damaged files
        message = str(error) or type(error).__name__
        if "unpack" in message:  # the struct module's words, often rewrapped by Pillow
            message = "the header is cut or damaged"
        raise BadImage(f"cannot be decoded: {_PLAINER.get(message, message)}") from error


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width < 1 or height < 1:
        raise BadImage(f"the header says {width}x{height} pixels")
    if width * height > max_pixels:
        raise BadImage(f"{width}x{height} pixels are more than the limit of {max_pixels / 1e6:.0f} million")


def _orientation_by_pillow(picture: ImageFile) -> int:
    """1-8; anything that cannot be read or is not a legal value counts as 1 (upright)."""
    if picture.format == "TIFF":  # there Pillow turns size and pixels by itself
        return 1
    try:
        value = picture.getexif().get(ORIENTATION, 1)
    except Exception:  # a broken EXIF block raises nearly anything, and says nothing about the pixels
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _to_rgb(picture: Image.Image) -> Image.Image:
    """8-bit RGB. Raises BadImage for floating-point pixels, which have no agreed range."""
    if picture.mode == "RGB":
        return picture
    if picture.mode == "F":
        raise BadImage("floating-point pixels are not supported: convert the file to 8 or 16 bits")
    with _bad_when_failing():
        return picture.convert("RGB")


def turn(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """[H, W, ...] as stored -> as seen, for an EXIF orientation 1-8."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    down = orientation in (3, 4, 7, 8)  # mirrored top to bottom
    right = orientation in (2, 3, 6, 7)  # mirrored left to right
    return pixels[:: -1 if down else 1, :: -1 if right else 1]


class _Quiet:
    """Hides Pillow's warnings (broken EXIF, odd palettes) while any thread is inside.

    `warnings.catch_warnings` alone is not safe with threads: the first to leave would restore the filters of the
    second. So the first thread to enter installs a filter and the last to leave removes it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._saved: warnings.catch_warnings | None = None

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._saved = warnings.catch_warnings()
                self._saved.__enter__()
                warnings.filterwarnings("ignore", module=r"PIL\.|precompute\.base\.pixels")
            self._inside += 1

    def __exit__(self, *exc: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0 and self._saved is not None:
                self._saved.__exit__(None, None, None)


_quiet = _Quiet()
