"""Random malformed annotations: a box file, or one clear line; never a traceback."""

from collections.abc import Callable
from pathlib import Path

import pytest
from annotation_faults import READERS, malformed

from precompute.base.boxfile import BoxCache


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("reader", READERS)
def test_malformed_annotations(reader: str, seed: int, tmp_path: Path, run_here: Callable) -> None:
    root, out = tmp_path / "set", tmp_path / "x.h5"
    malformed(root, reader, seed)
    more = ("--labels", root / "labels.csv") if reader == "labels" else ()
    done = run_here("precompute.boxes", "--dataset", READERS[reader][0], "--root", root, "--out", out, *more)
    assert "Traceback" not in done.stderr
    if done.returncode == 0:
        assert len(BoxCache.open(out)) > 0
    else:
        assert done.returncode == 1
        assert ": error: " in done.stderr.splitlines()[0]
