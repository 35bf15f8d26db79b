"""What is decoded of a JPEG is what the whole decode has there, to the bit; whatever else is left to the old way."""

import io
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_augment_backends import birds, plan_of  # noqa: F401 - a fixture

from augment import Making, Policy, backends
from augment.backends import fused, jpeg, native
from augment.backends.layout import CROP
from augment.backends.threads import share_out
from augment.backends.torch_ops import decode
from augment.stream.imageset import ImageSet
from precompute.base import pixels

LIBRARIES = list(jpeg.candidates())
KINDS = {
    "4:4:4": {"subsampling": "4:4:4"},
    "4:2:2": {"subsampling": "4:2:2"},
    "4:2:0": {"subsampling": "4:2:0"},
    "progressive": {"progressive": True},
    "restart markers in every row": {"restart_marker_rows": 1},
    "restart markers in every block": {"restart_marker_blocks": 1},
    "own tables": {"optimize": True, "quality": 30},
}


@cache
def compiled():
    try:
        return native.load()
    except native.NotBuilt as error:
        pytest.skip(str(error))


@pytest.fixture(params=LIBRARIES, ids=[owner for owner, _ in LIBRARIES])
def crops(request) -> jpeg.JpegCrops:
    return jpeg.JpegCrops(compiled(), request.param[1])


def photograph(width: int, height: int, mode: str = "RGB") -> Image.Image:
    """Random colours, smooth over some pixels, so that neighbours matter wherever a picture is cut."""
    random = np.random.default_rng(width * height)
    small = random.integers(0, 256, (height // 3 + 1, width // 3 + 1, 3), np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BILINEAR).convert(mode)


def encoded(picture: Image.Image, **options) -> bytes:
    file = io.BytesIO()
    picture.save(file, "JPEG", **{"quality": 90, **options})
    return file.getvalue()


def part(crops: jpeg.JpegCrops, data: bytes, roi: tuple[int, ...]) -> np.ndarray | None:
    """The ROI's pixels by the library; None where it leaves the file to another decoder."""
    x0, y0, x1, y1 = roi
    out, job = np.zeros((y1 - y0, x1 - x0, 3), np.uint8), np.zeros(1, CROP)
    job["roi"], job["width"], job["height"], job["out"] = roi, x1 - x0, y1 - y0, out.ctypes.data
    left = crops.cut([data], np.array((0, 1)), job, lambda work: work())
    assert left.tolist() in ([], [0])
    return None if len(left) else out


def windows(width: int, height: int, count: int = 12) -> list[tuple[int, ...]]:
    """The whole picture, its corner pixels, and random parts of it."""
    random = np.random.default_rng(width + height)
    xy = [np.sort(random.choice(side + 1, (count, 2)), axis=1) for side in (width, height)]
    some = [(x0, y0, x1, y1) for (x0, x1), (y0, y1) in zip(*map(np.ndarray.tolist, xy), strict=True)]
    corners = [(0, 0, 1, 1), (width - 1, height - 1, width, height)]
    return [(0, 0, width, height), *corners, *(w for w in some if w[0] < w[2] and w[1] < w[3])]


def check_parts(crops: jpeg.JpegCrops, data: bytes) -> None:
    whole = decode(data).permute(1, 2, 0).numpy()
    for roi in windows(*whole.shape[1::-1]):
        x0, y0, x1, y1 = roi
        np.testing.assert_array_equal(part(crops, data, roi), whole[y0:y1, x0:x1], err_msg=str(roi))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(1, 1), (15, 17), (64, 48), (203, 131)])
def test_parts_are_those_of_the_whole_decode(crops, kind, size):
    check_parts(crops, encoded(photograph(*size), **KINDS[kind]))


@pytest.mark.parametrize("progressive", [False, True])
def test_grey_pictures_get_three_equal_channels(crops, progressive):
    check_parts(crops, encoded(photograph(75, 50, "L"), progressive=progressive))


