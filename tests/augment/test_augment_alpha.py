"""Copy-paste by saliency maps: one meaning on every backend, soft masks, errors before the first batch."""

import shutil

import numpy as np
import pytest
import torch
from loading import open_with
from PIL import Image

from augment import Making, Policy, backends
from augment.stream.alpha import MapFolder, with_alpha
from augment.stream.imageset import ImageSet
from augment.views.plan import Plan, draw, epoch_order, partners
from precompute.base import pixels
from precompute.base.errors import BadValue, UserError
from tests.augment import reference
from tests.augment.test_augment_backends import frames

SOFT = Policy(name="copy-paste", size=64, blur_sigma=(0.1, 1.0), mean=(0, 0, 0), std=(1 / 255,) * 3)


GEOMETRY = {"jitter_p": 0.0, "gray_p": 0.0, "blur_p": 0.0}
CASES = [{}, {"mode": "paste", "scene": "crop"}, {"box_cap": 1.0, "paste_scale": 1.0, "mode": "paste", "views": 3}]


def blob(width: int, height: int) -> np.ndarray:
    """A soft ellipse, uint8 [h, w]."""
    y, x = np.mgrid[:height, :width]
    far = ((x + 0.5) / width - 0.45) ** 2 + ((y + 0.5) / height - 0.55) ** 2
    return (255 * np.exp(-far / 0.05)).astype(np.uint8)


