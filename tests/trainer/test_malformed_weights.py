"""Whatever a weights file holds, it is read or refused by one line. `malformed_weights.py` tries as many as wanted."""

from pathlib import Path

import pytest
from malformed_weights import try_many

pytest.importorskip("onnx")


@pytest.mark.filterwarnings("ignore")  # of torch, while the files are made
@pytest.mark.parametrize("seed", [1, 2])
def test_malformed_weights_are_read_or_refused(seed: int, tmp_path: Path) -> None:
    outcomes = try_many(15, seed, tmp_path)
    assert outcomes.total() == 15
    assert sum(n for what, n in outcomes.items() if what.endswith("refused")) > 8