def test_real_photographs(crops, shared_data):
    """Of every set one picture in thirty, and all that are valid but odd: 4:1:1, 4:1:0, 4:4:0, RGB, junk, ..."""
    paths = sorted(path for path in shared_data.rglob("*.jpg") if "faults" not in path.parts)[::30]
    odd = sorted((shared_data / "faults" / "odd_valid").glob("*.jpg"))
    taken = []
    for path in paths + odd:
        data = path.read_bytes()
        header = pixels.probe(data)
        whole = (0, 0, header.width, header.height)
        if part(crops, data, whole) is not None:
            check_parts(crops, data)
            taken.append(path)
    assert set(paths) <= set(taken)
    assert {"dali_411.jpg", "dali_410.jpg", "dali_440.jpg", "jd_rgb.jpg"} <= {path.name for path in taken}


@pytest.mark.parametrize(
    "crops",
    [
        pytest.param(library, id=library[0], marks=[pytest.mark.slow] if i else [])
        for i, library in enumerate(LIBRARIES)
    ],
    indirect=True,
)
def test_damaged_files_are_left_to_the_decoder_that_judges_them(crops, shared_data):
    """Where a whole file is taken, torchvision's decoder takes it too, with the same pixels."""
    judged = {True: 0, False: 0}
    for path in sorted((shared_data / "faults").rglob("*")):
        data = path.read_bytes() if path.is_file() else b""
        if path.name == "bomb_dims_65500.jpg":  # torchvision fills 13 GB with it, in 25 s
            assert part(crops, data, (0, 0, 65500, 65500)) is None
            continue
        try:
            whole = decode(data).permute(1, 2, 0).numpy() if data[:2] == b"\xff\xd8" else None
        except RuntimeError:
            whole = None
        height, width = (8, 8) if whole is None else whole.shape[:2]
        out = part(crops, data, (0, 0, width, height)) if whole is not None else part(crops, data, (0, 0, 1, 1))
        if whole is None or out is None:
            judged[False] += 1
            continue
        np.testing.assert_array_equal(out, whole, err_msg=path.name)
        judged[True] += 1
    assert judged[True] > 30
    assert judged[False] > 30


