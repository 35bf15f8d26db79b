"""The programs `augment.preview` and `tests/augment/parity.py`, as a user runs them."""

import json

import numpy as np
import parity
import pytest
from PIL import Image

from augment.preview import program
from precompute.base.program import main


def test_sheet_shows_sources_and_views_with_their_rectangles(demo_root, demo_boxes, tmp_path, run_here):
    arguments = ["--boxes", demo_boxes, "--root", demo_root, "--count", 3, "--size", 64, "--backend", "eager"]
    sheets = {}
    for outlines in ("--outlines", "--no-outlines"):
        out = tmp_path / f"{outlines}.png"
        done = run_here("augment.preview", *arguments, "--out", out, "--json", outlines)
        assert done.returncode == 0, done.stderr
        assert "eager" in done.stderr
        shown = json.loads(done.stdout.splitlines()[-1])
        assert len(shown["views"]) == 6
        sheets[outlines] = np.asarray(Image.open(out)).astype(int)
    gap, line, tile, side = 4, 15, 144, (144 - 64) // 2  # of `precompute.base.sheet`: views lie in wider tiles
    assert sheets["--outlines"].shape == (gap + 3 * (64 + line + gap), gap + 3 * (tile + gap), 3)
    drawn = (sheets["--outlines"] != sheets["--no-outlines"]).any(-1)
    for i, view in enumerate(shown["views"]):
        x0, y0, x1, y1 = view["rect"]
        top, left = gap + i // 2 * (64 + line + gap), gap + (1 + i % 2) * (tile + gap) + side
        cell = drawn[top : top + 64, left : left + 64]
        rim = max(x0 - 1, 0), max(y0 - 1, 0), min(x1 + 1, 64), min(y1 + 1, 64)
        rows, columns = np.flatnonzero(cell.any(1)), np.flatnonzero(cell.any(0))
        assert (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1) == rim


def test_mistakes_are_named(demo_root, demo_boxes, tmp_path, capsys):
    for arguments, words, status in [
        ([], "--boxes None: must be the box file. Name it, and --root DIR", 2),
        (["--boxes", demo_boxes, "--root", demo_root, "--size", 2], "--size 2: must be", 2),
        (["--boxes", demo_boxes, "--root", demo_root, "--seed", 10**23], "--seed 100000000000000000000000: must be", 2),
        (["--boxes", demo_boxes, "--root", demo_root, "--out", "x.txt"], ".png", 2),
        (["--boxes", demo_boxes, "--out", tmp_path], "must end in .png", 2),
        (["--boxes", demo_boxes, "--out", demo_boxes / "x.png"], "is no folder that can be written to", 2),
        (["--boxes", demo_boxes, "--name", "copy-paste"], "--maps None: must be a folder of saliency maps", 2),
        (["--boxes", demo_boxes, "--nme", "rrc"], "unrecognized arguments: --nme rrc (all flags: ", 2),
        (["--boxes", tmp_path / "no.h5", "--root", demo_root], "no such file", 1),
        (["--boxes", demo_boxes, "--root", demo_root, "--split", "val", "--out", tmp_path / "a.png"], "train", 1),
    ]:
        with pytest.raises(SystemExit) as end:
            main(program, [str(x) for x in arguments])
        assert end.value.code == status
        said = capsys.readouterr().err
        assert words in said
        assert said.count("\n") < 4


def test_parity_prints_a_table_in_levels(demo_root, demo_boxes, capsys):
    arguments = ["--boxes", demo_boxes, "--count", 4, "--size", 48, "--backends", "fused", "eager"]
    assert parity.program([str(x) for x in [*arguments, "--json"]]) == 0
    table = capsys.readouterr().out.splitlines()
    rows = json.loads(table[-1])["rows"]
    assert {(row["backend"], row["stage"]) for row in rows} == {
        (b, s) for b in ("fused", "eager") for s in parity.STAGES
    }
    assert all(0 <= row["mean"] <= 0.5 for row in rows)
    assert len(table) == 2 + len(rows) + 2
    with pytest.raises(SystemExit) as end:
        main(parity.program, ["--boxes", str(demo_boxes), "--root", str(demo_root), "--count", "1"])
    assert end.value.code == 2
