"""trainer/README.md shows what the committed comparison says."""

import json
import shlex
from pathlib import Path

import pytest

from trainer.comparison.table import paired, table

ROOT = Path(__file__).resolve().parent.parent.parent
LONGER = (
    "kNN accuracy",
    "same-class retrieval AUC",
    "matched cells, held-out views",
    "own keys beat another image's",
    "probe AUC, off-centre crops",
    "C map AUC, held-out views",
    "relative C map AUC, held-out views",
    "relative C map AUC, another image's keys",
)
MATCHING = (*LONGER, "matched cells, untrained net", "C map AUC, another image's keys")


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


@pytest.mark.parametrize(
    ("mark", "file", "measures"),
    [
        ("settings", "settings", ("probe AUC, off-centre crops", "kNN accuracy")),
        ("longer", "cub25-longer", LONGER),
        ("flowers-longer", "flowers102-longer", LONGER),
        (
            "resnet18",
            "cub25-resnet18",
            (
                "kNN accuracy",
                "same-class retrieval AUC",
                "matched cells, held-out views",
                "own keys beat another image's",
                "probe AUC, off-centre crops",
                "C map AUC, held-out views",
                "C map AUC, another image's keys",
            ),
        ),
        (
            "settings-matching",
            "settings-matching",
            (
                "kNN accuracy",
                "same-class retrieval AUC",
                "matched cells, held-out views",
                "own keys beat another image's",
                "probe AUC, off-centre crops",
            ),
        ),
        (
            "settings-rate",
            "settings-rate",
            (
                "kNN accuracy",
                "matched cells, held-out views",
                "probe AUC, off-centre crops",
                "relative C map AUC, held-out views",
            ),
        ),
        ("matching", "cub25-matching", MATCHING),
        (
            "matching-more",
            "cub25-matching-more",
            (
                "kNN accuracy",
                "matched cells, held-out views",
                "probe AUC, off-centre crops",
                "own keys beat another image's",
            ),
        ),
        ("flowers", "flowers102", MATCHING),
    ],
)
def test_readme_shows_other_comparisons_and_their_commands(mark: str, file: str, measures: tuple[str, ...]) -> None:
    result = json.loads((ROOT / "trainer" / "results" / f"{file}.json").read_text())
    text = (ROOT / "trainer" / "README.md").read_text()
    shown = text.split(f"<!-- {mark} -->")[1].split(f"<!-- /{mark} -->")[0].strip()
    assert shown == f"```\n{table(result, measures)}\n```"
    command = " ".join(text.split(f"<!-- {mark} -->")[0].rsplit("```", 2)[1].split("\\\n"))
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


@pytest.mark.parametrize(
    ("mark", "file"),
    [
        ("matching", "cub25-matching"),
        ("longer", "cub25-longer"),
        ("resnet18", "cub25-resnet18"),
        ("flowers", "flowers102"),
        ("flowers-longer", "flowers102-longer"),
    ],
)
def test_readme_tells_what_matching_gains_on_fresh_seeds(mark: str, file: str) -> None:
    result = json.loads((ROOT / "trainer" / "results" / f"{file}.json").read_text())
    below = (ROOT / "trainer" / "README.md").read_text().split(f"<!-- /{mark} -->")[1].split("<!-- ")[0]
    text = " ".join(below.split())
    ours, wrong = "matching:saliencyswap", "matching:saliencyswap:wrong-cells"
    matched, own = "matched cells, held-out views", "own keys beat another image's"
    probe, knn = "probe AUC, off-centre crops", "kNN accuracy"
    for measure, arm, other in [
        (matched, ours, "cvsa:saliencyswap"), (matched, wrong, ours), (own, ours, "cvsa:saliencyswap"),
        (knn, ours, "cvsa:saliencyswap"), (knn, ours, "byol:rrc"), (knn, ours, "simclr:rrc"),
        (probe, ours, "cvsa:saliencyswap"), (probe, ours, "byol:rrc"),
    ]:  # fmt: skip
        if not {arm, other} <= set(result["arms"]):
            continue
        gain = paired(*(result["measures"][measure][a]["values"] for a in (arm, other)))
        told = f"{gain['mean']:+.3f} ({gain['low']:+.3f} to {gain['high']:+.3f})"
        assert told.replace("0.", ".") in text, (measure, arm, other)
    for arm in {ours, "cvsa:saliencyswap"} & set(result["arms"]):
        fall = result["relative_rolled_keys"][arm]
        told = f"{-fall['mean']:.3f} ({-fall['high']:.3f} to {-fall['low']:.3f})"
        assert told.replace("0.", ".") in text, arm