def test_what_is_left_to_another_decoder(crops):
    picture, whole = photograph(40, 30), (0, 0, 40, 30)
    good = encoded(picture)
    assert part(crops, good, whole) is not None
    turned, upright, other = Image.Exif(), Image.Exif(), Image.Exif()
    turned[0x0112], upright[0x0112], other[0x010F] = 6, 1, "a maker"
    assert part(crops, encoded(picture, exif=turned), whole) is None
    assert part(crops, encoded(picture, exif=upright), whole) is not None
    assert part(crops, encoded(picture, exif=other), whole) is not None
    assert part(crops, encoded(picture.convert("CMYK")), whole) is None
    png = io.BytesIO()
    picture.save(png, "PNG")
    for data in (png.getvalue(), b"", b"\xff\xd8", good[:200], good[: len(good) // 2], good[:-2]):
        assert part(crops, data, whole) is None
    assert part(crops, good, (0, 0, 41, 30)) is None
    assert part(crops, good, (0, 29, 40, 31)) is None
    # After all those errors it works as before.
    np.testing.assert_array_equal(part(crops, good, whole), decode(good).permute(1, 2, 0).numpy())


def test_threads_share_pictures_of_which_some_are_damaged(crops):
    """Eight threads, three rounds: each picture is cut once, and the damaged ones are named."""
    good = [encoded(photograph(60 + 7 * (i % 9), 90 - 5 * (i % 7)), subsampling=i % 3) for i in range(64)]
    files = [data[: len(data) // 2] if i % 10 == 3 else data for i, data in enumerate(good)]
    expected = [decode(data).permute(1, 2, 0).numpy()[5:41, 9:52] for data in good]
    with ThreadPoolExecutor(8) as threads:
        for _ in range(3):
            made = np.zeros((len(files), 36, 43, 3), np.uint8)
            jobs = np.zeros(len(files), CROP)
            jobs["roi"], jobs["width"], jobs["height"] = (9, 5, 52, 41), 43, 36
            jobs["out"] = made.ctypes.data + np.arange(len(files)) * made[0].nbytes
            first = np.arange(len(files) + 1)
            left = crops.cut(files, first, jobs, lambda work: share_out(threads, 8, work, [()] * 8))
            for i in set(range(len(files))) - set(left.tolist()):
                np.testing.assert_array_equal(made[i], expected[i])
            whole = {i for i in range(len(files)) if i % 10 != 3}
            assert whole.isdisjoint(left.tolist())


POLICIES = {
    "linear": Policy(size=64),
    "rrc": Policy(name="rrc", size=64),
    "zoom": Policy(size=64, scene="zoom", own=0.25),
    "torchvision": Policy(size=64, colour="torchvision"),
}


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
@pytest.mark.parametrize("workers", [1, 4])
def test_views_are_those_of_the_whole_decode(birds: ImageSet, monkeypatch, policy, compiled, workers):  # noqa: F811
    """With a picture among them that is turned, and so decoded wholly."""
    plan = plan_of(policy, birds)
    files = [birds.read(int(i)) for i in plan.images]
    exif = Image.Exif()
    exif[0x0112] = 3
    with Image.open(io.BytesIO(files[1])) as picture:
        files[1] = encoded(picture, exif=exif)
    views = {}
    for found in (True, False):
        if not found:
            monkeypatch.setattr(jpeg, "candidates", lambda: iter(()))
        said = []
        making = Making(device="cpu", workers=workers, say=said.append).settled()
        backend = fused.FusedBackend(policy, making, compiled=compiled)
        views[found] = [view.clone() for _ in range(2) for view in backend.render(plan, files)]
        assert any(
            ("the part that views read is decoded" if found else "whole pictures are decoded, which is slower") in line
            for line in said
        )
        backend.close()
    assert all(torch.equal(a, b) for a, b in zip(views[True], views[False], strict=True))


def test_a_picture_smaller_than_planned_is_refused_as_before(birds: ImageSet):  # noqa: F811
    policy = Policy(size=32)
    plan = plan_of(policy, birds)
    files = [birds.read(int(i)) for i in plan.images]
    files[2] = encoded(photograph(20, 20))
    for name in ("fused", "eager"):
        backend = backends.build(name, policy, Making(device="cpu", workers=2), len(plan))
        with pytest.raises(ValueError, match="leaves an image of 20x20 pixels"):
            backend.render(plan, files)
        backend.close()


def test_libraries_that_do_not_fit_are_passed_over_and_named(monkeypatch, tmp_path):
    said = []
    libc = next(iter(Path("/lib").rglob("libc.so.6")), None)
    if libc is None:
        pytest.skip("no libc.so.6")
    (tmp_path / "text").write_text("not a library")
    wrong = [("libc", str(libc)), ("text", str(tmp_path / "text"))]
    monkeypatch.setattr(jpeg, "candidates", lambda: iter([*wrong, *LIBRARIES]))
    found = jpeg.find(compiled(), said.append)
    assert found is not None
    assert LIBRARIES[0][0] in said[-1]
    monkeypatch.setattr(jpeg, "candidates", lambda: iter(wrong))
    assert jpeg.find(compiled(), said.append) is None
    assert "libc.so.6 has no jpeg_" in said[-1]
    assert "not libjpeg-turbo" in said[-1]


def test_pixels_that_differ_refuse_a_library(monkeypatch):
    said = []
    monkeypatch.setattr(jpeg, "decode", lambda data: decode(data) ^ 1)
    assert jpeg.find(compiled(), said.append) is None
    assert "other pixels" in said[-1]


def test_without_a_compiler_eager_decodes_whole_pictures_and_says_so(monkeypatch):
    def fails(say):
        raise native.NotBuilt("there is no C++ compiler (g++ or clang++)")

    said = []
    monkeypatch.setattr(native, "load", fails)
    making = Making(device="cpu", workers=1, say=said.append).settled()
    backend = fused.FusedBackend(Policy(size=32), making, compiled=False)
    backend.close()
    assert [line for line in said if "whole pictures are decoded, which is slower: there is no C++ compiler" in line]
