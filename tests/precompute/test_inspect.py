"""The inspect command as a user runs it."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from precompute.base.boxmath import agreement, best_centred, centred, iou
from precompute.base.sheet import drawable, save
from precompute.boxes import make_boxes
from precompute.patches import draw_patch


@pytest.fixture(scope="module")
def made(shared_data, tmp_path_factory):
    """A writable copy of the real CUB rows and their spectral-residual boxes."""
    folder = tmp_path_factory.mktemp("inspect")
    shutil.copytree(shared_data / "CUB_200_2011", folder / "cub")
    victim = next((folder / "cub" / "images" / "001.Black_footed_Albatross").iterdir())
    victim.write_bytes(victim.read_bytes()[:1000])
    root, out = str(folder / "cub"), str(folder / "x.h5")
    make_boxes("cub", root=root, out=out, source="spectral-residual", say=lambda _: None)
    return folder, victim.name


def test_summary_sheet_quarantine_json(made, run_here):
    folder, victim = made
    done = run_here("precompute.inspect", folder / "x.h5", "--sheet", folder / "s.png", "--quarantine", "--json")
    assert done.returncode == 0, done.stderr
    assert f"{victim}: cannot be decoded" in done.stdout
    assert "s.png: 24 pictures" in done.stdout  # their maps beside them are none
    facts = json.loads(done.stdout.splitlines()[-1])
    assert facts["images"] == 223
    assert facts["quarantined"] == 1
    assert sum(facts["area_histogram"]) == 223
    assert facts["agreement"]["pictures"] == 223
    assert 0.4 < facts["agreement"]["mean_iou"] < facts["agreement"]["centred_mean_iou"] < 0.6
    assert facts["verified"]["problems"] == []
    with Image.open(folder / "s.png") as sheet:
        pixels = np.asarray(sheet)
    assert pixels.shape[1] > 800
    assert (pixels == (64, 224, 96)).all(-1).sum() > 2000  # boxes
    assert (pixels == 255).all(-1).sum() > 1000  # annotated ones


def test_changed_pictures_are_noticed(made, run_here):
    folder, _ = made
    others = sorted((folder / "cub" / "images" / "002.Laysan_Albatross").iterdir())
    shutil.copytree(folder / "cub", folder / "other")
    same_size, gone = (folder / "other" / other.relative_to(folder / "cub") for other in others[:2])
    data = bytearray(same_size.read_bytes())
    data[-10] ^= 1
    same_size.write_bytes(data)
    gone.unlink()
    done = run_here("precompute.inspect", folder / "x.h5", "--root", folder / "other")
    assert done.returncode == 1
    assert "2 of 223" in done.stdout
    assert f"{same_size.name}: changed since the boxes were made: same size" in done.stdout
    done = run_here("precompute.inspect", folder / "x.h5", "--root", folder / "other", "--check", "size")
    assert "1 of 223" in done.stdout


def test_errors(made, run_here):
    folder, _ = made
    for arguments, message in (
        ((folder / "none.h5",), "no such file"),
        ((folder / "x.h5", "--root", folder / "none"), "there is no such folder"),
        ((folder / "x.h5", "--sheet", folder / "s.png", "--split", "tets"), "it has: train, test"),
    ):
        done = run_here("precompute.inspect", *arguments)
        assert done.returncode == 1
        assert message in done.stderr
        assert "Traceback" not in done.stderr
    assert run_here("precompute.inspect", folder / "x.h5", "--sheet", "x.txt").returncode == 2
    done = run_here("precompute.inspect", folder / "x.h5", "--sheet", folder / "x.h5" / "s.png")
    assert (done.returncode, done.stdout) == (2, "")  # before all pictures are read


def test_iou_against_pixels():
    rng = np.random.default_rng(0)
    for _ in range(50):
        a, b = (np.sort(rng.integers(0, 20, (2, 2)), 0).ravel()[[0, 1, 2, 3]].astype(float) for _ in range(2))
        grid = np.zeros((2, 20, 20), bool)
        for layer, (x0, y0, x1, y1) in zip(grid, (a.astype(int), b.astype(int)), strict=True):
            layer[y0:y1, x0:x1] = True
        union = (grid[0] | grid[1]).sum()
        expected = (grid[0] & grid[1]).sum() / union if union else 0
        assert iou(a, b) == pytest.approx(expected)


def test_agreement_stands_beside_the_centred_box():
    truths = np.stack([centred(0.5, 0.6)] * 9 + [np.full(4, np.nan)])
    facts = agreement(truths.copy(), truths)
    assert facts["pictures"] == 9
    assert facts["mean_iou"] == pytest.approx(1)
    box, score = best_centred(truths[:9])
    np.testing.assert_allclose(box, centred(0.5, 0.6))
    assert score == pytest.approx(1)
    assert agreement(truths[9:], truths[9:]) == {"pictures": 0}


def test_foreground_of_patches_and_maps_on_the_sheet(run_here, shared_data, tmp_path):
    out, root = tmp_path / "x.h5", shared_data / "ECSSD"
    assert run_here("precompute.boxes", "--dataset", "ecssd", "--root", root, "--out", out,
                    "--source", "geodesic-colour").returncode == 0  # fmt: skip
    done = run_here("precompute.inspect", out, "--sheet", tmp_path / "s.png", "--images", 6, "--json")
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout.splitlines()[-1])
    shares = {name: share["mean"] for name, share in facts["foreground"].items()}
    assert shares["RandomResizedCrop"] < shares["best centred box"] < shares["these boxes"] < shares["true boxes"]
    assert facts["agreement"]["mean_iou"] > facts["agreement"]["centred_mean_iou"]
    with Image.open(tmp_path / "s.png") as sheet:
        pixels = np.asarray(sheet)
    assert (pixels == (255, 72, 72)).all(-1).sum() > 20  # the literal boxes
    assert (pixels == 255).all(-1).sum() > 500


def test_patches_follow_the_crop_rule():
    rng = np.random.default_rng(0)
    box = np.array([0.2, 0.1, 0.8, 0.6])
    for _ in range(300):
        x0, y0, x1, y1 = draw_patch(rng, box, 400, 300, 0.5)
        assert 80 <= x0 < x1 <= 320
        assert 30 <= y0 < y1 <= 180
        assert 0.49 <= (x1 - x0) * (y1 - y0) / (240 * 150) <= 1
        assert 0.74 <= (x1 - x0) / (y1 - y0) <= 1.35
    x0, y0, x1, y1 = draw_patch(rng, np.array([0.0, 0.4, 1.0, 0.41]), 400, 300, 0.5)  # a strip: the fallback
    assert (y0, y1) == (120, 123)
    assert x1 - x0 == 4


def test_captions_are_written_with_the_letters_there_are():
    assert drawable("Mésange_bleue_Ærø_1.jpg") == "Mesange_bleue_?r?_1.jpg"
    assert drawable("山雀 2.jpg") == "?? 2.jpg"


def test_a_sheet_removes_what_a_killed_one_left(tmp_path):
    (tmp_path / ".sheet.png.k1ll3d.tmp").touch()
    save(Image.new("RGB", (4, 3)), tmp_path / "sheet.png")
    assert [path.name for path in tmp_path.iterdir()] == ["sheet.png"]
