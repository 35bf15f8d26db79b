"""images.py on every odd and damaged file of the shared set, and against DALI, torchvision and Pillow."""

import csv
import io
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from precompute.base.pixels import BadImage, check, decode, probe, thumbnail, to_png


def manifest(folder: Path) -> list[dict[str, str]]:
    with open(folder / "faults" / "MANIFEST.tsv", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    return [row for row in rows if not row["path"].startswith("cub_annotations")]


@pytest.fixture(scope="module")
def judged(shared_data):
    """Every file of faults/: its manifest row, its bytes, and the pixels or the reason."""
    out = []
    for row in manifest(shared_data):
        data = (shared_data / "faults" / row["path"]).read_bytes()
        try:
            out.append((row, data, decode(data)))
        except BadImage as error:
            out.append((row, data, str(error)))
    return out


def test_verdicts_and_sizes_are_the_manifests(judged):
    assert len(judged) == 115
    for row, data, result in judged:
        name = row["path"]
        if isinstance(result, str):
            assert row["verdict"] in ("BAD", "ANY"), f"{name}: {result}"
            assert len(result) > 10, name
            with pytest.raises(BadImage, match=r"."):
                check(data)
            continue
        assert row["verdict"] in ("OK", "FIX", "ANY"), name
        height, width, _ = result.shape
        info = probe(data)
        assert (info.width, info.height) == (width, height), name
        assert check(data) == info
        assert result.dtype == np.uint8
        assert result.shape[2] == 3
        if row["dali_cpu"].startswith("ok"):  # DALI turns by EXIF; where it refuses, Pillow's size counts
            assert row["dali_cpu"].endswith(f"{height}x{width}x3"), name
        else:
            assert row["pillow"].endswith(f"{height}x{width}"), name


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("damaged/zero_bytes.jpg", "empty file"),
        ("damaged/truncated_50.jpg", "truncated"),
        ("damaged/zero_dims.jpg", "no picture size"),
        ("damaged/bomb_dims_65500.jpg", "65500x65500 pixels are more than the limit of 179 million"),
        ("wrong_format/html_named.jpg", "HTML"),
        ("wrong_format/lfs_pointer.jpg", "Git LFS pointer"),
        ("wrong_format/._appledouble.jpg", "AppleDouble"),
        ("damaged/random_bytes.jpg", "no known image format"),
    ],
)
def test_reasons_say_what_is_wrong(shared_data, name, reason):
    with pytest.raises(BadImage, match=reason):
        decode((shared_data / "faults" / name).read_bytes())


def test_dali_sees_the_same_pixels(judged):
    dali = pytest.importorskip("nvidia.dali")
    good = [(row["path"], data, pixels) for row, data, pixels in judged if not isinstance(pixels, str)]

    @dali.pipeline_def(batch_size=len(good), num_threads=1, device_id=None, prefetch_queue_depth=1)
    def pipeline():
        return dali.fn.decoders.image(dali.fn.external_source(name="files", dtype=dali.types.UINT8, ndim=1))

    pipe = pipeline()
    pipe.build()
    files = [data if probe(data).plain else to_png(data) for _, data, _ in good]
    pipe.feed_input("files", [np.frombuffer(data, np.uint8) for data in files])
    (decoded,) = pipe.run()
    for i, (name, _, pixels) in enumerate(good):
        np.testing.assert_array_equal(decoded.at(i), pixels, err_msg=name)


def test_pillow_sees_the_same_pixels_of_plain_files(judged):
    plain = 0
    for row, data, pixels in judged:
        if isinstance(pixels, str):
            continue
        source = data if probe(data).plain else to_png(data)
        plain += source is data
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            picture = Image.open(io.BytesIO(source))
            seen = ImageOps.exif_transpose(picture).convert("RGB")
        np.testing.assert_array_equal(np.asarray(seen), pixels, err_msg=row["path"])
    assert plain > 50


def test_torchvision_sees_the_same_pixels_of_plain_files(judged):
    import torch
    from torchvision.io import ImageReadMode, decode_image

    equal = []
    for row, data, pixels in judged:
        if isinstance(pixels, str) or not probe(data).plain:
            continue
        with warnings.catch_warnings():  # torchvision 0.29 deprecates its decoders
            warnings.simplefilter("ignore")
            buffer = torch.frombuffer(bytearray(data), dtype=torch.uint8)
            seen = decode_image(buffer, mode=ImageReadMode.RGB, apply_exif_orientation=True)
        seen = seen.permute(1, 2, 0).numpy()
        # The libjpeg of torchvision 0.26 decodes three of them a little otherwise (4:4:0, a damaged one).
        np.testing.assert_allclose(seen, pixels, rtol=0, atol=5, err_msg=row["path"])
        equal.append(np.array_equal(seen, pixels))
    assert len(equal) > 50
    assert equal.count(False) <= 3


