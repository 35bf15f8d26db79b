"""Helpers on a real Ray cluster of this machine: killed, stopped, late; what a training gets stays the same."""

import importlib.util
import os
import re
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from service_faults import batches, endure, helpers_of, kill, opened, stop, wait_for

from augment import Source

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="the extra ray is not installed: pip install 'saliencyswap[ray]'"
)


@pytest.fixture(scope="module")
def cluster(demo):
    """Ray on this machine, and two helpers for the demo set: the module, the crew, the address."""
    from augment.service.cluster import MODE, Crew, connect

    root, boxes = demo
    before = dict(os.environ)
    ray = connect(None)
    assert os.environ[MODE] == "token"
    crew = Crew(ray, Source(str(boxes), str(root)), workers=1, each=2)
    begin = crew.hire()
    assert [line.split(": ")[1] for line in begin] == ["begins", "begins"]
    serve = []
    wait_for(lambda: serve.extend(crew.hire()) or len(serve) == 2, seconds=300)
    assert sorted(serve) == sorted(line.replace("begins", "serves") for line in begin)
    assert crew.hire() == []
    yield ray, crew, ray.get_runtime_context().gcs_address
    ray.shutdown()
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="module")
def expected(demo):
    with opened(demo) as loader:
        return list(batches(loader, 60))


def helpers(loader):
    return loader.report()["service"]["helpers"]


def test_nothing_listens_beyond_loopback(cluster):
    children = {os.getpid()}
    parents = {int(p.name): _parent(p) for p in Path("/proc").iterdir() if p.name.isdigit()}
    while more := {pid for pid, parent in parents.items() if parent in children} - children:
        children |= more
    inodes = set()
    for pid in children:
        for link in Path(f"/proc/{pid}/fd").glob("*"):
            try:
                inodes |= set(re.findall(r"socket:\[(\d+)\]", os.readlink(link)))
            except OSError:
                continue
    listening = [
        fields[1].split(":")[0]
        for name in ("tcp", "tcp6")
        for fields in map(str.split, Path("/proc/net", name).read_text().splitlines()[1:])
        if fields[3] == "0A" and fields[9] in inodes
    ]
    assert len(listening) >= 4
    loopback = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}
    assert set(listening) <= loopback


def _parent(process):
    try:
        return int((process / "stat").read_text().rsplit(")", 1)[1].split()[1])
    except OSError:
        return 0


def test_every_place_once_in_order_and_equal_while_helpers_die_and_stand_still(cluster, demo, expected):
    ray, crew, address = cluster
    threads = []

    def after(what):
        def happen():
            found = helpers_of(ray, crew)
            return what(next(iter(found.values()))) if found else "no helper is there"

        return happen

    with opened(demo, service="ray", address=address) as loader:
        wait_for(lambda: helpers(loader) == 2)
        faults = {8: after(kill), 20: after(lambda pid: stop(pid, threads)), 40: after(kill)}
        seen = endure(loader, 60, faults)
        report = loader.report()["service"]
    for thread in threads:
        thread.join()
    assert seen.places == expected
    assert report["made_there"] > 0
    assert report["made_here"] > 0
    assert report["late"] + report["lost"] > 0
    print("longest pauses", sorted(seen.pauses)[-3:], report)
    wait_for(lambda: len(helpers_of(ray, crew)) == 2)  # Ray has started them again


def test_a_training_may_join_at_any_step_and_one_that_stops_reading_stalls_nobody(cluster, demo, expected):
    _, crew, address = cluster
    with opened(demo, service="ray", address=address) as idle:
        wait_for(lambda: helpers(idle) == 2)
        reading = iter(idle)
        next(reading)  # and no more: its answers lie ready
        with opened(demo, service="ray", address=address) as loader:
            wait_for(lambda: helpers(loader) == 2)
            loader.load_state_dict(loader.state_dict() | {"epoch": 2, "step": 1})
            start = next(i for i, place in enumerate(expected) if place[:2] == (2, 2))
            assert list(batches(loader, 20)) == expected[start : start + 20]
            assert loader.report()["service"]["made_there"] > 0
        assert next(reading) is not None
    lines = crew.report()
    assert len(lines) == 2
    assert all(re.search(r"\d+ batches, [\d.]+ images/s, busy \d+%.*\d+ stream", line) for line in lines), lines


