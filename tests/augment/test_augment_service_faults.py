"""The long test of the service's faults: helpers and whole machines die and stand still during a training."""

import hashlib
import importlib.util
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from service_faults import batches, endure, helpers_of, kill, opened, stop, wait_for

from augment import Source
from augment.service.client import SLACK

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="the extra ray is not installed"),
]
COUNT = 200


@pytest.fixture
def cluster(demo, monkeypatch):
    """A head node, and machines that are added and killed; helpers on all."""
    from augment.service import cluster as service

    for name, value in {**service.LOOPBACK, service.MODE: "token"}.items():
        monkeypatch.setenv(name, value)
    service._own_token()
    import ray
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "object_store_memory": 100 << 20, "include_dashboard": False}
    try:
        machines = Cluster(initialize_head=True, head_node_args=node)
    except Exception:  # Ray gives itself half a minute, which a busy machine may need: once more
        machines = Cluster(initialize_head=True, head_node_args=node)
    machines.add_node(num_cpus=1, object_store_memory=100 << 20)
    service.connect(machines.address)
    root, boxes = demo
    crew = service.Crew(ray, Source(str(boxes), str(root)), workers=1, each=1)
    yield ray, machines, crew
    ray.shutdown()
    machines.shutdown()


def raylet_of(node):
    found = node.all_processes["raylet"][0].process.pid
    assert "raylet" in Path(f"/proc/{found}/cmdline").read_text()
    return found


def test_twenty_faults_of_helpers_and_three_of_machines_cost_no_place(cluster, demo):
    ray, machines, crew = cluster
    with opened(demo) as loader:
        expected = list(batches(loader, COUNT))
    threads, done = [], []

    def fault(what):
        def happen():
            crew.hire()
            # The others may still be starting: a fault needs somebody who works.
            wait_for(lambda: len(helpers_of(ray, crew)) >= 1)
            pids = list(helpers_of(ray, crew).values())
            done.append(what(pids[len(done) % len(pids)]))
            return done[-1]

        return happen

    def lose_machine():
        node = machines.worker_nodes and next(iter(machines.worker_nodes))
        pid = raylet_of(node)
        os.kill(pid, signal.SIGKILL)
        machines.remove_node(node, allow_graceful=False)
        machines.add_node(wait=False, num_cpus=1, object_store_memory=100 << 20)
        done.append(f"SIGKILL of raylet {pid}")
        return done[-1]

    kinds = [kill, lambda pid: stop(pid, threads)]
    faults = {5 + 9 * i: fault(kinds[i % 2]) for i in range(20)}
    faults |= dict.fromkeys((47, 107, 171), lose_machine)
    crew.hire()
    with opened(demo, service="ray", address=machines.address) as loader:
        wait_for(lambda: loader.report()["service"]["helpers"] == 2)
        seen = endure(loader, COUNT, faults)
        report = loader.report()["service"]
    for thread in threads:
        thread.join()
    assert seen.places == expected
    assert len(done) == 23
    assert report["made_there"] > 20
    assert report["late"] + report["lost"] >= 5
    # Whoever was late, its batch was begun here after no longer than this, and what a batch takes here.
    assert report["patience"] <= SLACK + report["takes"]
    usual = sorted(seen.pauses)[COUNT // 2]
    print(f"longest pauses {[round(x, 2) for x in sorted(seen.pauses)[-6:]]} s, median {usual:.3f} s; {report}")


def test_a_wrong_token_and_none_are_refused(cluster, demo, tmp_path):
    _, machines, _ = cluster
    root, boxes = demo
    code = (
        "from augment import Making, open_views\n"
        f"open_views({str(boxes)!r}, {str(root)!r}, making=Making(device='cpu', backend='fused', service='ray', "
        f"address={machines.address!r}), batch_size=8)"
    )
    wrong = "0" * 64
    for changed, words in (
        ({"RAY_AUTH_TOKEN": wrong}, f"that of RAY_AUTH_TOKEN, digest {hashlib.sha256(wrong.encode()).hexdigest()[:6]}"),
        ({"HOME": str(tmp_path)}, f"none: RAY_AUTH_TOKEN is not set, and {tmp_path}/.ray/auth_token cannot be read"),
    ):
        done = subprocess.run(
            [sys.executable, "-c", code], env=os.environ | changed, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 1
        said = done.stderr[done.stderr.rindex("UserError: ") :]
        assert f"the cluster at {machines.address} refuses this program's token ({words}): its own is another" in said
        assert "Take that of the machine of `ray start --head`" in said
        assert wrong not in said
