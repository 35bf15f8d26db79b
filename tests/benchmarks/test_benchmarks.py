"""Benchmarks measure what they say: peers do the same job, a slow arm is shown as slow, errors never become numbers."""

import copy
import importlib.util
import json
import time
from pathlib import Path

import pytest

from benchmarks import harness, results
from benchmarks.peers import PEERS
from precompute.base.errors import UsageError, UserError

RESULTS = sorted((Path(results.__file__).parent / "results").glob("*.json"))


def busy(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_a_slowed_arm_is_shown_as_slower():
    fast = harness.Arm("ours: fast", lambda: busy(0.02), 10)
    slow = harness.Arm("slow", lambda: busy(0.06), 10)
    harness.measure([fast, slow], repeats=5)
    found = harness.ratio(slow, fast)
    assert 2.5 < found["median"] < 3.5
    assert len(found["values"]) == 5
    assert 1.9 < harness.spread(fast.cpu_ms)["median"] < 2.6


def test_a_slowed_backend_is_shown_as_slower(cub_images, monkeypatch):
    """Two of ours, one of which burns as much CPU again in every batch."""
    from contextlib import ExitStack

    from augment.views.policy import Policy
    from benchmarks import job, scopes

    work = job.make_job(cub_images, Policy(size=64, group=8), batch=8, batches=2)
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
    harness.measure([whole, parts], repeats=2, warmup=1)
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


SLOW = ("kornia compiled",)  # the compiler takes most of a minute


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n in SLOW)) for n in PEERS])
def test_peers_make_the_same_views(name, cub_images):
    """On real photographs; the tolerance leaves room for missing antialiasing, rounding, and DALI's own colours."""
    import torch

    from augment import backends
    from augment.views.policy import Policy
    from benchmarks.job import difference, make_job

    peer = PEERS[name]
    if why := peer.missing():
        pytest.skip(why)
    policy = Policy(name=peer.policies[0], colour="torchvision", size=160, group=8)
    job = make_job(cub_images, policy, batch=8 if not peer.draws else 64, batches=1)
    (plan,), (files,) = job.plans["torchvision"], job.files
    backend = backends.build("kornia", policy, torch.device("cpu"), torch.float32, 1, len(plan))
    theirs, ours = peer.way().render(plan, policy, files), backend.render(plan, files)
    backend.close()
    assert [(v.shape, v.dtype) for v in theirs] == [(v.shape, torch.float32) for v in ours]
    assert difference(peer, theirs, ours, policy) < peer.tolerance
    # Another picture's view, or one that is not normalised as ours, is far away: the comparison can tell.
    wrong = [0.5 * v for v in theirs] if peer.draws else [v.flip(0) for v in theirs]
    assert difference(peer, wrong, ours, policy) > (1.5 if peer.draws else 3) * peer.tolerance


def test_peers_are_what_their_names_say(monkeypatch):
    """Views alone would not tell Kornia from Kornia compiled, nor the CPU from a GPU that is not there."""
    import dataclasses

    import torch

    from benchmarks import peers, peers_batch

    assert all(name == peer.name for name, peer in PEERS.items())
    assert [peer.name for peer in peers.find(["plain dali", "pillow"])] == ["plain dali", "pillow"]
    if not PEERS["kornia"].missing():
        compiled = []
        monkeypatch.setattr(torch, "compile", lambda function, **options: compiled.append(function) or function)
        PEERS["kornia"].way()
        assert compiled == []
        PEERS["kornia compiled"].way()
        assert compiled == [peers_batch._kornia_everywhere]
    for name, peer in PEERS.items():
        asked = []
        recorded = dataclasses.replace(peer, load=lambda device, asked=asked: asked.append(device))
        recorded.way("cuda")
        recorded.way("cpu")
        recorded.way()
        assert asked == ["cuda" if "kornia" in name or "dali" in name else "cpu", "cpu", "cpu"], name


def test_a_peer_of_another_job_is_refused(cub_images):
    from contextlib import ExitStack
    from dataclasses import replace

    from augment.views.policy import Policy
    from benchmarks.job import check, make_job

    pillow = PEERS["pillow"].way()
    blind = replace(
        PEERS["pillow"], load=lambda _: replace(pillow, render=lambda *a: [0 * v for v in pillow.render(*a)])
    )
    job = make_job(cub_images, Policy(size=64, group=8), batch=4, batches=1)
    with ExitStack() as stack, pytest.raises(UserError, match=r"pillow.*not do the same job"):
        check(job, blind, stack)


@pytest.fixture(scope="module")
def cub_images(shared_data, tmp_path_factory, run_module):
    """Real photographs with their boxes."""
    from augment.stream.imageset import ImageSet

    root = shared_data / "CUB_200_2011"
    out = tmp_path_factory.mktemp("boxes") / "cub.h5"
    done = run_module("precompute.boxes", "--dataset", "cub", "--root", root, "--out", out)
    assert done.returncode == 0, done.stderr
    return ImageSet.open(out, root)


@pytest.fixture(scope="module")
def demo_result(demo_root, tmp_path_factory, run_module):
    """A real, small run of the program on the demo set."""
    folder = tmp_path_factory.mktemp("throughput")
    boxes = folder / "demo.h5"
    done = run_module("precompute.boxes", "--dataset", "cub", "--root", demo_root, "--out", boxes)
    assert done.returncode == 0, done.stderr
    done = run_module(
        "benchmarks.throughput", "--boxes", boxes, "--size", 64, "--batch", 16, "--batches", 1,
        "--repeats", 2, "--rounds", 2, "--peers", "pillow", "--backends", "kornia:linear", "--json",
        "--out", folder / "r.json", timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), folder / "r.json"


