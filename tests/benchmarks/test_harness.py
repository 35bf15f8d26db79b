"""The harness measures what it says: a slow arm is shown as slow, arms take turns, an error never becomes a number."""

import time

import pytest

from benchmarks import harness


def busy(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_a_slowed_arm_is_shown_as_slower():
    fast = harness.Arm("ours: fast", lambda: busy(0.02), 10)
    slow = harness.Arm("slow", lambda: busy(0.06), 10)
    harness.measure([fast, slow], repeats=5)
    ratio = harness.ratio(slow, fast)
    assert 2.5 < ratio["median"] < 3.5
    assert len(ratio["values"]) == 5
    assert 1.9 < harness.spread(fast.cpu_ms)["median"] < 2.6


def test_a_slowed_backend_is_shown_as_slower(cub_images, monkeypatch):
    """Two of ours, one of which burns as much CPU again in every batch."""
    from contextlib import ExitStack

    from augment.views.policy import Policy
    from benchmarks import job, scopes
    from benchmarks.program import JobSettings

    work = job.make_job(cub_images, Policy(size=64, group=8), JobSettings(batch=8, batches=2))
    real = job.build

    def build(work, name, colour, stack, **more):
        backend = real(work, name, colour, stack, **more)
        if name == "eager":
            render = backend.render

            def slow(plan, files):
                began = time.process_time()
                views = render(plan, files)
                busy(time.process_time() - began)
                return views

            backend.render = slow
        return backend

    with ExitStack() as stack:
        (_, plain) = scopes.ARMS["decode+apply"](work, [("eager", "linear")], [], stack)
        monkeypatch.setattr(scopes, "build", build)
        (_, slowed) = scopes.ARMS["decode+apply"](work, [("eager", "linear")], [], stack)
        harness.measure([plain, slowed], repeats=5)
    assert 1.6 < harness.ratio(slowed, plain)["median"] < 2.4


def test_arms_take_turns_within_a_job():
    """A job in parts: other arms come in between, and the parts' times are those of one repeat."""
    order = []

    def work(name: str, seconds: float = 0.0) -> None:
        order.append(name)
        busy(seconds)

    whole = harness.Arm("whole", lambda: work("w", 0.01), 2)
    parts = harness.Arm("parts", [lambda: work("a", 0.01), lambda: work("b", 0.03)], 2)
    harness.measure([whole, parts], repeats=2)
    assert "".join(order) == "wab" + "wa" + "b" + "wa" + "b"
    assert [len(arm.cpu) for arm in (whole, parts)] == [2, 2]
    assert all(19 < ms < 26 for ms in parts.cpu_ms)
    assert all(w > 0.9 * c for w, c in zip(parts.wall_ms, parts.cpu_ms, strict=True))


def test_an_error_in_an_arm_is_an_error():
    def broken():
        raise RuntimeError("no pixels")

    arms = [harness.Arm("fine", lambda: None, 1), harness.Arm("broken", broken, 1)]
    with pytest.raises(RuntimeError, match="no pixels"):
        harness.measure(arms, repeats=1)
    with pytest.raises(ValueError, match="no values"):
        harness.spread([])


def test_cpu_seconds_count_living_children():
    import multiprocessing

    context = multiprocessing.get_context("fork")
    started = harness.tree_cpu_seconds()
    child = context.Process(target=busy, args=(0.3,))
    child.start()
    child.join()
    assert 0.25 < harness.tree_cpu_seconds() - started < 1.0
