"""Sweeps, the roofline and long streams in small real runs, and the usage errors of all programs."""

import json

import pytest

from benchmarks import report, results


@pytest.mark.parametrize(
    ("module", "more"),
    [
        ("throughput", ["--over", "size", "--values", "32", "64", "--batches", "1", "--batch", "8", "--rounds", "1"]),
        ("throughput", ["--over", "images", "--values", "16", "32", "--size", "32", "--batch", "8", "--rounds", "2"]),
        (
            "throughput",
            ["--over", "image", "--values", "0.01", "0.02", "--size", "32", "--batch", "8", "--rounds", "1"],
        ),
        ("roofline", ["--size", "64", "--batch", "8", "--batches", "1", "--repeats", "2"]),
        ("stream", ["--size", "32", "--batch", "8", "--batches", "4", "--repeats", "2"]),
    ],
    ids=["size", "images", "image", "roofline", "stream"],
)
def test_small_real_runs(module, more, boxes, demo_root, tmp_path, run_here):
    rounds = more[-2:] == ["--rounds", "2"]  # each in a process of its own, which imports a peer's library for nothing
    few = [] if module == "roofline" else ["--peers", "none" if rounds else "pillow"]
    done = run_here(
        f"benchmarks.{module}", "--boxes", boxes, "--root", demo_root, *more, *few, "--backends", "fused:linear",
        "--json", "--out", tmp_path / "r.json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout.splitlines()[-1])
    assert results.load(tmp_path / "r.json") == document
    names = [arm["name"] for arm in document["arms"]]
    if module == "throughput":
        assert len(names) == (2 if rounds else 4)
        assert document["benchmark"] == "sweep"
        assert document["settings"]["scope"] == ("loader" if "images" in more else "decode+apply")
        assert document.get("rounds") == (2 if rounds else None)
        assert all(len(arm["cpu_ms"]["values"]) == (4 if rounds else 2) for arm in document["arms"])
        values = document["sweep"]["values"]
        assert all(name.endswith((f"@ {values[0]:g}", f"@ {values[1]:g}")) for name in names)
        assert set(document["sweep"]["slopes"]) == {n.split(" @ ")[0] for n in names}
        medians = [arm["cpu_ms"]["median"] for arm in document["arms"] if arm["name"].startswith("ours")]
        assert document["sweep"]["costs"]["ours: fused (linear)"] == medians
    elif module == "roofline":
        assert names == ["ours: fused (linear)"]
        assert 0 < document["roofline"]["shares"][names[0]] < 1
    else:
        assert names == ["decode only", "ours: fused (linear)", "ours: fused (linear), cached", "pillow"]
        assert 1 <= document["images_per_sample"] <= 3  # groups of 16 cross the batches of 8
        assert all(arm["batch_ms"]["p50"] <= arm["batch_ms"]["p99"] for arm in document["arms"])
    report.plot(document, tmp_path / "r.png")
    assert (tmp_path / "r.png").stat().st_size > 5000
    assert report.table(document).strip("\n") in report.summary({"r": document})


@pytest.mark.parametrize(
    ("module", "arguments", "said"),
    [
        ("throughput", ["--over", "batch", "--values", "3"], "at least two"),
        ("throughput", ["--over", "batch", "--values", "1.5", "2"], "whole numbers"),
        ("throughput", ["--over", "size", "--values", "64", "nan"], "--values 64.0 nan: must be at least two positive"),
        ("throughput", ["--values", "1", "2"], "--values 1.0 2.0: must be left out without --over"),
        ("throughput", ["--over", "threads", "--scope", "apply"], "--scope apply: must be loader with --over threads"),
        ("stream", ["--peers", "opencw"], "--peers opencw"),
        ("stream", ["--batches", "7"], "--batches 7: must be a multiple of --repeats 6"),
        ("roofline", ["--batch", "0"], "--batch 0: must be at least 1"),
        ("throughput", ["--over", "size", "--values", "4", "8"], "--size 4: must be within 8 and 4096"),
        ("step", ["--size", "7"], "--size 7: must be within 8 and 4096"),
        ("roofline", ["--size", "5000"], "--size 5000: must be within 8 and 4096"),
        ("roofline", ["--out", "tests"], "--out tests: is a folder; name a file in it"),
        ("step", ["--out", "README.md/x.json"], "is no folder that can be written to"),
        ("search", ["--out", "README.md/x.json"], "is no folder that can be written to"),
        ("detectors", ["--markdown", "README.md/x.md"], "--markdown README.md/x.md: "),
        ("suite", ["--out", "README.md"], "--out README.md: must be a folder"),
        ("report", ["--agree", "a.json"], "--agree a.json: must be two result files"),
    ],
)
def test_usage_errors(module, arguments, said, run_here):
    done = run_here(f"benchmarks.{module}", *arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_service_refuses_what_another_process_would(run_here, demo_boxes, demo_root, tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.sharing.Readers", lambda *_: pytest.fail("a process was begun"))
    done = run_here("benchmarks.service", "--boxes", demo_boxes, "--root", tmp_path / "no")
    assert (done.returncode, done.stdout) == (1, "")
    assert "no such folder" in done.stderr
    monkeypatch.setattr("benchmarks.peers._found", lambda module: False)
    done = run_here("benchmarks.service", "--boxes", demo_boxes, "--root", demo_root)
    assert (done.returncode, done.stdout) == (1, "")
    assert "scope ray: ray not installed" in done.stderr
