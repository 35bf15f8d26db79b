"""benchmarks.host: two builds in turns, each measured by its own code."""

import json
from pathlib import Path

import pytest

from benchmarks import host, report, results
from precompute.base.errors import UsageError, UserError

ROOT = Path(__file__).parents[2]


def test_every_part_is_measured_of_both_builds(boxes: Path, demo_root: Path, tmp_path: Path, capfd) -> None:
    pytest.importorskip("nvidia.dali")
    pytest.importorskip("triton")
    other = tmp_path / "other"
    other.mkdir()
    for name in ("augment", "precompute"):
        (other / name).symlink_to(ROOT / name)
    flags = ["--boxes", str(boxes), "--root", str(demo_root), "--batch", "16", "--batches", "2", "--size", "64"]
    assert host.program([*flags, "--repeats", "2", "--against", str(other), "--json"]) == 0
    document = json.loads(capfd.readouterr().out.splitlines()[-1])
    results.validate(document)
    names = {f"{build}: {part}" for build in (host.OURS, host.OTHER) for part in host.PARTS}
    assert {arm["name"] for arm in document["arms"]} == names
    assert all(len(arm["cpu_ms"]["values"]) == 2 and arm["cpu_ms"]["low"] > 0 for arm in document["arms"])
    assert len(document["ratios"]) == len(host.PARTS)
    shown = report.summary({"host-cpu": document})
    assert all(f"ours: {part}" in shown for part in host.PARTS)
    assert "a CPU second" in shown
    cost = {arm["name"]: arm["cpu_ms"]["median"] for arm in document["arms"]}
    # What is contained costs less than what contains it, also on a busy machine.
    assert cost["ours: views"] < cost["ours: loader, uncached"]


def test_what_cannot_be_measured_is_refused(boxes: Path, demo_root: Path, tmp_path: Path) -> None:
    flags = ["--boxes", str(boxes), "--root", str(demo_root)]
    with pytest.raises(UsageError, match="against"):
        host.program([*flags, "--against", str(tmp_path)])
    with pytest.raises(UserError, match="512 images are needed, the box file has 96"):
        host.program(flags)
