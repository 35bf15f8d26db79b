"""Pictures of many bits keep their brightness, odd formats are read, and what is no picture is called by its name."""

import contextlib
import gzip
import io
import struct
import tarfile
import warnings
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, features
from torchvision.io import ImageReadMode, decode_png

from precompute.base.pixels import BadImage, check, decode, probe, thumbnail

RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)


def encoded(picture: Image.Image, kind: str, **options) -> bytes:
    out = io.BytesIO()
    picture.save(out, format=kind, **options)
    return out.getvalue()


def png16(values: np.ndarray, filtered: int = 0) -> bytes:
    """A 16-bit PNG of uint16 [H, W, C]; Pillow writes grey ones only. `filtered` 2: each row minus the one above."""
    height, width, channels = values.shape
    raw = values.astype(">u2").view(np.uint8).reshape(height, -1)
    if filtered:
        raw = raw - np.vstack([np.zeros_like(raw[:1]), raw[:-1]])
    rows = b"".join(bytes([filtered]) + row.tobytes() for row in raw)

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def tiff(
    values: np.ndarray, order: str = "<", tags: dict[int, tuple[str, int]] | None = None, big: bool = False
) -> bytes:
    """An uncompressed TIFF (or BigTIFF) of unsigned integers [H, W] or [H, W, C]."""
    height, width, *channels = values.shape
    data = values.astype(f"{order}{values.dtype.str[1:]}").tobytes()
    count, wide = (channels or [1])[0], values.dtype.itemsize
    start = 16 if big else 8
    widths = b"" if count == 1 else struct.pack(order + "H" * count, *[8 * wide] * count)
    at = start + len(data)
    entries = {
        256: ("I", width), 257: ("I", height), 258: ("H", 8 * wide), 259: ("H", 1), 262: ("H", 1 if count == 1 else 2),
        273: ("I", start), 277: ("H", count), 278: ("I", height), 279: ("I", len(data)), **(tags or {}),
    }  # fmt: skip
    body = struct.pack(order + ("Q" if big else "H"), len(entries))
    for tag, (kind, value) in sorted(entries.items()):
        here = struct.pack(order + kind, value)
        many = count if tag == 258 else 1
        if many > 1:
            here = widths if big and len(widths) <= 8 else struct.pack(order + ("Q" if big else "I"), at)
        number = {"H": 3, "I": 4}[kind]
        body += struct.pack(order + ("HHQ" if big else "HHI"), tag, number, many) + here.ljust(8 if big else 4, b"\0")
    body += struct.pack(order + ("Q" if big else "I"), 0)
    mark = {"<": b"II", ">": b"MM"}[order]
    if big:
        return mark + struct.pack(order + "HHHQ", 43, 8, 0, at + len(widths)) + data + widths + body
    return mark + struct.pack(order + "HI", 42, at + len(widths)) + data + widths + body


def stretched(bits: int) -> np.ndarray:
    """uint16 [16, 16] from 0 to the largest value of `bits` bits, whose upper 8 are RAMP."""
    return RAMP.astype(np.uint16) << (bits - 8) | (RAMP >> (16 - bits))


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "TIFF of Motorola's order", "PGM"])
def test_grey_pictures_keep_the_bits_they_fill(bits: int, kind: str) -> None:
    values = stretched(bits)
    if kind == "PGM":
        data = b"P5 16 16 65535\n" + values.astype(">u2").tobytes()
    elif kind == "PNG":
        data = encoded(Image.fromarray(values), "PNG")
    else:
        data = tiff(values, "<" if kind == "TIFF" else ">")
    np.testing.assert_array_equal(decode(data), np.stack([RAMP] * 3, -1))
    assert check(data).note == ("" if bits == 16 else check(data).note)
    assert (f"fill {bits} bits" in check(data).note) == (bits < 16)
    np.testing.assert_array_equal(thumbnail(data, 16)[1][..., 0], RAMP)


