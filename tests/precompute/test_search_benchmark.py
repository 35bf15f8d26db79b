"""The search benchmark runs, its arms agree on the boxes, and its result is a valid one."""

import json

from benchmarks.results import validate


def test_a_short_run(run_here, demo_root, tmp_path):
    done = run_here("benchmarks.search", "--dataset", "demo", "--root", demo_root, "--images", 8, "--repeats", 1,
                    "--out", tmp_path / "x.json", "--json")  # fmt: skip
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout.splitlines()[-1])
    validate(document)
    saved = json.loads((tmp_path / "x.json").read_text())
    assert saved["settings"].pop("root") == "demo"  # names of files, not where they lie
    assert saved | {"settings": None} == document | {"settings": None}
    done = run_here("benchmarks.search", "--dataset", "demo", "--root", demo_root, "--images", 40, "--repeats", 1,
                    "--archives", "--json")  # fmt: skip
    assert done.returncode == 0, done.stderr
    archives = json.loads(done.stdout.splitlines()[-1])
    validate(archives)
    assert len(archives["ratios"]) == 6
    assert {arm["samples"] for arm in archives["arms"]} == {40}
    ratios = {name: values["median"] for name, values in document["ratios"].items()}
    assert ratios["brute force / ours, 16x16"] > 50
    assert ratios["scan / ours, 64x64"] > 20
    assert ratios["decode / ours, 64x64"] > 1