def test_readme_tells_what_twelve_seeds_say() -> None:
    first, more = (
        json.loads((ROOT / "trainer" / "results" / f"cub25-matching{name}.json").read_text())["measures"]
        for name in ("", "-more")
    )
    below = (ROOT / "trainer" / "README.md").read_text().split("<!-- /matching-more -->")[1].split("```")[0]
    ours, byol, cvsa = "matching:saliencyswap", "byol:rrc", "cvsa:saliencyswap"
    knn, probe, own = "kNN accuracy", "probe AUC, off-centre crops", "own keys beat another image's"
    cases = [
        (knn, byol),
        (probe, byol),
        (knn, cvsa),
        (probe, cvsa),
        ("matched cells, held-out views", cvsa),
        (own, cvsa),
    ]
    for measure, other in cases:
        gains = [paired(*(more[measure][arm]["values"] for arm in (ours, other)))]
        if other == byol:
            gains.append(
                paired(*(first[measure][arm]["values"] + more[measure][arm]["values"] for arm in (ours, other)))
            )
        for gain in gains:
            told = f"{gain['mean']:+.3f} ({gain['low']:+.3f} to {gain['high']:+.3f})"
            assert told.replace("0.", ".") in " ".join(below.split()), (measure, other)


def test_readme_tells_what_a_greater_rate_gains() -> None:
    result = json.loads((ROOT / "trainer" / "results" / "settings-rate.json").read_text())
    below = (ROOT / "trainer" / "README.md").read_text().split("<!-- /settings-rate -->")[1].split("Fresh seeds")[0]
    twice, both = (f"matching:saliencyswap {flags}" for flags in ("--base-lr 38.4", "--align-stages 3 4"))
    matched = "matched cells, held-out views"
    relative, probe = "relative C map AUC, held-out views", "probe AUC, off-centre crops"
    for measure, arm in (
        (matched, twice), (relative, twice), (probe, twice), ("kNN accuracy", twice), (matched, both)
    ):  # fmt: skip
        gain = result["measures"][measure][arm]["paired"]
        told = f"{gain['mean']:+.3f} ({gain['low']:+.3f} to {gain['high']:+.3f})"
        assert told.replace("0.", ".") in " ".join(below.split()), (measure, arm)


def test_readme_tells_what_the_plain_sum_cost() -> None:
    result = json.loads((ROOT / "trainer" / "results" / "cub25-resnet18-sum.json").read_text())
    text = " ".join((ROOT / "trainer" / "README.md").read_text().split())
    (told,) = (line for line in text.split("In the comparison of that time")[1:])
    ours, theirs = "matching:saliencyswap", "cvsa:saliencyswap"
    for measure, arm, words in (
        ("probe AUC, off-centre crops", ours, "the probe had {}"),
        ("probe AUC, off-centre crops", theirs, "where `cvsa` had {}"),
        ("C map AUC, held-out views", ours, "C's AUC was {}"),
        ("kNN accuracy", ours, "the kNN accuracy {}"),
    ):
        assert words.format(f"{result['measures'][measure][arm]['mean']:.3f}"[1:]) in told, words


def test_the_first_readme_tells_the_same_of_matching() -> None:
    text = " ".join((ROOT / "README.md").read_text().split())
    gains = []
    for file in ("cub25-longer", "flowers102-longer", "cub25-matching", "flowers102"):
        measures = json.loads((ROOT / "trainer" / "results" / f"{file}.json").read_text())["measures"]
        arms = "matching:saliencyswap", "cvsa:saliencyswap"
        gains.append(
            {name: paired(*(of[arm]["values"] for arm in arms)) for name, of in measures.items() if arms[0] in of}
        )
    matched, knn, probe = "matched cells, held-out views", "kNN accuracy", "probe AUC, off-centre crops"
    told = [", ".join(f"{gain[name]['mean']:+.3f}" for gain in gains[:2]) for name in (matched, knn, probe)]
    short = " and ".join(f"{-gain[probe]['mean']:.3f}" for gain in gains[2:])
    for word in (f"in matched cells ({told[0]})", f"kNN accuracy ({told[1]})", f"({told[2]} in the probe's AUC", short):
        assert word.replace("0.", ".") in text, word
