"""Trainings that share made batches: each is made once, all see the same, and nobody holds the others up for long."""

import functools
import os
import threading
from pathlib import Path

import pytest
from service_faults import batches, digest, opened

from augment.service.ring import _CONTENT, SLOTS, Ring
from precompute.base.errors import BadValue, UserError

COUNT = 30


@pytest.fixture(scope="module")
def expected(demo):
    with opened(demo) as loader:
        return list(batches(loader, COUNT))


@pytest.fixture
def joined(demo, tmp_path):
    """Opens members of one ring, which has a folder of its own: tests beside this one share batches too."""
    return functools.partial(opened, demo, ring="x", cache="shared", cache_dir=tmp_path)


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


def test_each_batch_is_made_once_and_seen_by_all(joined, expected, tmp_path):
    loaders = [joined(ring_members=3) for _ in range(3)]
    assert together(loaders) == [expected] * 3
    counts = [ring_of(loader) for loader in loaders]
    for loader in loaders:
        loader.close()
    made, taken = (sum(c[name] for c in counts) for name in ("shared_made", "shared_taken"))
    assert made <= COUNT + loaders[0].prefetch + 3  # some lie ready
    assert made + taken >= 3 * COUNT
    assert not sum(c["made_alone"] + c["left_behind"] for c in counts)
    assert not list(tmp_path.iterdir())


def test_one_that_stops_reading_is_left_behind_and_goes_on_alone(joined, expected, monkeypatch, capsys):
    monkeypatch.setattr("augment.service.shared.LONG", 0.1)
    with (
        joined(ring_members=2, ring_patience=0.3) as idle,
        joined(ring_members=2, ring_patience=0.3) as loader,
    ):
        first = batches(idle, COUNT)
        seen = []
        reader = threading.Thread(target=lambda: seen.extend(batches(loader, COUNT)))
        reader.start()
        start = [next(first)]
        reader.join(timeout=60)
        assert seen == expected
        assert ring_of(loader)["left_behind"] >= 1
        assert "shared batches: waits for a slower training, " in capsys.readouterr().out
        assert start + list(first) == expected
        assert ring_of(idle)["made_alone"] > 0


def test_a_lone_member_waits_for_nobody_for_ever(joined, expected, monkeypatch):
    from augment.service.shared import RingMaker

    monkeypatch.setattr(RingMaker, "_wait_for_all", lambda self: None)
    with joined(ring_members=2) as loader:
        assert list(batches(loader, COUNT)) == expected


def test_other_views_have_other_rings(joined):
    with joined(ring_members=1) as one, joined(ring_members=1, seed=1) as other:
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
    slot = ring.free()
    ring.memory(slot).fill(1)
    ring.share(slot, 3)
    del ring._positions, ring._numbers  # as the system does when a process ends
    ring._map.close()
    os.close(ring._shared.file)
    Ring("y", 4096, tmp_path).close()
    assert not list(tmp_path.iterdir())  # swept by whoever comes next
    again = Ring("x", 4096, tmp_path)
    assert again.members() == 1
    assert not again.has(3)
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


def write(ring, number):
    """Makes the batch: bytes of its number."""
    assert ring.claim(number)
    slot = ring.free()
    assert slot is not None
    ring.memory(slot).fill(number)
    there = ring.share(slot, number)
    ring.release(number)
    return there


def test_what_is_read_is_never_written_to(tmp_path):
    writer, reader = Ring("x", 4096, tmp_path), Ring("x", 4096, tmp_path)
    assert writer.claim(0)
    assert not reader.claim(0)
    writer.release(0)
    write(writer, 0)
    held = [reader.read(0), reader.read(0)]
    for number in range(1, 4 * SLOTS):  # the reader is past all of them, but holds one
        reader.at(number)
        writer.at(number)
        write(writer, number)
    assert {*held[0].tolist(), *held[1].tolist()} == {0}
    assert reader.has(0)
    part = held[0][1:5]  # as a tensor would be
    held.clear()
    for number in range(30, 30 + 2 * SLOTS):
        reader.at(number)
        writer.at(number)
        write(writer, number)
    assert part.tolist() == [0] * 4
    del part
    write(writer, 99)
    assert not reader.has(0)
    assert reader.read(0) is None
    for ring in (writer, reader):
        ring.close()


