"""A checkpoint is whole, checked, and has a predecessor."""

from pathlib import Path

import pytest
import torch

from precompute.base.errors import UserError
from trainer.record import checkpoint


def state(step: int) -> dict:
    return {"step": step, "model": {"w": torch.arange(2000.0) + step}, "note": "λ", "rng": torch.get_rng_state()}


def test_round_trip_and_last_good(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        checkpoint.save(tmp_path, state(step))
    loaded, path, remark = checkpoint.load_latest(tmp_path)
    assert (loaded["step"], path.name, remark) == (3, "checkpoint.pt", None)
    torch.testing.assert_close(loaded["model"]["w"], torch.arange(2000.0) + 3)
    assert checkpoint.load(tmp_path / checkpoint.PREVIOUS)["step"] == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint.previous.pt", "checkpoint.pt"]


def test_any_flipped_bit_is_noticed_or_harmless(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path, state(1))
    good = path.read_bytes()
    expected = checkpoint.load(path)
    del expected["note"]
    noticed = 0
    for position in range(7, len(good), 31):
        data = bytearray(good)
        data[position] ^= 0x10
        path.write_bytes(data)
        try:
            found = checkpoint.load(path)
        except checkpoint.DamagedCheckpoint:
            noticed += 1
            continue
        assert found["note"] == "λ"
        found = {k: v for k, v in found.items() if k != "note"}
        torch.testing.assert_close(found, expected, rtol=0, atol=0)  # padding between records
    assert noticed > len(good) // 31 // 2
    for cut in (0, 10, len(good) // 2, len(good) - 1):
        path.write_bytes(good[:cut])
        with pytest.raises(checkpoint.DamagedCheckpoint, match="damaged"):
            checkpoint.load(path)


def test_damaged_newest_falls_back_aloud(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, state(1))
    path = checkpoint.save(tmp_path, state(2))
    path.write_bytes(path.read_bytes()[:-100])
    loaded, used, remark = checkpoint.load_latest(tmp_path)
    assert loaded["step"] == 1
    assert used.name == checkpoint.PREVIOUS
    assert remark is not None
    assert "damaged" in remark


def test_previous_serves_where_the_newest_is_gone(tmp_path: Path) -> None:
    for step in (1, 2):
        checkpoint.save(tmp_path, state(step))
    (tmp_path / checkpoint.NAME).unlink()
    loaded, used, remark = checkpoint.load_latest(tmp_path)
    assert (loaded["step"], used.name) == (1, checkpoint.PREVIOUS)
    assert "is gone" in str(remark)


def test_every_damaged_byte_of_the_directory_is_noticed_or_harmless(tmp_path: Path) -> None:
    """The zip's directory and its headers, where zipfile and zlib have errors of their own."""
    path = checkpoint.save(tmp_path, state(1))
    good = path.read_bytes()
    for position in range(good.index(b"PK\x01\x02"), len(good)):
        data = bytearray(good)
        data[position] ^= 0xFF
        path.write_bytes(data)
        try:
            assert checkpoint.load(path)["step"] == 1
        except checkpoint.DamagedCheckpoint:
            continue


def test_missing_and_foreign_files_are_errors(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no checkpoint there"):
        checkpoint.load_latest(tmp_path)
    foreign = tmp_path / "foreign.pt"
    torch.save({"state_dict": {}}, foreign)
    with pytest.raises(checkpoint.DamagedCheckpoint, match="not a checkpoint of this program"):
        checkpoint.load(foreign)
    foreign.write_text("hello")
    with pytest.raises(checkpoint.DamagedCheckpoint):
        checkpoint.load(foreign)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, state(1))
    with pytest.raises((AttributeError, TypeError)):
        checkpoint.save(tmp_path, {"bad": lambda: None})
    assert checkpoint.load_latest(tmp_path)[0]["step"] == 1
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint.pt"]
