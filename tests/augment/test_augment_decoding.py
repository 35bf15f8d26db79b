"""The decoder's settings: chosen by measured rates, kept beside the box file. Only the rates themselves are made up."""

import json
from pathlib import Path

import pytest
import torch
from test_augment_backends import birds  # noqa: F401 - a fixture

from augment.backends import decoding
from augment.backends.decoding import Decoding, choose, settled

LARGEST = (500, 400)


class Rates:
    """A decoder whose rate depends on its settings as `of` says; it counts what it was asked for."""

    def __init__(self, of) -> None:
        self.of, self.asked = of, []

    def __call__(self, settings: Decoding) -> float:
        self.asked.append(settings)
        return self.of(settings)

    def choosing(self, plain: bool):
        return choose(self, LARGEST, 16, plain)


def of_this_gpu(s: Decoding) -> float:
    return 10_000 * (1.2 if s.load == 0.9 else 1) * (1.1 if s.width else 1) * (1.5 if not s.fancy else 1)


def test_each_setting_is_taken_where_it_gives_more() -> None:
    rates = Rates(of_this_gpu)
    best, seen = choose(rates, LARGEST, 16, plain=True)
    assert best == Decoding(load=0.9, width=500, height=400, threads=8, fancy=False)
    assert len(seen) == len(rates.asked) == len(set(rates.asked)) == 7, "none is measured twice"
    assert seen[str(best)] == pytest.approx(10_000 * 1.2 * 1.1 * 1.5)
    assert choose(rates, LARGEST, 16, plain=False)[0].fancy


def test_what_may_be_chance_changes_nothing() -> None:
    noise = Rates(lambda s: 10_000 + 200 * (s.load > 0.8) + 2_000 * (not s.fancy))
    assert choose(noise, LARGEST, 16, plain=True)[0] == Decoding(threads=8), "plain pixels need a quarter more"


def test_threads_of_two_pipelines_fit_the_cores() -> None:
    assert [choose(Rates(lambda s: 1.0), LARGEST, n, True)[0].threads for n in (1, 2, 6, 64)] == [1, 1, 3, 8]
    fewer = Rates(lambda s: 1 / s.threads)
    assert choose(fewer, LARGEST, 16, True)[0].threads == 4


def test_a_measurement_is_made_once_for_a_gpu_and_upsampling_once_for_all(tmp_path: Path) -> None:
    path, said, rates = tmp_path / "cub.decoder.json", [], Rates(of_this_gpu)
    first = settled(path, "GPU A", True, rates.choosing, said.append)
    asked = len(rates.asked)
    assert settled(path, "GPU A", True, rates.choosing, said.append) == first
    assert len(rates.asked) == asked
    assert len(said) == 1
    assert "19800 pictures a second, the best of 7 settings" in said[0]
    other = Rates(lambda s: 1.0 + s.fancy)  # fancy would be better here, but pixels stay what they are
    second = settled(path, "GPU B", True, other.choosing, said.append)
    assert not second.fancy
    assert all(s.fancy for s in other.asked)
    kept = json.loads(path.read_text())
    assert (kept["upsampling"], sorted(kept["gpus"])) == ("plain", ["GPU A", "GPU B"])
    assert settled(path, "GPU A", False, rates.choosing, said.append) == first, "ranks take what is kept"


def test_nothing_is_measured_beside_other_ranks_or_without_a_folder(tmp_path: Path) -> None:
    said, rates = [], Rates(of_this_gpu)
    assert settled(tmp_path / "x.json", "GPU", False, rates.choosing, said.append) == Decoding()
    assert settled(None, "GPU", True, rates.choosing, said.append) == Decoding()
    assert not rates.asked
    assert not list(tmp_path.iterdir())
    assert ["several ranks" in said[0], "folder is not known" in said[1]] == [True, True]


DAMAGED = [
    "",
    "[]",
    '{"schema": 2}',
    '{"schema": 1, "upsampling": "odd", "gpus": {}}',
    '{"schema": 1, "upsampling": "plain", "gpus": {"GPU": {"settings": {"x": 1}}}}',
]


@pytest.mark.parametrize("text", DAMAGED)
def test_a_damaged_file_is_named_and_measured_anew(tmp_path: Path, text: str) -> None:
    path, said, rates = tmp_path / "cub.decoder.json", [], Rates(of_this_gpu)
    path.write_text(text)
    found = settled(path, "GPU", True, rates.choosing, said.append)
    assert found.load == 0.9
    assert f"{path} is left aside" in said[0]
    assert json.loads(path.read_text())["gpus"]["GPU"]["settings"]["load"] == 0.9


def test_a_failure_costs_a_line(tmp_path: Path) -> None:
    said: list[str] = []

    def fails(plain: bool):
        raise RuntimeError("no memory")

    assert settled(tmp_path / "x.json", "GPU", True, fails, said.append) == Decoding()
    assert "the measurement failed: RuntimeError: no memory" in said[0]
    rates = Rates(of_this_gpu)
    (tmp_path / "file").touch()
    assert settled(tmp_path / "file" / "x.json", "GPU", True, rates.choosing, said.append).load == 0.9
    assert "cannot be written" in said[-1]


def test_the_file_lies_beside_the_boxes(tmp_path: Path) -> None:
    assert decoding.beside(str(tmp_path / "cub.h5")) == tmp_path / "cub.decoder.json"
    assert decoding.beside(object()) is None


def test_the_edge_measures_on_a_cpu_too(birds) -> None:  # noqa: F811
    """DALI's own rate of real photographs; on a CPU the hardware's settings mean nothing."""
    pytest.importorskip("nvidia.dali")
    import numpy as np

    from augment.stream import decoding_measure

    best, rates = decoding_measure.find(birds, np.arange(8), 4, torch.device("cpu"), 2, plain=True)
    assert set(map(type, rates.values())) == {float}
    assert min(rates.values()) > 1
    assert (best.threads, best.width <= int(birds.pool.widths.max())) == (1, True)
