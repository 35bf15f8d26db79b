"""Every peer does the same job as our backends, on real photographs; one that does another job is refused."""

import importlib.util

import pytest

from benchmarks.peers import PEERS
from precompute.base.errors import UserError

SLOW = ("kornia compiled",)  # the compiler takes most of a minute


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n in SLOW)) for n in PEERS])
def test_peers_make_the_same_views(name, cub_images):
    """On real photographs; the tolerance leaves room for missing antialiasing, rounding, and DALI's own colours."""
    import torch

    from augment import Making, backends
    from augment.views.policy import Policy
    from benchmarks.job import difference, make_job
    from benchmarks.program import JobSettings

    peer = PEERS[name]
    if why := peer.missing():
        pytest.skip(why)
    policy = Policy(name=peer.policies[0], colour="torchvision", size=160, group=8)
    job = make_job(cub_images, policy, JobSettings(batch=8 if not peer.draws else 64, batches=1))
    (plan,), (files,) = job.plans["torchvision"], job.files
    backend = backends.build("kornia", policy, Making(device="cpu", workers=1), len(plan))
    theirs, ours = peer.way().render(policy, plan, files), backend.render(plan, files)
    backend.close()
    assert [(v.shape, v.dtype) for v in theirs] == [(v.shape, torch.float32) for v in ours]
    assert difference(peer, theirs, ours, policy) < peer.tolerance
    # Another picture's view, or one that is not normalised as ours, is far away: the comparison shows it.
    wrong = [0.5 * v for v in theirs] if peer.draws else [v.flip(0) for v in theirs]
    assert difference(peer, wrong, ours, policy) > (1.5 if peer.draws else 3) * peer.tolerance


def test_of_two_packages_with_one_import_name_only_one_is_measured(monkeypatch):
    from benchmarks import peers

    there: set[str] = set()
    monkeypatch.setattr(peers, "_installed", there.__contains__)
    monkeypatch.setattr(peers, "_found", lambda module: True)
    old, new = PEERS["albumentations"], PEERS["albumentationsx"]
    assert old.missing() is None
    assert "pip install 'saliencyswap[albumentationsx]'" in (new.missing() or "")
    there.add("albumentationsx")
    assert "same import name" in (old.missing() or "")
    assert new.missing() is None


def test_peers_are_what_their_names_say(monkeypatch):
    """Views alone would not show whether Kornia is compiled, nor which device a peer is built for."""
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
    from benchmarks.peers_sample import Pillow
    from benchmarks.program import JobSettings

    class Blind(Pillow):
        def views(self, policy, plan, images):
            return tuple(0 * view for view in super().views(policy, plan, images))

    blind = replace(PEERS["pillow"], load=Blind)
    job = make_job(cub_images, Policy(size=64, group=8), JobSettings(batch=4, batches=1))
    with ExitStack() as stack, pytest.raises(UserError, match=r"pillow.*not do the same job"):
        check(job, blind, stack)


def test_a_missing_peer_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "pip install" in str(PEERS["opencv"].missing())


def test_peers_get_backgrounds_at_view_size_and_make_the_same_views(cub_images):
    """Scope apply: a decoded cache is no privilege of ours."""
    from augment.views.policy import Policy
    from benchmarks import job, scopes
    from benchmarks.program import JobSettings

    work = job.make_job(cub_images, Policy(size=64, group=8), JobSettings(batch=8, batches=1))
    [(plan, files)] = scopes._with_scenes(work)
    way, policy = PEERS["pillow"].way(), work.policy("torchvision")
    assert way.decode is not None
    small = way.views(policy, plan, [way.decode(data) for data in files])
    large = way.render(policy, work.plans["torchvision"][0], work.files[0])
    assert plan.background_slot.min() >= len(work.files[0])
    assert {way.decode(data).size for data in files[len(work.files[0]) :]} == {(64, 64)}
    assert job.difference(PEERS["pillow"], small, large, policy) < 0.5