def lockable(ring):
    """The slots that no other member reads or writes."""
    found = [slot for slot in range(SLOTS) if ring._locks.take(_CONTENT + slot)]
    for slot in found:
        ring._locks.drop(_CONTENT + slot)
    return found


def test_a_slot_that_is_let_go_in_another_thread_is_taken_whole_or_not_at_all(tmp_path, monkeypatch):
    """A consumer's last array ends while the producer looks for a free slot: the lock must then be the producer's."""
    writer, reader = Ring("x", 4096, tmp_path), Ring("x", 4096, tmp_path)
    held = write(writer, 0)
    for number in range(1, SLOTS):
        write(writer, number)
    for ring in (writer, reader):
        ring.at(SLOTS)  # nobody needs any of them
    drop, found = writer._locks.drop, []
    looks = threading.Thread(target=lambda: found.append(writer.free()))

    def slow_drop(byte):
        if not looks.ident:
            looks.start()
            looks.join(timeout=0.3)  # as where the system lets the other thread run first
        drop(byte)

    monkeypatch.setattr(writer._locks, "drop", slow_drop)
    del held
    looks.join()
    assert found[0] is not None
    assert sorted(found + lockable(reader)) == list(range(SLOTS))
    for ring in (writer, reader):
        ring.close()


def test_an_array_may_end_in_the_middle_of_a_hold(tmp_path, monkeypatch):
    """The collector of cycles runs anywhere: what it ends is let go afterwards, no slot stays held or unlocked."""
    ring, other = Ring("x", 4096, tmp_path), Ring("x", 4096, tmp_path)
    first = write(ring, 0)
    memory = ring.memory

    def ends_first(slot):
        nonlocal first
        first = None
        return memory(slot)

    monkeypatch.setattr(ring, "memory", ends_first)
    again = ring.read(0)
    assert again is not None
    assert ring.held == 1
    assert len(lockable(other)) == SLOTS - 1
    del again
    assert ring.held == 0
    assert len(lockable(other)) == SLOTS
    for member in (ring, other):
        member.close()


def test_a_slot_that_a_member_needs_is_not_free(tmp_path):
    writer, reader = Ring("x", 4096, tmp_path), Ring("x", 4096, tmp_path)
    reader.at(0)
    for number in range(SLOTS):
        write(writer, number)
    assert writer.free() is None
    assert writer.waits_for() == [reader.me]
    writer.leave_behind([reader.me])
    write(writer, SLOTS)
    assert reader.is_past(0)
    assert not reader.is_past(1)
    reader.at(1)  # it goes on, and is waited for again
    assert writer.free() is None
    for ring in (writer, reader):
        ring.close()


def test_views_outlive_their_loader_and_must_not_be_written_to(joined, expected, tmp_path):
    with joined(ring_members=1) as loader:
        iterator = iter(loader)
        first = next(iterator)
        first.views[0].clone().zero_()
        second = next(iterator)
        second.views[1][0].zero_()
        with pytest.raises(UserError, match="clone first"):
            next(iterator)
    assert not list(tmp_path.iterdir())
    assert digest(first) == expected[0][2]


def test_a_training_that_keeps_its_batches_has_copies_in_the_end(joined, expected):
    with joined(ring_members=1, ring_patience=0.2) as loader:
        kept = []
        while len(kept) < COUNT:
            kept += loader
        assert [digest(batch) for batch in kept[:COUNT]] == [place[2] for place in expected]


def test_what_cannot_be_is_refused(demo):
    with pytest.raises(BadValue, match="left out with service ray"):
        opened(demo, ring="a", service="ray")
    with pytest.raises(BadValue, match="at least 0, and finite"):
        opened(demo, ring="a", ring_patience=-1)