@pytest.mark.parametrize("channels", [2, 3, 4])
@pytest.mark.parametrize("bits", [8, 12, 16])
@pytest.mark.parametrize("filtered", [0, 2])
def test_colours_of_16_bits_keep_the_bits_they_fill(channels: int, bits: int, filtered: int) -> None:
    rng = np.random.default_rng(channels + bits)
    values = rng.integers(0, 1 << bits, (9, 7, channels)).astype(np.uint16)
    values[0, 0] = (1 << bits) - 1
    if channels in (2, 4):
        values[..., -1] = 65535  # opaque, whatever the colours fill
    data = png16(values, filtered)
    with warnings.catch_warnings():  # torchvision 0.29 deprecates its decoders
        warnings.simplefilter("ignore")
        theirs = decode_png(torch.frombuffer(bytearray(data), dtype=torch.uint8), ImageReadMode.UNCHANGED)
    np.testing.assert_array_equal(theirs.permute(1, 2, 0).numpy(), values)
    colours = values[..., :3] if channels > 2 else np.stack([values[..., 0]] * 3, -1)
    np.testing.assert_array_equal(decode(data), (colours >> (bits - 8)).astype(np.uint8))
    assert bool(check(data).note) == (bits < 16)


@pytest.mark.parametrize(("order", "big"), [("<", False), (">", False), ("<", True)])
def test_tiffs_of_16_bit_colours(order: str, big: bool) -> None:
    values = np.random.default_rng(0).integers(0, 4096, (8, 6, 3)).astype(np.uint16)
    values[0, 0, 0] = 4095
    np.testing.assert_array_equal(decode(tiff(values, order, big=big)), (values >> 4).astype(np.uint8))
    with pytest.raises(BadImage, match=r"big-endian BigTIFF.*tiffcp -L"):
        decode(tiff(values, ">", big=True))


@pytest.mark.parametrize(("largest", "shift"), [(255, 0), (4095, 4), (65535, 8), (99_999, 9), (4_000_000_000, 24)])
def test_32_bits_are_never_black(largest: int, shift: int) -> None:
    values = np.linspace(0, largest, 256).astype(np.uint32).reshape(16, 16)
    data = tiff(values)
    np.testing.assert_array_equal(decode(data)[..., 0], values >> shift)
    assert bool(check(data).note) == (largest != 65535)
    mask = np.zeros((16, 16), np.uint32)
    mask[4:9, 4:9] = 1
    assert decode(tiff(mask))[..., 1].max() == 255


def test_a_declared_range_counts_more_than_the_brightest_value() -> None:
    values = (RAMP.astype(np.uint16) << 1)[:8]  # a dark picture: up to 255
    assert decode(tiff(values, tags={281: ("H", 4095)})).max() == values.max() >> 4
    dark = b"P5 2 1 4095\n" + np.array([0, 400], ">u2").tobytes()
    assert decode(dark).max() in (24, 25)
    high = encoded(Image.fromarray(stretched(12)), "TIFF")
    assert decode(high)[..., 0].tolist() == RAMP.tolist()
    assert decode(tiff(np.zeros((4, 4), np.uint16))).max() == 0


def test_a_pass_counts_what_it_scaled(tmp_path: Path, run_here) -> None:
    for name, bits in (("a", 12), ("b", 12), ("c", 16)):
        folder = tmp_path / "set" / "class"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.kron(stretched(bits), np.ones((4, 4), np.uint16))).save(folder / f"{name}.png")
    (tmp_path / "maps" / "class").mkdir(parents=True)
    for name in "abc":
        mask = np.zeros((64, 64), np.int32)
        mask[16:32, 8:40] = 200
        (tmp_path / "maps" / "class" / f"{name}.png.png").write_bytes(tiff(mask.astype(np.uint32)))
    done = run_here("precompute.boxes", "--root", tmp_path / "set", "--dataset", "folder", "--source", "maps", "--maps",
                    tmp_path / "maps", "--out", tmp_path / "b.h5")  # fmt: skip
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert "fill 12 bits" in said
    assert "maps: pictures whose 16- or 32-bit values fill 8 bits" in said


