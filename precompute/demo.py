"""The embedded data set: procedural photographs of fish in the CUB-200-2011 layout, made on the spot, no download.

Fine-grained on purpose. All classes share one body plan; they differ in the pattern on the flank, the shape of the tail
and, as species do, in their typical colours, which vary a little from fish to fish. The backgrounds are a nuisance:
cluttered, as colourful as the fish, and covered with the same spots and stripes, so neither colour nor local texture
tells where the object is, and a method that sees whole pictures learns the backgrounds' colours. Fish differ in size
and are mostly off-centre, so that a centre prior does not win.

Every image has its own counter-based random stream: image 7 is the same whatever the number of images, and the same
call always writes the same files (for one version of Pillow, which encodes the JPEGs).
"""

import colorsys
import json
import os
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from precompute.base.errors import UserError
from precompute.base.program import cores, progress

PATTERNS = ("plain_flank", "two_bars", "five_bars", "lengthwise_line", "large_spots", "small_spots", "saddle", "net")
TAILS = ("forktail", "fantail")
CLASS_NAMES = tuple(f"{i + 1:03d}.{p}_{t}" for i, (p, t) in enumerate((p, t) for p in PATTERNS for t in TAILS))
IMAGES = 960
_STAMP = "demo.json"
_OVERSAMPLE = 2  # drawn at twice the size and reduced, for smooth edges

Rng = np.random.Generator
Colour = tuple[int, int, int]


def make_demo(root: Path | str, *, images: int = IMAGES, seed: int = 0, quiet: bool = False) -> None:
    """Writes `images` JPEGs (half train, half test, 16 classes in turn) and CUB's text files under `root`.

    The folder appears whole or not at all. A folder that this function made with the same settings is left as it is;
    any other existing folder is never touched. Raises UserError then, and for fewer images than classes.
    """
    root = Path(root)
    stamp = {"made_by": "precompute.demo", "version": 2, "images": images, "seed": seed}
    if images < 2 * len(CLASS_NAMES):
        raise UserError(f"images={images}: the demo set needs at least {2 * len(CLASS_NAMES)} (two per class)")
    if root.exists():
        if _read_stamp(root) == stamp:
            return
        raise UserError(
            f"{root} exists and is not this demo set ({images} images, seed {seed}): name another folder, or remove "
            "that one where it is an older version's (make clean)"
        )
    root.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{root.name}.", suffix=".tmp", dir=root.parent))
    try:
        _write_set(work, images, seed, quiet)
        (work / _STAMP).write_text(json.dumps(stamp) + "\n")
        work.chmod(0o755)
        os.rename(work, root)
    except OSError as error:
        if _read_stamp(root) != stamp:  # else another process was faster; its files are equal to ours
            raise OSError(error.errno, error.strerror or str(error), str(root)) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _read_stamp(root: Path) -> dict | None:
    try:
        return json.loads((root / _STAMP).read_text())
    except (OSError, ValueError):
        return None


def _write_set(root: Path, images: int, seed: int, quiet: bool) -> None:
    for name in CLASS_NAMES:
        (root / "images" / name).mkdir(parents=True)
    names = "images", "image_class_labels", "bounding_boxes", "train_test_split"
    rows = {name: [""] * images for name in names}

    def write(i: int) -> None:
        label = i % len(CLASS_NAMES)
        picture, (x0, y0, x1, y1) = draw_image(i, label, seed)
        name = f"{CLASS_NAMES[label]}/{CLASS_NAMES[label][4:]}_{i:04d}.jpg"
        picture.save(root / "images" / name, quality=90)
        rows["images"][i] = f"{i + 1} {name}"
        rows["image_class_labels"][i] = f"{i + 1} {label + 1}"
        rows["bounding_boxes"][i] = f"{i + 1} {x0:.1f} {y0:.1f} {x1 - x0:.1f} {y1 - y0:.1f}"
        rows["train_test_split"][i] = f"{i + 1} {1 - i // len(CLASS_NAMES) % 2}"

    # Threads, as Pillow leaves the interpreter to others while it turns, blurs and encodes.
    with ThreadPoolExecutor(cores()) as pool:
        try:
            done = pool.map(write, range(images))
            for _ in done if quiet else progress(done, total=images, what="demo set", unit="image"):
                pass
        except BaseException:  # Ctrl-C, or a full disk: what has not begun is left
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    rows["classes"] = [f"{i + 1} {name}" for i, name in enumerate(CLASS_NAMES)]
    for name, lines in rows.items():
        (root / f"{name}.txt").write_text("\n".join(lines) + "\n")
    about = "Procedural images in the CUB-200-2011 layout, made by precompute.demo. No rights reserved.\n"
    (root / "README").write_text(about)


