"""The report is made from the result files alone, losses included, and README shows what they say."""

import copy
import json

import pytest

from benchmarks import harness, report, results
from precompute.base.errors import UserError


def spread(value):
    return harness.spread([0.9 * value, value, 1.1 * value])


@pytest.fixture
def document():
    arm = {"inside": "bytes to views", "samples": 8, "wall_ms": spread(1.0)}
    arms = {"decode only": 1.0, "ours: fused (linear)": 3.0, "ours: kornia (linear)": 7.0, "opencv": 4.0}
    return {
        "schema": results.SCHEMA,
        "benchmark": "throughput",
        "settings": {"scope": "decode+apply", "size": 224, "repeats": 3},
        "machine": {"processor": "a chip", "cores": 2, "gpu": None},
        "versions": {"python": "3.11"},
        "commit": "abc",
        "arms": [arm | {"name": n, "cpu_ms": spread(v)} for n, v in arms.items()],
        "ratios": {
            f"{p} / ours: {o} (linear)": spread(arms[p] / arms[f"ours: {o} (linear)"])
            for p in ("decode only", "opencv")
            for o in ("fused", "kornia")
        },
        "verdict": "augmentation-bound",
        "peak_memory_mib": 100.0,
    }


def test_losses_are_found_and_ceilings_are_not_peers(document):
    lost = report.losses(document)
    assert lost == ["kornia (linear) to opencv (0.57)"]
    slow = copy.deepcopy(document)
    slow["ratios"]["opencv / ours: fused (linear)"] = spread(0.95)
    assert len(report.losses(slow)) == 2
    assert report.losses(slow)[1] == "fused (linear) to opencv (0.95, within the spread)"


def test_rows_are_sorted_and_relative_to_our_cheapest(document):
    assert [(n, round(x, 2)) for n, *_, x in report.rows(document)] == [
        ("decode only", 0.33),
        ("ours: fused (linear)", 1.0),
        ("opencv", 1.33),
        ("ours: kornia (linear)", 2.33),
    ]


def test_markdown_and_plot(document, tmp_path, capsys):
    results.save(document, tmp_path / "results" / "one.json")
    assert report.program(["--results", str(tmp_path / "results"), "--out", str(tmp_path / "out")]) == 0
    text = (tmp_path / "out" / "README.md").read_text()
    assert "Where we lose" in text
    assert "- kornia (linear) to opencv (0.57)" in text
    assert "decode only to" not in text
    assert "![one](one.png)" in text
    capsys.readouterr()
    assert report.program(["--results", str(tmp_path / "results")]) == 0
    printed = capsys.readouterr().out
    assert printed.strip() == text.replace("![one](one.png)\n\n", "").strip()
    assert (tmp_path / "out" / "one.png").read_bytes().startswith(b"\x89PNG")
    (tmp_path / "results" / "bad.json").write_text("{}")
    with pytest.raises(UserError, match=r"bad\.json"):
        report.program(["--results", str(tmp_path / "results"), "--out", str(tmp_path / "out")])
    with pytest.raises(UserError, match="no result files"):
        report.program(["--results", str(tmp_path / "empty")])


def test_readme_shows_the_committed_headline():
    text = report.README.read_text()
    documents = {path.stem: results.load(path) for path in sorted(results.FOLDER.glob("*.json"))}
    table = report.markdown(documents)
    assert report.with_table(text, table) == text, "run: python -m benchmarks.report --readme"
    assert table.count("cub25") == 1  # the same command elsewhere
    all_results = report.RESULTS_README.read_text()
    renewed = report.with_table(all_results, report.summary(documents), "results")
    assert renewed == all_results, "run: python -m benchmarks.report --readme"
    with pytest.raises(UserError, match="no <!-- benchmarks -->"):
        report.with_table("nothing", table)


def test_names_in_results_are_no_markup(document, tmp_path):
    document["machine"] |= {"processor": "a [chip](//x.example)", "gpu": "one | two"}
    document["commit"] = "**abc**"
    results.save(document, tmp_path / "in" / "[a](b) *c*.json")
    results.save(document, tmp_path / "in" / "<script>alert(1)<.json")
    assert report.program(["--results", str(tmp_path / "in"), "--out", str(tmp_path / "out")]) == 0
    text = (tmp_path / "out" / "README.md").read_text()
    shown_as = r"a \[chip\](//x.example)", r"one \| two", r"\*\*abc\*\*", "&lt;script&gt;"
    for shown in (*shown_as, "](%5Ba%5D%28b%29%20%2Ac%2A.png)"):
        assert shown in text
    assert "<script" not in text


@pytest.mark.parametrize("name", ["<img src=x>", "```", "a\nb", "$\\frac$"])
@pytest.mark.parametrize("where", ["arm", "processor", "setting"])
def test_results_with_markup_in_their_names_are_refused(document, tmp_path, name, where):
    if where == "arm":
        document["arms"][0]["name"] = name
    elif where == "processor":
        document["machine"]["processor"] = name
    else:
        document["settings"][name] = 1
    path = tmp_path / "x.json"
    path.write_text(json.dumps(document))
    with pytest.raises(UserError, match=r"x\.json: not a benchmark result: .*must be one line"):
        results.load(path)
