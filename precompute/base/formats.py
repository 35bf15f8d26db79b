"""What a file is, by its first bytes: pictures that Pillow can read, and a name and a remedy for everything else."""

from PIL import features

PLUGINS = (  # first bytes, plugin of Pillow; nothing else is ever opened (no PostScript, no FITS)
    (b"\xff\xd8", "Jpeg"), (b"\x89PNG\r\n\x1a\n", "Png"), (b"GIF8", "Gif"), (b"BM", "Bmp"), (b"II*\0", "Tiff"),
    (b"MM\0*", "Tiff"), (b"II+\0", "Tiff"), *((b"P%d" % digit, "Ppm") for digit in range(1, 7)),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "Jpeg2K"), (b"\xff\x4f\xff\x51", "Jpeg2K"),
)  # fmt: skip
_BUILT_IN = {"WebP": "webp", "Avif": "avif", "Jpeg2K": "jpg_2000"}  # what Pillow may have been built without
_TO_PNG = "convert it, for example to PNG: magick FILE OUT.png"
_HEIC = ("an HEIC picture (High Efficiency)", "convert it, for example: heif-convert FILE OUT.jpg")
_VIDEO = ("a video", "extract its pictures: ffmpeg -i FILE OUT%06d.png")
_TABLE = "its pictures must be written out as files first"
_UNPACK = "unpack it and name the folder"
_SAVED_PAGE = "it is often an error page that a download saved: download again"
_NOT_PICTURES = (  # first bytes, what it is, remedy
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself", "git lfs pull"),
    (b"\x00\x05\x16\x07", "a macOS side file (AppleDouble)", "delete it"),
    (b"MM\0+", "a big-endian BigTIFF, which Pillow mistakes for another", "convert it: tiffcp -L FILE OUT.tif"),
    (b"MATLAB", "a MATLAB file", ""),
    (b"PK\x03\x04", "a ZIP archive", _UNPACK), (b"PK\x05\x06", "an empty ZIP archive", ""),
    (b"\x1f\x8b", "a gzip file", _UNPACK), (b"BZh", "a bzip2 file", _UNPACK), (b"\xfd7zXZ\0", "an xz file", _UNPACK),
    (b"\x28\xb5\x2f\xfd", "a Zstandard file", _UNPACK), (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", _UNPACK),
    (b"Rar!", "a RAR archive", _UNPACK),
    (b"PAR1", "a Parquet table", _TABLE), (b"ARROW1", "an Arrow table", _TABLE), (b"\x89HDF", "an HDF5 file", _TABLE),
    (b"SQLite format 3", "an SQLite database", _TABLE), (b"\x93NUMPY", "a NumPy array", _TABLE),
    (b"\xff\x0a", "a JPEG XL picture", "convert it: djxl FILE OUT.png"),
    (b"\0\0\0\x0cJXL \r\n\x87\n", "a JPEG XL picture", "convert it: djxl FILE OUT.png"),
    (b"%PDF", "a PDF document", "extract its pictures: pdfimages -all FILE OUT"),
    (b"%!PS", "a PostScript drawing", _TO_PNG), (b"8BPS", "a Photoshop file", _TO_PNG),
    (b"v/1\x01", "an OpenEXR picture (floating point)", _TO_PNG), (b"#?RADIANCE", "a Radiance HDR picture", _TO_PNG),
    (b"DDS ", "a DDS texture", _TO_PNG), (b"qoif", "a QOI picture", _TO_PNG), (b"SIMPLE  =", "a FITS picture", _TO_PNG),
    (b"\0\0\1\0", "an icon (ICO)", _TO_PNG), (b"Pf\n", "a floating-point PFM map", _TO_PNG),
    (b"PF\n", "a floating-point PFM picture", _TO_PNG), (b"P7\n", "a PAM picture", _TO_PNG),
    (b"FUJIFILM", "a camera's raw file", _TO_PNG), (b"IIRO", "a camera's raw file", _TO_PNG),
    (b"\x1aE\xdf\xa3", *_VIDEO), (b"\0\0\1\xba", *_VIDEO), (b"OggS", "an Ogg file (sound or video)", ""),
    (b"ID3", "a sound file", ""),
    (b"\x7fELF", "a program", ""), (b"MZ", "a Windows program", ""),
    (b"{\\rtf", "a rich-text document", ""),
)  # fmt: skip


def plugin(data: bytes) -> str | None:
    """The plugin of Pillow that reads this picture; None where it is none that is read here."""
    if data.startswith(b"RIFF"):
        return "WebP" if data[8:12] == b"WEBP" else None
    if _brands(data) & {b"avif", b"avis"}:
        return "Avif"
    return next((name for magic, name in PLUGINS if data.startswith(magic)), None)


def lacking(name: str) -> str:
    """Why this Pillow cannot read the pictures of one of its plugins, with the remedy; "" where it can."""
    if name not in _BUILT_IN or features.check(_BUILT_IN[name]):
        return ""
    return f"a picture in {name}, which this Pillow cannot read: pip install --upgrade 'pillow>=11.3', or {_TO_PNG}"


def what_else(data: bytes) -> str:
    """What a file is that is no picture read here, with a remedy where there is one; "" for unknown bytes."""
    what, remedy = _what_else(data)
    return what + (f" ({remedy})" if remedy else "")


def _what_else(data: bytes) -> tuple[str, str]:
    for magic, *named in _NOT_PICTURES:
        if data.startswith(magic):
            return named[0], named[1]
    if brands := _brands(data):
        if any(brand[:3] in (b"hei", b"hev", b"mif", b"msf") for brand in brands):
            return _HEIC
        return ("a camera's raw file (CR3)", _TO_PNG) if b"crx " in brands else _VIDEO
    if data.startswith(b"RIFF"):
        return _VIDEO if data[8:12] == b"AVI " else ("a sound file", "")
    if data[257:262] == b"ustar":
        return "a tar archive", _UNPACK
    if data[128:132] == b"DICM":
        return "a DICOM picture", "convert it, for example: dcmj2pnm --write-png FILE OUT.png"
    if not data:
        return "an empty file (0 bytes)", ""
    if not data.strip(b"\0"):
        return f"{len(data)} bytes that are all zero", "a copy that was cut short, or a full disk: copy it again"
    return _text(data[:4096])


def _brands(data: bytes) -> set[bytes]:
    """The brands of a file in ISO's box format (AVIF, HEIC, MP4, ...); empty for any other file."""
    if data[4:8] != b"ftyp":
        return set()
    end = min(int.from_bytes(data[:4], "big"), 512)
    return {data[8:12], *(data[at : at + 4] for at in range(16, end, 4))} - {b""}


def _text(data: bytes) -> tuple[str, str]:
    """What a text file is; "" where the bytes are no text."""
    try:
        text = data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError as error:
        if error.start < len(data) - 3 or len(data) < 16:  # else a letter that the limit cut
            return "", ""
        text = data[: error.start].decode()
    words = text.strip()
    if not words or not all(letter.isprintable() or letter in "\t\r\n\f" for letter in text):
        return "", ""
    start = words[:200].lower()
    if "<svg" in words:
        return "an SVG drawing", "convert it: rsvg-convert FILE -o OUT.png"
    if start.startswith(("<!doctype html", "<html")):
        return "an HTML page", _SAVED_PAGE
    if start.startswith("<"):
        return "text (HTML or XML)", _SAVED_PAGE
    return f"text (it begins {words.splitlines()[0][:30]!r})", ""