@pytest.mark.parametrize(("kind", "plugin"), [("AVIF", "avif"), ("JPEG2000", "jpg_2000")])
def test_formats_that_pillow_may_lack(
    kind: str, plugin: str, shared_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not features.check(plugin):
        pytest.skip(f"this Pillow has no {kind}")
    with Image.open(next((shared_data / "CUB_200_2011").rglob("*.jpg"))) as picture:
        photo = picture.convert("RGB").resize((90, 60))
    data = encoded(photo, kind, quality=90) if kind == "AVIF" else encoded(photo, kind)
    assert (probe(data).width, probe(data).height, probe(data).plain) == (90, 60, False)
    with Image.open(io.BytesIO(data)) as picture:
        np.testing.assert_array_equal(decode(data), np.asarray(picture.convert("RGB")))
    assert abs(decode(data).astype(int) - np.asarray(photo)).mean() < 6
    with pytest.raises(BadImage):
        decode(data[: len(data) // 3])
    monkeypatch.setattr(features, "check", lambda name: name != plugin)
    with pytest.raises(BadImage, match="this Pillow cannot read: pip install --upgrade"):
        decode(data)


def test_jpeg2000_streams_and_deep_ones() -> None:
    values = stretched(16)
    for options in ({}, {"no_jp2": True}):
        np.testing.assert_array_equal(decode(encoded(Image.fromarray(values), "JPEG2000", **options))[..., 0], RAMP)


def test_avif_is_turned_by_its_exif() -> None:
    if not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels_in = np.zeros((8, 24, 3), np.uint8)
    pixels_in[:, 16:] = 250
    shown = decode(encoded(Image.fromarray(pixels_in), "AVIF", exif=exif, quality=100))
    assert shown.shape == (24, 8, 3)
    assert shown[20:].mean() > 200 > 50 > shown[:14].mean()


def archive() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        file.writestr("a.jpg", b"x")
    return out.getvalue()


def tar() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as file:
        file.addfile(tarfile.TarInfo("a.jpg"))
    return out.getvalue()


def box(brand: bytes, *others: bytes) -> bytes:
    body = brand + b"\0\0\0\0" + b"".join(others)
    return struct.pack(">I", len(body) + 8) + b"ftyp" + body + b"\0" * 64


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (box(b"heic", b"mif1", b"heic"), r"HEIC picture.*heif-convert"),
        (box(b"mif1", b"heic"), "HEIC picture"),
        (box(b"isom", b"mp41"), "a video.*ffmpeg"),
        (b"\xff\x0a" + bytes(90), "JPEG XL.*djxl"),
        (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(9), "JPEG XL"),
        (archive(), "ZIP archive.*unpack"),
        (tar(), "tar archive"),
        (gzip.compress(b"x", mtime=0), "gzip"),
        (b"PAR1" + bytes(50), "Parquet.*written out"),
        (b"%PDF-1.7\n", "PDF"),
        (b"\x93NUMPY\x01\0", "NumPy"),
        (b"Not Found\n", "text .it begins 'Not Found'"),
        ("kein Bild, übrigens".encode(), "text"),
        (b'\xef\xbb\xbf{"error": 404}', "text"),
        (b"  <!DOCTYPE html><p>", "HTML page.*download again"),
        (b'<?xml version="1.0"?><svg/>', "SVG"),
        (b"<Error><Code>AccessDenied</Code></Error>", "HTML or XML"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer.*git lfs pull"),
        (bytes(5000), "5000 bytes that are all zero"),
        (bytes(128) + b"DICM" + bytes(9), "DICOM"),
        (b"RIFF\0\0\0\0AVI LIST", "a video"),
        (b"\x01\x02\x03\x04\xfe\xff", "no known image format"),
    ],
)
def test_what_is_no_picture_is_named(data: bytes, said: str) -> None:
    for function in (probe, check, decode):
        with pytest.raises(BadImage, match=said):
            function(data)


def test_damage_to_new_formats_gives_pixels_or_a_reason() -> None:
    rng = np.random.default_rng(1)
    deep = rng.integers(0, 4096, (20, 20, 3)).astype(np.uint16)
    files = [tiff(deep, big=True), tiff(deep[..., 0], ">"), png16(deep), png16(deep[..., :2])]
    files += [encoded(Image.fromarray(RAMP).convert("RGB"), kind) for kind in ("JPEG2000", "AVIF")]
    for original in files:
        for _ in range(30):
            data = bytearray(original)
            for at in rng.integers(0, min(len(data), 300), 3):
                data[at] = rng.integers(256)
            with contextlib.suppress(BadImage):
                info = probe(bytes(data), max_pixels=10**6)
                assert decode(bytes(data), max_pixels=10**6).shape == (info.height, info.width, 3)
