"""trainer.run's flags for where views come from: kept pictures, further backgrounds, files that went bad."""

import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file

from precompute.base.boxfile import BoxCache
from precompute.base.errors import BadFile, UsageError, UserError
from trainer.record import metrics
from trainer.run import program

TINY = ("--arch", "resnet10w8", "--size", "32", "--batch-size", "16", "--epochs", "2", "--device", "cpu",
        "--pipeline", "fused", "--workers", "2", "--log-every", "1", "--no-evaluate")  # fmt: skip


def run(out: Path, boxes: Path, root: Path, *flags: object) -> list[float]:
    """The losses of a run of six steps."""
    assert program(["--boxes", str(boxes), "--root", str(root), *TINY, "--out", str(out), *map(str, flags)]) == 0
    return [row["loss"] for row in metrics.read(out / metrics.NAME) if row["kind"] == "step"]


def test_kept_pictures_train_the_same_network(demo_boxes: Path, demo_root: Path, tmp_path: Path, capsys) -> None:
    streamed = run(tmp_path / "off", demo_boxes, demo_root)
    assert run(tmp_path / "ram", demo_boxes, demo_root, "--cache", "ram") == streamed
    kept = tmp_path / "kept"
    assert run(tmp_path / "disk", demo_boxes, demo_root, "--cache", "disk", "--cache-dir", str(kept)) == streamed
    assert len(list(kept.glob("*.pictures"))) == 1
    assert run(tmp_path / "shared", demo_boxes, demo_root, "--cache", "shared", "--shared-dir", str(kept)) == streamed
    assert "decoded pictures take" in capsys.readouterr().out
    a, b = (load_file(tmp_path / name / "encoder.safetensors") for name in ("off", "ram"))
    assert all(a[k].equal(b[k]) for k in a)
    with pytest.raises(UserError, match="shared or off"):
        run(tmp_path / "gpu", demo_boxes, demo_root, "--cache", "gpu")


def test_backgrounds_from_further_sets(demo_boxes: Path, demo_root: Path, tmp_path: Path) -> None:
    own = run(tmp_path / "own", demo_boxes, demo_root)
    more = ("--backgrounds", demo_boxes, demo_root)
    assert run(tmp_path / "more", demo_boxes, demo_root, *more) != own
    assert run(tmp_path / "others", demo_boxes, demo_root, *more, "--no-own-backgrounds") != own
    with pytest.raises(UsageError, match=r"--backgrounds .*: must be pairs of a box file and its folder"):
        run(tmp_path / "odd", demo_boxes, demo_root, "--backgrounds", demo_boxes)
    with pytest.raises(UsageError, match="--own-backgrounds off: must be on without further backgrounds"):
        run(tmp_path / "odd", demo_boxes, demo_root, "--no-own-backgrounds")
    with pytest.raises(UsageError, match="--cache-side 64: must be left out without a cache"):
        run(tmp_path / "odd", demo_boxes, demo_root, "--cache-side", "64")
    with pytest.raises(UserError, match=r"nothing\.h5"):
        run(tmp_path / "none", demo_boxes, demo_root, "--backgrounds", tmp_path / "nothing.h5", demo_root)


def test_a_file_that_went_bad_is_replaced_or_ends_the_run(
    demo_boxes: Path, demo_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    root, cache = tmp_path / "demo", BoxCache.open(demo_boxes)
    shutil.copytree(demo_root, root)
    path = cache.path(int(cache.indices("train")[0]))
    (root / path).write_bytes((root / path).read_bytes()[:300])
    run(tmp_path / "replaced", demo_boxes, root)
    assert path in capsys.readouterr().out
    with pytest.raises(BadFile, match=path):
        run(tmp_path / "failed", demo_boxes, root, "--on-bad", "fail")
    whole = (demo_root / path).read_bytes()
    (root / path).write_bytes(whole[:-40] + bytes(20) + whole[-20:])  # of the same size: seen by all of it only
    capsys.readouterr()
    run(tmp_path / "size", demo_boxes, root)
    assert path not in capsys.readouterr().out
    with pytest.raises(BadFile, match=path):
        run(tmp_path / "hash", demo_boxes, root, "--on-bad", "fail", "--check", "hash")