def test_throughput_result(demo_result, demo_root):
    document, path = demo_result
    assert results.load(path) == document
    assert [a["name"] for a in document["arms"]] == ["decode only", "ours: kornia (linear)", "pillow"]
    assert set(document["ratios"]) == {"decode only / ours: kornia (linear)", "pillow / ours: kornia (linear)"}
    assert document["checked_levels"]["pillow"] < 2
    assert "bound" in document["verdict"]
    assert document["rounds"] == 2
    assert (document["settings"]["boxes"], document["settings"]["dataset"]) == ("demo.h5", "cub")  # the box file's word
    assert document["settings"]["root"] == demo_root.name  # its folder too, where none is named
    assert all(len(a["cpu_ms"]["values"]) == 4 for a in document["arms"])
    assert results.agreement(document, document) == dict.fromkeys(document["ratios"], True)
    assert document["versions"]["torch"]


def test_merging_and_agreement(demo_result):
    document = demo_result[0]
    name = "pillow / ours: kornia (linear)"
    slower = copy.deepcopy(document)
    slower["ratios"][name] = harness.spread([2 * v for v in document["ratios"][name]["values"]])
    both = results.merged([document, slower])
    results.validate(both)
    assert both["ratios"][name]["values"] == document["ratios"][name]["values"] + slower["ratios"][name]["values"]
    low, high = document["ratios"][name]["median"], slower["ratios"][name]["median"]
    assert low < both["ratios"][name]["median"] < high
    assert not results.agreement(document, slower)[name]
    assert sum(results.agreement(document, slower).values()) == len(document["ratios"]) - 1
    spread = document["ratios"][name]
    overlapping = copy.deepcopy(document)  # its lowest is the other's highest: they touch, the medians are apart
    overlapping["ratios"][name] = harness.spread([v - spread["low"] + spread["high"] for v in spread["values"]])
    assert results.agreement(document, overlapping)[name]
    assert not results.closeness(document, overlapping)[name]
    slower["arms"][0]["name"] = "something else"
    with pytest.raises(ValueError, match="cannot be merged"):
        results.merged([document, slower])


@pytest.mark.parametrize("damage", ["nan", "missing", "empty", "quartiles"])
def test_the_schema_refuses(demo_result, damage):
    document = copy.deepcopy(demo_result[0])
    arm = document["arms"][0]
    if damage == "nan":
        arm["cpu_ms"]["values"][0] = float("nan")
    elif damage == "missing":
        del arm["inside"]
    elif damage == "empty":
        document["arms"] = []
    else:
        arm["cpu_ms"]["q25"] = arm["cpu_ms"]["median"] + 1
    with pytest.raises(ValueError):
        results.validate(document)


@pytest.mark.parametrize("path", RESULTS, ids=lambda p: p.name)
def test_committed_results_are_valid(path):
    results.validate(json.loads(path.read_text()))


def test_unknown_names_are_usage_errors(run_module, tmp_path):
    from benchmarks.peers import find

    with pytest.raises(UsageError, match="opencv"):
        find(["opencw"])
    for flag, known in (("--backends", "known are dali, fused"), ("--peers", "known are pillow")):
        done = run_module("benchmarks.throughput", flag, "opencw")
        assert (done.returncode, done.stdout) == (2, "")  # before any round
        assert known in done.stderr
    done = run_module("benchmarks.throughput", "--boxes", tmp_path / "no.h5")
    assert done.returncode == 1
    assert "no.h5" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_scope_without_arms_says_so(run_module, demo_boxes, demo_root):
    flags = ["--scope", "apply", "--backends", "dali", "--peers", "none", "--rounds", "1", "--batch", "4"]
    done = run_module("benchmarks.throughput", "--boxes", demo_boxes, "--root", demo_root, *flags)
    assert done.returncode == 1
    assert "nothing to measure in scope apply" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_missing_peer_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "pip install" in str(PEERS["opencv"].missing())


def test_peers_get_backgrounds_at_view_size_and_make_the_same_views(cub_images):
    """Scope apply: a decoded cache is no privilege of ours."""
    from augment.views.policy import Policy
    from benchmarks import job, scopes

    work = job.make_job(cub_images, Policy(size=64, group=8), batch=8, batches=1)
    [(plan, files)] = scopes._with_scenes(work)
    way, policy = PEERS["pillow"].way(), work.policy("torchvision")
    assert way.decode is not None
    assert way.views is not None
    small = way.views(plan, policy, [way.decode(data) for data in files])
    large = way.render(work.plans["torchvision"][0], policy, work.files[0])
    assert plan.background_slot.min() >= len(work.files[0])
    assert {way.decode(data).size for data in files[len(work.files[0]) :]} == {(64, 64)}
    assert job.difference(PEERS["pillow"], small, large, policy) < 0.5


@pytest.mark.parametrize("path", RESULTS, ids=lambda p: p.stem)
def test_results_tell_no_paths_of_the_machine(path, tmp_path):
    document = results.load(path)
    assert "/tmp" not in path.read_text()
    document["settings"] |= {"boxes": "/home/somebody/cub.h5", "root": None}
    results.save(document, tmp_path / "again.json")
    assert results.load(tmp_path / "again.json")["settings"] | {"root": None} == document["settings"] | {
        "boxes": "cub.h5"
    }
