"""The table of detectors: it runs, its result is a valid one, and the default holds what the documentation says."""

import json

from benchmarks.results import validate


def test_the_default_against_the_centred_box(run_here, shared_data, tmp_path):
    done = run_here("benchmarks.detectors", "--data", shared_data, "--sets", "cub", "ecssd", "--detectors", "u2net",
                    "geodesic-colour", "--timed", 8, "--repeats", 1, "--out", tmp_path / "x.json",
                    "--markdown", tmp_path / "x.md", "--json")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "u2net left out: it needs --weights FILE" in done.stderr  # stdout has the JSON
    document = json.loads(done.stdout.splitlines()[-1])
    validate(document)
    found = document["agreement"]["geodesic-colour"]
    assert found["cub"]["mean_iou"] >= 0.59
    assert found["cub"]["mean_iou"] > found["cub"]["centred_mean_iou"]
    shares = found["ecssd"]["foreground"]
    assert shares["these boxes"]["mean"] > shares["best centred box"]["mean"]
    table = (tmp_path / "x.md").read_text()
    assert "| geodesic-colour | " in table
    assert f"{found['cub']['mean_iou']:.3f}" in table