def test_a_helper_that_cannot_begin_says_why_and_is_tried_again(cluster, demo, tmp_path, monkeypatch):
    """As on a machine that does not have the box file."""
    from augment.service import cluster as service

    ray, _, _ = cluster
    root, boxes = demo
    crew = service.Crew(ray, Source(str(boxes), str(root)), workers=1, each=1)
    monkeypatch.setattr("os.getpid", lambda: 1)  # of helpers' names: the fixture has others
    there = crew._source
    crew._source = replace(there, boxes=f"{tmp_path}/gone.h5")
    monkeypatch.setattr(service, "AGAIN", 0.5)
    (line,) = crew.hire()
    name = line.removesuffix(": begins")
    said = []
    wait_for(lambda: said.extend(crew.hire()) or said, seconds=300)  # imports take long on busy cores
    assert said[0].startswith(f"{name}: cannot begin, is tried again in 0 s: ")
    assert f"UserError: {tmp_path}/gone.h5: no such file; make it with: " in said[0]
    crew._source = there
    wait_for(lambda: said.extend(crew.hire()) or len(said) > 2, seconds=300)
    assert said[1:] == [line, f"{name}: serves"]
    # One that is killed before it has answered is started again by Ray, and is not given up.
    short = name.removeprefix("helper ")
    kill(helpers_of(ray, crew)[short])
    crew._first[short] = service.talk(crew._helpers[short][1].report)
    wait_for(lambda: said.extend(crew.hire()) or len(said) > 3, seconds=300)
    assert said[3:] == [f"{name}: serves"]
    ray.kill(crew._helpers[short][1])


def test_paths_are_those_of_the_folder_in_which_they_were_named(demo, monkeypatch):
    """Ray begins helpers in another one."""
    from augment.service.helper import located
    from precompute.base.boxfile import BoxCache

    root, boxes = demo
    monkeypatch.chdir(Path(boxes).parent)
    name = Path(boxes).name
    given = os.path.relpath(root)
    known = BoxCache.open(boxes)
    assert located(Source(name, given)) == Source(os.path.abspath(boxes), os.path.abspath(root))
    assert located(Source(name)).root == os.path.abspath(known.folder())
    both = located(Source(name, given, backgrounds=(name, given)))
    assert both.backgrounds == ((os.path.abspath(boxes), os.path.abspath(root)),)
    assert located(Source(known, given)) == Source(known, os.path.abspath(root))


def test_helpers_of_another_set_are_refused_and_named(cluster, demo, tmp_path):
    import shutil

    from precompute.boxes import make_boxes

    _, _, address = cluster
    root, _ = demo
    shutil.copytree(root, tmp_path / "other")
    lines = (tmp_path / "other" / "bounding_boxes.txt").read_text().splitlines()
    number, x0, y0, width, height = lines[0].split()
    lines[0] = f"{number} {x0} {y0} {float(width) - 2} {height}"
    (tmp_path / "other" / "bounding_boxes.txt").write_text("\n".join(lines) + "\n")
    make_boxes("demo", root=str(tmp_path / "other"), out=str(tmp_path / "other.h5"), say=lambda _: None)
    with opened((tmp_path / "other", tmp_path / "other.h5"), service="ray", address=address) as loader:
        wait_for(lambda: len(loader.report()["service"]["refused"]) == 2)
        assert len(list(batches(loader, 3))) == 3  # made here
        report = loader.report()["service"]
        assert report["made_here"] >= 3
        assert helpers(loader) == 0
        for refusal in report["refused"].values():
            assert refusal.count("digest is") == 1
            assert "the trainer's" in refusal


def test_no_thread_is_left(cluster):
    wait_for(lambda: not [t for t in threading.enumerate() if t.name == "augment-helpers"], seconds=5)
