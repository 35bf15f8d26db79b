"""The scale benchmark runs on a small file, and its result is a valid one."""

import json

import pytest

from benchmarks.results import validate


@pytest.mark.parametrize("images", [0, pytest.param(40, marks=pytest.mark.slow)])
def test_a_short_run(run_here, tmp_path, images):
    done = run_here("benchmarks.boxes_scale", "--rows", 5000, "--repeats", 1, "--images", images, "--source",
                    "geodesic", "--out", tmp_path / "x.json", "--json")  # fmt: skip
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout.splitlines()[-1])
    validate(document)
    assert 60 < document["file_bytes"] / 5000 < 150
    assert document["passes"].keys() == ({"40", "160"} if images else set())
    assert all(peak > 50 for peak in document["passes"].values())
