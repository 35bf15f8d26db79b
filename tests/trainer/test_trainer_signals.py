"""What signals do to a program and to the training loop; signals at random moments: test_trainer_kills.py."""

import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from precompute.base.program import main, stop_signal

BOTH = [signal.SIGTERM, signal.SIGINT]


@pytest.fixture(autouse=True)
def _handlers_are_put_back():
    before = [signal.getsignal(number) for number in BOTH]
    yield
    assert [signal.getsignal(number) for number in BOTH] == before


def status_of(program: Callable[[], None]) -> object:
    """The exit status of a program under `main`."""
    with pytest.raises(SystemExit) as stopped:
        main(lambda argv: program(), [])
    return stopped.value.code


@pytest.mark.parametrize("number", BOTH)
def test_a_signal_ends_the_program_and_what_it_opened_is_closed(number: signal.Signals) -> None:
    done = []

    def program() -> None:
        try:
            # As within an import of dataclasses, where KeyboardInterrupt itself would end the process by SIGINT.
            exec("signal.raise_signal(number)", {"signal": signal, "number": number})
            done.append("went on")
        finally:
            done.append("closed")

    assert status_of(program) == 130
    assert done == ["closed"]


@pytest.mark.parametrize("number", BOTH)
def test_what_follows_a_signal_is_the_signal(number: signal.Signals) -> None:
    def program() -> None:
        try:
            signal.raise_signal(number)
        except KeyboardInterrupt:
            raise RuntimeError("cannot release un-acquired lock") from None

    assert status_of(program) == 130


@pytest.mark.parametrize("number", BOTH)
def test_a_signal_waits_for_the_end_of_imports(
    number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An import may lose the exception, or hang."""
    done = []
    (tmp_path / "slow_to_import.py").write_text(f"import signal\nsignal.raise_signal({int(number)})\nwhole = True")
    monkeypatch.syspath_prepend(tmp_path)

    def program() -> None:
        import slow_to_import  # type: ignore[import-not-found]

        done.append(slow_to_import.whole)
        time.sleep(60)
        done.append("went on")

    assert status_of(program) == 130
    assert done == [True]
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)
    del sys.modules["slow_to_import"]


@pytest.mark.parametrize("number", BOTH)
def test_the_loop_hears_the_first_and_ends_at_the_second(number: signal.Signals) -> None:
    heard = []

    def program() -> None:
        with stop_signal() as stop:
            heard.append(stop.is_set)
            signal.raise_signal(number)
            heard.append(stop.is_set)
            signal.raise_signal(number)
            heard.append("went on")

    assert status_of(program) == 130
    assert heard == [False, True]


def test_under_torchrun_sigterm_keeps_its_meaning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    before, within = signal.getsignal(signal.SIGTERM), []
    assert status_of(lambda: within.append(signal.getsignal(signal.SIGTERM))) == 0
    assert within == [before]


@pytest.mark.parametrize("number", BOTH)
def test_an_ignored_signal_stays_ignored(number: signal.Signals) -> None:
    """As SIGINT is in a shell's background job."""
    before = signal.signal(number, signal.SIG_IGN)
    try:
        assert status_of(lambda: signal.raise_signal(number)) == 0
    finally:
        signal.signal(number, before)