@pytest.fixture(scope="module")
def birds(shared_data, cub_boxes, tmp_path_factory):
    """Box file and root of CUB, and maps of all its pictures at a quarter of their size."""
    folder, root = tmp_path_factory.mktemp("maps"), shared_data / "CUB_200_2011"
    pictures = ImageSet.open(cub_boxes, root)
    for row in range(len(pictures)):
        file = (folder / "maps" / pictures.path(row)).with_suffix(".png")
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(blob(pictures.pool.widths[row] // 4, pictures.pool.heights[row] // 4)).save(file)
    return cub_boxes, root, folder / "maps"


def plan_of(policy: Policy, birds):
    pictures = ImageSet.open(*birds[:2])
    order = epoch_order(len(pictures), 1, 0)
    chosen = partners(order, np.arange(8), policy.group, policy.views, 1, 0)
    plan = draw(policy, pictures.pool, order[:8], chosen, seed=1, epoch=0)
    sides = np.stack((pictures.pool.widths, pictures.pool.heights), axis=1)[plan.sources]
    files = [pictures.read(row) for row in plan.images.tolist()]
    return with_alpha(plan, lambda row: blob(pictures.pool.widths[row], pictures.pool.heights[row]), sides), files


def render(name: str, policy: Policy, plan: Plan, files: list[bytes]) -> np.ndarray:
    """float32 [B, V, 3, S, S]."""
    if name == "dali":
        pytest.importorskip("nvidia.dali")
    backend = backends.build(name, policy, Making(device="cpu", workers=2), len(plan))
    try:
        return np.stack([view.numpy() for view in backend.render(plan, files)], axis=1)
    finally:
        backend.close()


@pytest.mark.parametrize("name", ["kornia", "fused", "eager", "dali"])
@pytest.mark.parametrize("changes", CASES, ids=str)
def test_views_agree_with_the_reference(name, changes, birds):
    policy = SOFT.replace(**changes)
    plan, files = plan_of(policy, birds)
    off = np.abs(render(name, policy, plan, files) - reference.views(plan, list(map(pixels.decode, files)), policy))
    # DALI's outermost pixels are others (see `frames`), and blur spreads them.
    assert off.mean() < (0.6 if name == "dali" else 0.3)
    assert np.percentile(off, 99) < (8 if name == "dali" else 2)
    assert name == "dali" or off.max() < 5


@pytest.mark.parametrize("changes", CASES, ids=str)
def test_dali_differs_on_outermost_pixels_only(changes, birds):
    policy = SOFT.replace(**GEOMETRY, **changes)
    plan, files = plan_of(policy, birds)
    assert len(plan.images) > len(plan)  # some samples of DALI's batch are no source and have no alpha
    off = np.abs(render("dali", policy, plan, files) - render("kornia", policy, plan, files))
    assert off.mean() < 0.5
    assert np.moveaxis(off, 2, -1)[~frames(plan)].max() <= 1.01


@pytest.mark.parametrize("name", ["kornia", "fused", "eager", "dali"])
def test_a_white_map_is_saliencyswap(name, birds):
    plan, files = plan_of(SOFT, birds)
    white = with_alpha(plan, lambda _: np.full((4, 4), 255, np.uint8), np.full((len(plan), 2), 4e4))
    plain = render(name, SOFT, white, files)
    hard = SOFT.replace(name="saliencyswap")
    pictures = ImageSet.open(*birds[:2])
    swap = draw(hard, pictures.pool, plan.sources, plan.backgrounds, seed=1, epoch=0)
    assert np.array_equal(plain, render(name, hard, swap, files))
    assert np.array_equal(plain, render(name, SOFT, swap, files))  # without an alpha all of a patch is seen


@pytest.mark.parametrize("part", [1, 2, 3])
def test_the_opacity_of_a_patch_is_that_of_its_own_part_of_the_map(birds, part):
    """Maps as large as the picture, or smaller: white where the patch is, black around it."""
    plan, _ = plan_of(SOFT, birds)
    sides = np.stack((ImageSet.open(*birds[:2]).pool.widths, ImageSet.open(*birds[:2]).pool.heights), axis=1)
    for i, row in enumerate(plan.sources.tolist()):
        size = np.maximum(sides[row] // part, 1)
        x0, y0, x1, y1 = (plan.patch[i, 0].reshape(2, 2) * (size / sides[row])).reshape(-1)
        around = np.zeros(size[::-1], np.uint8)
        around[int(y0) : int(np.ceil(y1)), int(x0) : int(np.ceil(x1))] = 255
        soft = with_alpha(plan.part(i, i + 1), lambda _, around=around: around, sides[[row]]).alpha
        left, top, right, bottom = plan.rects[i, 0].tolist()
        assert right > left
        assert bottom > top
        assert (soft[0, 0, top:bottom, left:right] == 255).all()


def test_maps_of_sixteen_bits_are_read_as_those_of_eight(birds, tmp_path):
    """Pillow's own conversion would make all of them white."""
    pictures, rows = ImageSet.open(*birds[:2]), np.array([0])
    eight = MapFolder(birds[2], pictures, rows)
    deep = (tmp_path / pictures.path(0)).with_suffix(".png")
    deep.parent.mkdir(parents=True)
    Image.fromarray(eight(0).astype(np.uint16) * 257).save(deep)
    assert eight(0).min() < 50
    assert np.array_equal(MapFolder(tmp_path, pictures, rows)(0), eight(0))


@pytest.mark.parametrize(("backend", "cache"), [("fused", "off"), ("fused", "ram"), ("dali", "off")])
def test_a_loader_gives_soft_masks(birds, backend, cache):
    if backend == "dali":
        pytest.importorskip("nvidia.dali")
    boxes, root, maps = birds
    options = {"policy": SOFT, "batch_size": 16, "split": None, "device": "cpu", "maps": maps, "say": lambda _: None}
    with open_with(boxes, root, backend=backend, cache=cache, **options) as loader:
        batch = next(iter(loader))
    for view in range(2):
        assert batch.plan.alpha is not None
        alpha = torch.from_numpy(batch.plan.alpha[:, view]).float() / 255
        alpha = torch.stack([a.flip(-1) if f else a for a, f in zip(alpha, batch.plan.flip[:, view], strict=True)])
        assert torch.allclose(batch.masks(view, 64), alpha, atol=1e-6)
        assert torch.allclose(batch.masks(view, 8), alpha.view(16, 8, 8, 8, 8).mean((2, 4)), atol=1e-5)
        assert torch.allclose(batch.masks(view, 7).mean((1, 2)), alpha.mean((1, 2)), atol=1e-5)


def test_turned_views_have_turned_masks(birds):
    boxes, root, maps = birds
    options = {"batch_size": 16, "split": None, "device": "cpu", "maps": maps, "say": lambda _: None}
    with open_with(boxes, root, policy=SOFT.replace(rotate=0.75, flip=0.0), backend="fused", **options) as loader:
        batch = next(iter(loader))
    assert set(batch.plan.turns.ravel().tolist()) == {0, 1, 2, 3}
    for i, view in np.ndindex(batch.plan.turns.shape):
        alpha = torch.from_numpy(batch.plan.alpha[i, view]).float() / 255
        expected = alpha.rot90(int(batch.plan.turns[i, view]), (0, 1))
        assert torch.allclose(batch.masks(view, 64)[i], expected, atol=1e-6)


def test_a_batch_with_a_stand_in_keeps_its_maps(birds, tmp_path):
    boxes, root, maps = birds
    copy = tmp_path / "CUB"
    shutil.copytree(root, copy)
    pictures = ImageSet.open(boxes, root)
    (copy / pictures.path(3)).write_bytes(b"no picture")
    options = {"policy": SOFT, "batch_size": 16, "split": None, "device": "cpu", "maps": maps, "say": lambda _: None}
    with open_with(boxes, copy, backend="fused", **options) as loader:
        batches = list(loader)
        assert loader.report()["replaced"] > 0
    for batch in batches:
        soft = (batch.plan.alpha > 0) & (batch.plan.alpha < 255)
        assert soft.any(axis=(1, 2, 3)).all()


def test_what_cannot_be_is_said_before_the_first_batch(birds, tmp_path):
    boxes, root, maps = birds
    options = {"batch_size": 16, "split": None, "device": "cpu", "say": lambda _: None}
    with pytest.raises(BadValue, match="maps=None: must be a folder of saliency maps for the policy copy-paste"):
        open_with(boxes, root, policy=SOFT, **options)
    with pytest.raises(BadValue, match=r"maps=.*: must be left out for saliencyswap"):
        open_with(boxes, root, maps=maps, **options)
    with pytest.raises(UserError, match="no such folder"):
        open_with(boxes, root, policy=SOFT, maps=tmp_path / "none", **options)
    with pytest.raises(UserError, match="no map for"):
        open_with(boxes, root, policy=SOFT, maps=tmp_path, **options)


def test_the_preview_shows_it(birds, tmp_path, run_here):
    boxes, root, maps = birds
    flags = ["--name", "copy-paste", "--maps", maps, "--split", "all", "--count", "2", "--size", "64"]
    done = run_here("augment.preview", "--boxes", boxes, "--root", root, "--out", tmp_path / "v.png", *flags)
    assert done.returncode == 0, done.stderr
    assert "copy-paste (swap)" in done.stdout
    assert (tmp_path / "v.png").stat().st_size > 1000
