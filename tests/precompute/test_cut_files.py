"""Files whose last or middle part is missing at an equal size, and good files that look a little like them."""

import io
import random
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from precompute.base.pixels import BadImage, check, decode

PHOTOGRAPHS = 12  # of the real ones, spread over the sets
CUTS = (0.1, 0.25, 0.5, 0.75, 0.9, 0.97)


def refused(data: bytes) -> bool:
    try:
        check(data)
    except BadImage:
        return True
    return False


def drawn(size: tuple[int, int] = (160, 120), seed: int = 0) -> Image.Image:
    """A picture with coarse and fine detail, as a photograph has."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 255, (9, 12, 3), np.uint8)).resize(size, Image.Resampling.BICUBIC)
    noise = Image.fromarray(rng.integers(0, 255, (size[1], size[0], 3), np.uint8))
    return Image.blend(coarse, noise, 0.1)


def encoded(picture: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()


JPEGS = {
    "baseline": {}, "optimised": {"optimize": True}, "progressive": {"progressive": True},
    "restarts": {"restart_marker_rows": 1}, "444": {"subsampling": 0, "quality": 95}, "coarse": {"quality": 20},
}  # fmt: skip


@pytest.fixture(params=JPEGS)
def jpegs(request: pytest.FixtureRequest) -> list[bytes]:
    return [encoded(drawn(seed=seed), "JPEG", **JPEGS[request.param]) for seed in range(5)]


def cuts(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """What is left at each cut, and what is missing."""
    for share in CUTS:
        yield data[: int(len(data) * share)], data[int(len(data) * share) :]


def test_no_jpeg_with_a_zeroed_tail_is_accepted(jpegs):
    for data in jpegs:
        assert not refused(data)
        for left, missing in cuts(data):
            assert refused(left + bytes(len(missing)))


def test_no_jpeg_with_a_tail_of_noise_is_accepted(jpegs):
    rng = random.Random(0)
    for data in jpegs:
        for left, missing in cuts(data):
            assert refused(left + rng.randbytes(len(missing)))


@pytest.mark.parametrize("name", sorted(JPEGS.keys() - {"progressive"}))  # fewer scans of those are a picture too
def test_no_scan_that_is_cut_before_its_end_marker_is_accepted(name):
    data = encoded(drawn(), "JPEG", **JPEGS[name])
    start = data.rindex(b"\xff\xda") + 14
    for share in CUTS:
        with pytest.raises(BadImage, match="truncated"):
            check(data[: start + int((len(data) - start) * share)] + b"\xff\xd9")


def test_pixels_that_were_left_out_in_the_middle_are_missed():
    for options in ({}, {"restart_marker_rows": 1}, {"subsampling": 0}):
        data = encoded(drawn((640, 480)), "JPEG", quality=90, **options)
        for middle in (len(data) // 3, len(data) // 2, len(data) * 4 // 5):
            assert refused(data[:middle] + bytes(4096) + data[middle + 4096 :])
            assert "restart_marker_rows" in options or refused(data[:middle] + data[middle + 4096 :])


def test_what_follows_the_end_marker_does_not_matter(jpegs):
    small = encoded(drawn((32, 24)), "JPEG")
    for data in jpegs:
        for more in (bytes(4096), small, b"\xff" * 9, b"appended by a camera", random.Random(1).randbytes(5000)):
            assert not refused(data + more)
            np.testing.assert_array_equal(decode(data + more), decode(data))
        for left, missing in cuts(data):  # the second picture's end marker is not the first one's
            assert refused(left + bytes(len(missing)) + small)


@pytest.mark.parametrize("options", JPEGS.values(), ids=JPEGS)
@pytest.mark.parametrize("size", [(1, 1), (8, 8), (17, 900), (1200, 800)])
def test_flat_pictures_whose_code_is_zeros_are_good(options, size):
    for mode in ("RGB", "L"):
        for value in (0, 128, 255):
            assert not refused(
                encoded(Image.new(mode, size, (value,) * 3 if mode == "RGB" else value), "JPEG", **options)
            )


def test_embedded_thumbnails_and_fill_bytes_are_good():
    exif = Image.Exif()
    exif[0x010E] = "a description"
    whole = encoded(drawn(), "JPEG", exif=exif, comment=bytes(300))
    thumbnail = encoded(drawn((32, 24)), "JPEG")
    segment = b"\xff\xe2" + (len(thumbnail) + 2).to_bytes(2) + thumbnail
    for data in (whole, whole[:2] + segment + whole[2:], whole[:-2] + b"\xff\xff\xff" + whole[-2:]):
        assert not refused(data)


OTHERS = {
    "PNG": ("PNG", {}), "GIF": ("GIF", {}), "WebP": ("WEBP", {"quality": 80}),
    "WebP, lossless": ("WEBP", {"lossless": True}), "TIFF, LZW": ("TIFF", {"compression": "tiff_lzw"}),
    "TIFF, deflate": ("TIFF", {"compression": "tiff_adobe_deflate"}),
    "TIFF, packbits": ("TIFF", {"compression": "packbits"}),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_other_formats_with_a_zeroed_tail_are_refused_too(name):
    kind, options = OTHERS[name]
    for seed in range(3):
        data = encoded(drawn(seed=seed), kind, **options)
        assert not refused(data)
        for left, missing in cuts(data):
            assert refused(left + bytes(len(missing)))
            assert refused(left)
    flat = [Image.new(mode, (300, 200), 0) for mode in ("RGB", "L", "P")]
    assert not any(refused(encoded(picture, kind, **options)) for picture in flat)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_animations_are_good(kind):
    frames = [drawn((50, 40), seed).convert("P") for seed in range(3)]
    assert not refused(encoded(frames[0], kind, save_all=True, append_images=frames[1:]))


def test_strips_behind_the_end_of_a_tiff_are_missed():
    data = bytearray(encoded(drawn(), "TIFF"))
    assert not refused(bytes(data))
    assert refused(bytes(data[:-1000]))


@pytest.mark.parametrize(
    "junk",
    [
        b"\xff" + bytes(1 << 22), b"\xff" * (1 << 22), b"\xff\xfe\0\2" * (1 << 20), b"ab" * (1 << 21),
        b"\xff\xd0" * (1 << 21),
    ],
    ids=["zeros", "fill bytes", "tiny segments", "letters", "restarts"],
)  # fmt: skip
def test_a_header_of_junk_costs_little(junk):
    started = time.process_time()
    with pytest.raises(BadImage, match=r"belong to no segment|more than 4096 segments"):
        check(b"\xff\xd8" + junk)
    assert time.process_time() - started < 0.2  # of four megabytes; one byte at a time took that for each


def test_real_photographs_are_good_and_their_cut_copies_are_not(shared_data: Path):
    files = sorted(f for f in shared_data.glob("*/**/*") if f.suffix in (".jpg", ".png") and "faults" not in f.parts)
    for file in files[:: len(files) // PHOTOGRAPHS]:
        data = file.read_bytes()
        assert not refused(data), file
        for left, missing in cuts(data):
            assert refused(left + bytes(len(missing))), file
