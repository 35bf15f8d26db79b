"""trainer/README.md shows what the committed comparison says."""

import json
import shlex
from pathlib import Path

import pytest

from trainer.comparison.table import table

ROOT = Path(__file__).resolve().parent.parent.parent


def test_readme_shows_the_committed_comparison() -> None:
    result = json.loads((ROOT / "trainer" / "results" / "cub25.json").read_text())
    text = (ROOT / "trainer" / "README.md").read_text()
    shown = text.split("<!-- gate -->")[1].split("<!-- /gate -->")[0].strip().removeprefix("```").removesuffix("```")
    assert shown.strip() == table(result).strip()
    crops = result["measures"]["probe AUC, off-centre crops"]
    gain = crops["cvsa:saliencyswap"]["paired"]
    assert gain["mean"] >= 0.07
    assert gain["low"] > 0
    for word in (f"{gain['mean']:+.3f}", f"{gain['low']:+.3f} to {gain['high']:+.3f}"):
        assert word.replace("0.", ".") in text.split("<!-- gate -->")[0]  # the sentence above the table


def test_readme_shows_how_the_settings_were_chosen() -> None:
    result = json.loads((ROOT / "trainer" / "results" / "settings.json").read_text())
    text = (ROOT / "trainer" / "README.md").read_text()
    shown = text.split("<!-- settings -->")[1].split("<!-- /settings -->")[0].strip()
    assert shown == f"```\n{table(result, ('probe AUC, off-centre crops', 'kNN accuracy'))}\n```"
    command = " ".join(text.split("<!-- settings -->")[0].rsplit("```", 2)[1].split("\\\n"))
    argv = shlex.split(command)[3:]
    cut = argv.index("--")
    assert argv[cut + 1 :] == result["flags"]
    assert argv[argv.index("--arms") + 1 : cut] == result["arms"]


@pytest.mark.parametrize(("name", "seeds", "own"), [("six-seeds", 6, "0.25"), ("own0", 3, "0")])
def test_readme_tells_what_other_runs_of_it_say(name: str, seeds: int, own: str) -> None:
    result = json.loads((ROOT / "trainer" / "results" / f"cub25-{name}.json").read_text())
    assert result["seeds"] == seeds
    assert result["flags"][result["flags"].index("--own") + 1] == own
    text = " ".join((ROOT / "trainer" / "README.md").read_text().split())
    for measure in ("probe AUC, off-centre crops", "kNN accuracy"):
        gain = result["measures"][measure]["cvsa:saliencyswap"]["paired"]
        told = f"{gain['mean']:+.3f} ({gain['low']:+.3f} to {gain['high']:+.3f})"
        assert f"{measure.split(', ')[0]}" in text
        assert told.replace("0.", ".") in text
