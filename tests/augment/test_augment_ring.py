"""Trainings that share made batches: each is made once, all see the same, and nobody holds the others up for long."""

import os
import threading
from pathlib import Path

import pytest
from service_faults import batches, opened

from augment.service.ring import FOLDER, Ring
from precompute.base.errors import BadValue, UserError

COUNT = 30


@pytest.fixture(scope="module")
def expected(demo):
    with opened(demo) as loader:
        return list(batches(loader, COUNT))


def left():
    return sorted(path.name for path in FOLDER.glob(f"saliencyswap-{os.getuid()}-*"))


def together(loaders, count=COUNT):
    """What each loader gives while all are read at once; a process of its own for each would do the same."""
    seen = [None] * len(loaders)

    def read(i):
        seen[i] = list(batches(loaders[i], count))

    threads = [threading.Thread(target=read, args=(i,)) for i in range(len(loaders))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return seen


def ring_of(loader):
    return loader.report()["ring"]


def test_each_batch_is_made_once_and_seen_by_all(demo, expected):
    before = left()
    loaders = [opened(demo, ring="a", ring_members=3) for _ in range(3)]
    assert together(loaders) == [expected] * 3
    counts = [ring_of(loader) for loader in loaders]
    for loader in loaders:
        loader.close()
    made, taken = (sum(c[name] for c in counts) for name in ("shared_made", "shared_taken"))
    assert made <= COUNT + loaders[0].prefetch + 3  # some lie ready
    assert made + taken >= 3 * COUNT
    assert not sum(c["made_alone"] + c["left_behind"] for c in counts)
    assert left() == before


def test_one_that_stops_reading_is_left_behind_and_goes_on_alone(demo, expected):
    with (
        opened(demo, ring="b", ring_members=2, ring_patience=0.3) as idle,
        opened(demo, ring="b", ring_members=2, ring_patience=0.3) as loader,
    ):
        first = batches(idle, COUNT)
        seen = []
        reader = threading.Thread(target=lambda: seen.extend(batches(loader, COUNT)))
        reader.start()
        start = [next(first)]
        reader.join(timeout=60)
        assert seen == expected
        assert ring_of(loader)["left_behind"] >= 1
        assert start + list(first) == expected
        assert ring_of(idle)["made_alone"] > 0


def test_a_lone_member_waits_for_nobody_for_ever(demo, expected, monkeypatch):
    from augment.service.shared import RingMaker

    monkeypatch.setattr(RingMaker, "_wait_for_all", lambda self: None)
    with opened(demo, ring="c", ring_members=2) as loader:
        assert list(batches(loader, COUNT)) == expected


def test_other_views_have_other_rings(demo):
    with opened(demo, ring="d", ring_members=1) as one, opened(demo, ring="d", ring_members=1, seed=1) as other:
        assert ring_of(one)["members"] == ring_of(other)["members"] == 1
        assert list(batches(one, 3)) != list(batches(other, 3))


def test_joining_and_leaving_leaves_nothing(tmp_path):
    def descriptors():
        return len(list(Path("/proc/self/fd").iterdir()))

    Ring("warm", 4096, tmp_path).close()
    before = descriptors()
    for i in range(500):
        ring, other = Ring("x", 4096, tmp_path), Ring("x", 4096, tmp_path)
        assert other.members() == 2
        (ring if i % 2 else other).close()
        (other if i % 2 else ring).close()
    assert descriptors() == before
    assert not list(tmp_path.iterdir())


def test_what_a_killed_ring_left_is_begun_anew(tmp_path):
    ring = Ring("x", 4096, tmp_path)
    ring.at(7)
    assert ring.claim(3)
    assert ring.write(3, lambda slot: slot.fill(1))
    del ring._positions, ring._numbers, ring._slots  # as the system does when a process ends
    ring._map.close()
    os.close(ring._shared.file)
    Ring("y", 4096, tmp_path).close()
    assert not list(tmp_path.iterdir())  # swept by whoever comes next
    again = Ring("x", 4096, tmp_path)
    assert again.members() == 1
    assert again.holds(3) == 0
    again.close()
    assert not list(tmp_path.iterdir())


def test_a_full_memory_and_a_file_of_others_are_errors_with_a_remedy(tmp_path):
    with pytest.raises(UserError, match=r"no room for .* MB of shared batches.*--shm-size"):
        Ring("x", 1 << 45, tmp_path)
    ring = Ring("y", 4096, tmp_path)
    ring.path.chmod(0o644)
    with pytest.raises(UserError, match="others may read it"):
        Ring("y", 4096, tmp_path)
    ring.close()


def test_a_torn_batch_is_not_taken(tmp_path):
    writer, reader = Ring("x", 4096, tmp_path), Ring("x", 4096, tmp_path)
    assert writer.claim(0)
    assert not reader.claim(0)
    assert writer.write(0, lambda slot: slot.fill(1))
    writer.release(0)
    assert reader.read(0, lambda slot: None)

    def overtaken(slot):
        assert writer.claim(4)
        assert writer.write(4, lambda slot: slot.fill(2))
        writer.release(4)

    assert not reader.read(0, overtaken)
    assert reader.holds(0) == -1
    for ring in (writer, reader):
        ring.close()


def test_what_cannot_be_is_refused(demo):
    with pytest.raises(BadValue, match="left out with service ray"):
        opened(demo, ring="a", service="ray")
    with pytest.raises(BadValue, match="at least 0, and finite"):
        opened(demo, ring="a", ring_patience=-1)
