"""Result files: merging, agreement, what the check refuses, and that the committed results pass it."""

import copy
import json

import pytest

from benchmarks import harness, results

RESULTS = sorted(results.FOLDER.glob("*.json"))


def test_merging_and_agreement(demo_result):
    document = demo_result[0]
    name = "pillow / ours: kornia (linear)"
    slower = copy.deepcopy(document)
    slower["ratios"][name] = harness.spread([2 * v for v in document["ratios"][name]["values"]])
    both = results.merged([document, slower])
    results.validate(both)
    assert both["ratios"][name]["values"] == document["ratios"][name]["values"] + slower["ratios"][name]["values"]
    low, high = document["ratios"][name]["median"], slower["ratios"][name]["median"]
    assert low < both["ratios"][name]["median"] < high
    assert results.agreement(document, slower)[name] == (False, False)
    assert sum(overlap for overlap, _ in results.agreement(document, slower).values()) == len(document["ratios"]) - 1
    spread = document["ratios"][name]
    overlapping = copy.deepcopy(document)  # its lowest is the other's highest: they touch, the medians are apart
    overlapping["ratios"][name] = harness.spread([v - spread["low"] + spread["high"] for v in spread["values"]])
    assert results.agreement(document, overlapping)[name] == (True, False)
    slower["arms"][0]["name"] = "something else"
    with pytest.raises(ValueError, match="cannot be merged"):
        results.merged([document, slower])


@pytest.mark.parametrize("damage", ["nan", "missing", "empty", "quartiles", "median"])
def test_the_schema_refuses(demo_result, damage):
    document = copy.deepcopy(demo_result[0])
    arm = document["arms"][0]
    if damage == "nan":
        arm["cpu_ms"]["values"][0] = float("nan")
    elif damage == "missing":
        del arm["inside"]
    elif damage == "empty":
        document["arms"] = []
    elif damage == "median":
        del arm["cpu_ms"]["median"]
    else:
        arm["cpu_ms"]["q25"] = arm["cpu_ms"]["median"] + 1
    with pytest.raises(ValueError):
        results.validate(document)


@pytest.mark.parametrize("path", RESULTS, ids=lambda p: p.name)
def test_committed_results_are_valid(path):
    results.validate(json.loads(path.read_text()))


@pytest.mark.parametrize("path", RESULTS, ids=lambda p: p.stem)
def test_results_hold_no_paths_of_the_machine(path, tmp_path):
    document = results.load(path)
    assert "/tmp" not in path.read_text()
    document["settings"] |= {"boxes": "/home/somebody/cub.h5", "root": None}
    results.save(document, tmp_path / "again.json")
    assert results.load(tmp_path / "again.json")["settings"] | {"root": None} == document["settings"] | {
        "boxes": "cub.h5"
    }
