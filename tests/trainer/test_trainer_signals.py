"""What signals do in and around the training loop; real processes that are signalled: test_trainer_kills.py."""

import signal

import pytest

from precompute.base.program import ending, held_back, stop_signal

BOTH = [signal.SIGTERM, signal.SIGINT]


@pytest.fixture(autouse=True)
def _handlers_are_put_back():
    before = [signal.getsignal(number) for number in BOTH]
    yield
    assert [signal.getsignal(number) for number in BOTH] == before


@pytest.mark.parametrize("number", BOTH)
def test_a_signal_ends_the_program_and_what_it_opened_is_closed(number: signal.Signals) -> None:
    done = []

    def program() -> None:
        with ending():
            try:
                # As within an import of dataclasses, where KeyboardInterrupt itself would end the process by SIGINT.
                exec("signal.raise_signal(number)", {"signal": signal, "number": number})
                done.append("went on")
            finally:
                done.append("closed")

    with pytest.raises(KeyboardInterrupt):
        program()
    assert done == ["closed"]


@pytest.mark.parametrize("number", BOTH)
def test_what_follows_a_signal_is_the_signal(number: signal.Signals) -> None:
    def program() -> None:
        with ending():
            try:
                signal.raise_signal(number)
            except KeyboardInterrupt:
                raise RuntimeError("cannot release un-acquired lock") from None

    with pytest.raises(KeyboardInterrupt):
        program()
    with pytest.raises(ZeroDivisionError), ending():
        print(1 // 0)


@pytest.mark.parametrize("number", BOTH)
def test_signals_wait_for_the_end_of_imports(number: signal.Signals) -> None:
    done = []

    def program() -> None:
        with ending():
            with held_back():
                signal.raise_signal(number)
                done.append("imported")
            done.append("went on")

    with pytest.raises(KeyboardInterrupt):
        program()
    assert done == ["imported"]


@pytest.mark.parametrize("number", BOTH)
def test_the_loop_hears_the_first_and_ends_at_the_second(number: signal.Signals) -> None:
    heard = []

    def program() -> None:
        with ending(), stop_signal() as stop:
            heard.append(stop.is_set)
            signal.raise_signal(number)
            heard.append(stop.is_set)
            signal.raise_signal(number)
            heard.append("went on")

    with pytest.raises(KeyboardInterrupt):
        program()
    assert heard == [False, True]


def test_under_torchrun_sigterm_keeps_its_meaning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    before = signal.getsignal(signal.SIGTERM)
    with ending():
        assert signal.getsignal(signal.SIGTERM) is before
