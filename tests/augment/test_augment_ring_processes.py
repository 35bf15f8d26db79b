"""Trainings in processes of their own that share made batches, while some of them are killed and stopped."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from service_faults import batches, opened

pytestmark = pytest.mark.slow
COUNT, PATIENCE = 120, 1.0
READER = """
import json, sys, time
sys.path.insert(0, sys.argv[1])
from service_faults import batches, opened
with opened((sys.argv[2], sys.argv[3]), ring=sys.argv[4], ring_members=4, ring_patience=float(sys.argv[5]),
            cache="shared", cache_dir=sys.argv[7]) as loader:
    last = time.monotonic()
    for place in batches(loader, int(sys.argv[6])):
        print(json.dumps([*place, time.monotonic() - last]), file=sys.stderr, flush=True)
        last = time.monotonic()
    print(json.dumps(loader.report()["ring"]), file=sys.stderr, flush=True)
"""


def test_a_killed_and_a_stopped_training_cost_the_others_no_batch(demo, tmp_path):
    with opened(demo) as loader:
        expected = [list(place) for place in batches(loader, COUNT)]
    memory = tmp_path / "memory"
    memory.mkdir()
    logs = [tmp_path / f"{i}.log" for i in range(4)]
    given = [str(Path(__file__).parent), *map(str, demo), "x", str(PATIENCE), str(COUNT), str(memory)]
    readers = []
    for log in logs:
        with log.open("w") as file:
            readers.append(subprocess.Popen([sys.executable, "-c", READER, *given], stderr=file))

    def lines(i):
        return logs[i].read_text().splitlines()

    def wait_for(i, count):
        while len(lines(i)) < count:
            assert readers[i].poll() is None, lines(i)
            time.sleep(0.01)

    wait_for(0, 20)
    readers[0].kill()
    wait_for(1, 50)
    readers[1].send_signal(signal.SIGSTOP)
    for i in (2, 3):
        assert readers[i].wait(timeout=240) == 0, lines(i)
    readers[1].send_signal(signal.SIGCONT)
    assert readers[1].wait(timeout=240) == 0, lines(1)
    readers[0].wait()
    assert [json.loads(line)[:3] for line in lines(0)[:20]] == expected[:20]
    pauses = []
    for i in (1, 2, 3):
        *places, ring = map(json.loads, lines(i))
        assert [place[:3] for place in places] == expected
        if i > 1:
            pauses += sorted(place[3] for place in places[1:])[-3:]
            assert ring["made_alone"] <= COUNT // 12  # while they waited; then they share again
        else:
            assert ring["made_alone"] > 0  # what the others were past when it went on
    print(f"longest pauses of the others: {[round(pause, 2) for pause in sorted(pauses)]} s; patience {PATIENCE} s")
    assert not list(memory.iterdir())