def encoded(picture: Image.Image, **options) -> bytes:
    out = io.BytesIO()
    picture.save(out, **options)
    return out.getvalue()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_every_orientation_as_pillow_turns_it(orientation, kind):
    pixels = np.random.default_rng(orientation).integers(0, 256, (5, 9, 3)).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(pixels), format=kind, exif=exif)
    with Image.open(io.BytesIO(data)) as picture:
        expected = np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))
    np.testing.assert_array_equal(decode(data), expected)
    info = probe(data)
    assert (info.height, info.width) == expected.shape[:2]
    assert info.plain == (kind == "JPEG")


def test_sixteen_bits_keep_their_upper_eight():
    values = np.array([[0, 255, 256, 40000, 65535]], dtype=np.uint16)
    assert decode(encoded(Image.fromarray(values), format="PNG"))[0, :, 0].tolist() == [0, 0, 1, 156, 255]


@pytest.mark.parametrize("side", [16, 100, 224])
@pytest.mark.parametrize("orientation", [1, 6])
def test_nothing_of_a_banner_is_in_a_thumbnail(side, orientation):
    """As if the file had never had it, whether the picture is shrunk by much, a little, or enlarged."""
    pixels = np.random.default_rng(0).integers(0, 100, (150, 130, 3), dtype=np.uint8)
    with_banner = np.concatenate([pixels, np.full((20, 130, 3), 255, np.uint8)])
    files = []
    for upright in (with_banner, pixels):
        file, exif = io.BytesIO(), Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(np.rot90(upright) if orientation == 6 else upright).save(file, "PNG", exif=exif)
        files.append(file.getvalue())
    np.testing.assert_array_equal(decode(files[0]), with_banner)
    cut, without = thumbnail(files[0], side, banner=20)[1], thumbnail(files[1], side)[1]
    off = np.abs(cut.astype(int) - without).max()
    assert off <= (0 if orientation == 1 else 3)  # Pillow shrinks columns before rows: turned, it rounds elsewhere


def test_the_pixel_limit_counts_before_decoding():
    data = encoded(Image.new("RGB", (40, 30)), format="JPEG")
    assert probe(data, max_pixels=1200).width == 40
    for function in (probe, decode, check, to_png):
        with pytest.raises(BadImage, match="40x30 pixels are more than"):
            function(data, max_pixels=1199)


def test_any_damage_gives_pixels_or_bad_image(shared_data):
    """Random bytes of real files overwritten or cut off: never another exception, never a wrong shape."""
    rng = np.random.default_rng(0)
    names = ("odd_valid/dali_2x4.jpg", "needs_fix/exif_orient_6.jpg", "wrong_format/png_rgba_named.jpg")
    names += ("wrong_format/gif_named.jpg", "wrong_format/tiff_named.jpeg", "wrong_format/webp_named.jpg")
    refused = 0
    for name in names:
        original = (shared_data / "faults" / name).read_bytes()
        for _ in range(25):
            data = bytearray(original)
            for at in rng.integers(0, min(len(data), 700), 3):
                data[at] = rng.integers(256)
            if rng.random() < 0.3:
                del data[rng.integers(len(data)) :]
            try:
                pixels = decode(bytes(data))
                info = probe(bytes(data))
                assert pixels.shape == (info.height, info.width, 3)
            except BadImage:
                refused += 1
    assert refused > 20


def test_threads_leak_no_warning_and_leave_the_filters_alone(shared_data):
    files = [(shared_data / "faults" / row["path"]).read_bytes() for row in manifest(shared_data)]
    files = [data for data in files if len(data) < 60_000]
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        before = list(warnings.filters)

        def work(offset: int) -> None:
            for data in files[offset:] + files[:offset]:
                try:
                    decode(data)
                except BadImage:
                    continue

        threads = [threading.Thread(target=work, args=(7 * i,)) for i in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert warnings.filters == before
    assert [w for w in seen if "PIL" in w.filename or "precompute" in w.filename] == []
