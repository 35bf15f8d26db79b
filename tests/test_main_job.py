"""The whole way, run as a user runs it: real photographs → boxes → views → encoder, and a folder full of faults."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def cub(shared_data, tmp_path_factory, run_module):
    """A box file of the real CUB photographs, made by the command."""
    out = tmp_path_factory.mktemp("cub") / "cub.h5"
    root = shared_data / "CUB_200_2011"
    done = run_module("precompute.boxes", "--dataset", "cub", "--root", root, "--out", out)
    assert done.returncode == 0, done.stderr
    return out, root


@pytest.mark.parametrize("pipeline", ["dali", "kornia"])
def test_photographs_to_encoder(cub, pipeline, tmp_path, run_here):
    """Small views and a narrow net, so that it takes seconds; graph, files and programs are the real ones."""
    import torch
    from safetensors.torch import load_file

    boxes, root = cub
    if pipeline == "dali":
        pytest.importorskip("nvidia.dali")
    out = tmp_path / "run"
    done = run_here(
        "trainer.run", "--pipeline", pipeline, "--boxes", boxes, "--root", root, "--arch", "resnet10w4",
        "--size", 48, "--batch-size", 32, "--epochs", 1, "--out", out,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert pipeline in done.stdout + done.stderr
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert len(rows) > 2
    weights = load_file(out / "encoder.safetensors")
    assert "layer4.0.conv1.weight" in weights
    assert all(torch.isfinite(w.float()).all() for w in weights.values())


def verdicts(shared_data: Path) -> dict[str, str]:
    with open(shared_data / "faults" / "MANIFEST.tsv", newline="") as file:
        rows = csv.DictReader(file, delimiter="\t")
        return {r["path"]: r["verdict"] for r in rows if not r["path"].startswith("cub_annotations/")}


@pytest.mark.parametrize("backend", ["dali", "kornia"])
def test_faults_are_named_and_the_rest_gives_views(shared_data, backend, tmp_path, run_here):
    from augment import Making, Policy, Share, Source, open_views
    from precompute.base.boxfile import BoxCache

    if backend == "dali":
        pytest.importorskip("nvidia.dali")
    root = shared_data / "faults"
    done = run_here("precompute.boxes", "--dataset", "folder", "--root", root, "--out", tmp_path / "faults.h5")
    assert "Traceback" not in done.stderr
    cache = BoxCache.open(tmp_path / "faults.h5")
    kept = {cache.path(i) for i in range(len(cache))}
    named = {q.path: q.reason for q in cache.quarantine}
    ignored = ("._", ".mat")  # side files that are no pictures at all: not listed in the first place
    for path, verdict in verdicts(shared_data).items():
        if verdict in ("OK", "FIX"):
            assert path in kept, f"{path} is {verdict}: {named.get(path)}"
        elif verdict == "BAD":
            assert path not in kept, path
            assert path in named or any(part in path for part in ignored), path
        else:
            assert path in kept or path in named, path
    assert all(named.values())

    seen = []
    with open_views(
        Source(cache, root, split=None),
        policy=Policy(size=64),
        batch_size=16,
        making=Making(backend=backend),
        share=Share(drop_last=False),
    ) as loader:
        for batch in loader:
            assert np.isfinite(batch.q.float().numpy()).all()
            seen += batch.sources.tolist()
    assert sorted(seen) == list(range(len(cache)))