def draw_image(index: int, label: int, seed: int) -> tuple[Image.Image, tuple[int, int, int, int]]:
    """One RGB picture and its object's box (x0, y0, x1, y1 in pixels, end-exclusive)."""
    rng = np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, 0, index]))
    width, height = int(rng.integers(192, 321)), int(rng.integers(160, 257))
    canvas = _background(rng, width * _OVERSAMPLE, height * _OVERSAMPLE)
    fish = _fish(rng, label, length=rng.uniform(0.4, 0.8) * min(width, height) * _OVERSAMPLE)
    free_x, free_y = canvas.width - fish.width, canvas.height - fish.height
    # Beta(½, ½) prefers the borders: off-centre objects, as localisation figures need them.
    at = int(rng.beta(0.5, 0.5) * max(free_x, 0)), int(rng.beta(0.5, 0.5) * max(free_y, 0))
    canvas.paste(fish, at, fish)
    left, top, right, bottom = _extent(fish)
    box = ((at[0] + left) // 2, (at[1] + top) // 2, -(-(at[0] + right) // 2), -(-(at[1] + bottom) // 2))
    picture = canvas.resize((width, height), Image.Resampling.BOX)
    noise = rng.normal(0, rng.uniform(1, 5), (height, width, 1))  # a camera's grain
    pixels = np.clip(np.asarray(picture, dtype=np.float32) * rng.uniform(0.75, 1.1) + noise, 0, 255)
    return Image.fromarray(pixels.round().astype(np.uint8)), (box[0], box[1], min(box[2], width), min(box[3], height))


def _colour(rng: Rng, low: int = 30, high: int = 226) -> Colour:
    r, g, b = rng.integers(low, high, 3).tolist()
    return r, g, b


def _background(rng: Rng, width: int, height: int) -> Image.Image:
    """Smooth colour fields with clutter on top: blobs, blades and slabs, many of them spotted or striped."""
    grid = rng.integers(40, 216, (int(rng.integers(2, 6)), int(rng.integers(2, 6)), 3)).astype(np.uint8)
    canvas = Image.fromarray(grid).resize((width, height), Image.Resampling.BICUBIC)
    for _ in range(int(rng.integers(14, 40))):
        extent = int(rng.uniform(0.08, 0.5) * min(width, height))
        shape = _clutter(rng, extent).rotate(rng.uniform(0, 360), Image.Resampling.BILINEAR, expand=True)
        pattern = int(rng.integers(len(PATTERNS)))
        skin = _patterned(shape.size, pattern, _colour(rng), _colour(rng))
        canvas.paste(skin, (int(rng.integers(-extent // 2, width)), int(rng.integers(-extent // 2, height))), shape)
    return canvas.filter(ImageFilter.GaussianBlur(rng.uniform(0, 2.0)))


def _clutter(rng: Rng, n: int) -> Image.Image:
    """The outline of a blob, a blade or a slab."""
    shape = Image.new("L", (n, n))
    draw, kind = ImageDraw.Draw(shape), rng.integers(3)
    if kind == 0:
        angles = np.linspace(0, 2 * np.pi, 12, endpoint=False)
        radius = rng.uniform(0.25, 0.5, 12) * n
        points = np.stack([n / 2 + radius * np.cos(angles), n / 2 + radius * np.sin(angles)], 1)
        draw.polygon(points.ravel().tolist(), fill=255)
    elif kind == 1:
        half = rng.uniform(0.05, 0.2) * n
        draw.ellipse((0, n / 2 - half, n - 1, n / 2 + half), fill=255)
    else:
        inset = rng.uniform(0.0, 0.35) * n
        draw.rounded_rectangle((0, inset, n - 1, n - 1 - inset), radius=n // 8, fill=255)
    return shape


def _patterned(size: tuple[int, int], pattern: int, ground: Colour, colour: Colour) -> Image.Image:
    """A sheet of one colour with a flank's pattern in another; clutter and fish are both made of it."""
    skin = Image.new("RGB", size, ground)
    draw, name, (w, h) = ImageDraw.Draw(skin), PATTERNS[pattern], size
    if name in ("two_bars", "five_bars"):
        count = 2 if name == "two_bars" else 5
        bar = 0.34 * w / count
        for k in range(count):
            x = (k + 0.5) * w / count - bar / 2
            draw.rectangle((x, 0, x + bar, h), fill=colour)
    elif name == "lengthwise_line":
        draw.rectangle((0, 0.42 * h, w, 0.58 * h), fill=colour)
    elif name in ("large_spots", "small_spots"):
        columns, rows, radius = (5, 2, 0.13 * h) if name == "large_spots" else (10, 5, 0.055 * h)
        for i in range(columns):
            for j in range(rows):
                x, y = (i + 0.5 + 0.25 * (j % 2)) * w / columns, (j + 0.5) * h / rows
                draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)
    elif name == "saddle":
        draw.ellipse((0.25 * w, -0.55 * h, 0.75 * w, 0.5 * h), fill=colour)
    elif name == "net":
        step, line = max(w // 9, 4), max(w // 60, 1)
        for x in range(-h, w, step):
            draw.line((x, 0, x + h, h), fill=colour, width=line)
            draw.line((x + h, 0, x, h), fill=colour, width=line)
    return skin


def _class_colours(rng: Rng, label: int) -> tuple[Colour, Colour, Colour]:
    """Skin, mark and fin of a fish: its class's hues, with a standard deviation of 0.03 turns."""

    def colour(hue: float, value: float) -> Colour:
        h, s = (hue + rng.normal(0, 0.03)) % 1.0, rng.uniform(0.55, 0.95)
        v = np.clip(value + rng.uniform(-0.15, 0.15), 0.12, 0.95)
        r, g, b = (int(255 * channel) for channel in colorsys.hsv_to_rgb(h, float(s), float(v)))
        return r, g, b

    count = len(CLASS_NAMES)
    skin = label * 7 % count / count  # neighbours in the list are far apart in hue
    mark = (skin + (0.5 if label % 2 else 0.33)) % 1.0
    return colour(skin, 0.75), colour(mark, 0.45), colour(mark, 0.7)


def _fish(rng: Rng, label: int, length: float) -> Image.Image:
    """An RGBA fish, cut to its outline: body with the class's pattern, tail of the class's shape, fins, eye."""
    pattern, tail = divmod(label, len(TAILS))
    n = int(length)
    depth = rng.uniform(0.34, 0.46) * n  # height of the body
    body = (0.22 * n, n / 2 - depth / 2, n - 1, n / 2 + depth / 2)
    skin_colour, mark, fin = _class_colours(rng, label)

    outline = Image.new("L", (n, n))
    ImageDraw.Draw(outline).ellipse(body, fill=255)
    flank = Image.new("RGB", (n, n), skin_colour)
    marked = _patterned((int(body[2] - body[0]), int(depth)), pattern, skin_colour, mark)
    flank.paste(marked, (int(body[0]), int(body[1])))

    fish = Image.new("RGBA", (n, n))
    draw = ImageDraw.Draw(fish)
    spread = rng.uniform(0.16, 0.24) * n
    if TAILS[tail] == "forktail":
        corners = [(0.3 * n, 0.5 * n), (0, 0.5 * n - spread), (0.12 * n, 0.5 * n), (0, 0.5 * n + spread)]
        draw.polygon(corners, fill=(*fin, 255))
    else:
        draw.pieslice((0, 0.5 * n - spread, 0.56 * n, 0.5 * n + spread), 140, 220, fill=(*fin, 255))
    back = [(0.45 * n, body[1] + 0.06 * n), (0.55 * n, body[1] - 0.09 * n), (0.75 * n, body[1] + 0.06 * n)]
    draw.polygon(back, fill=(*fin, 255))
    fish.paste(flank, (0, 0), outline)
    radius = 0.028 * n
    eye = (0.87 * n, 0.5 * n - 0.14 * depth)
    for r, colour in ((radius, (245, 245, 235, 255)), (0.55 * radius, (10, 10, 10, 255))):
        draw.ellipse((eye[0] - r, eye[1] - r, eye[0] + r, eye[1] + r), fill=colour)

    if rng.random() < 0.5:
        fish = fish.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    fish = fish.rotate(rng.uniform(-35, 35), Image.Resampling.BICUBIC, expand=True)
    return fish.crop(_extent(fish))


def _extent(fish: Image.Image) -> tuple[int, int, int, int]:
    """The box of the pixels that are more opaque than not: x0, y0, x1, y1, end-exclusive."""
    box = fish.getchannel("A").point([0] * 128 + [255] * 128).getbbox()
    assert box is not None
    return box
