"""A training whose helpers are killed and stopped while it goes on: what comes, and the longest pause."""

import hashlib
import os
import signal
import time
from dataclasses import dataclass, field

from augment import Making, Policy, open_views

POLICY = Policy(size=64, group=4, scene="zoom", own=0.25)
STOPPED = 2.0  # seconds that a helper stands still


def digest(batch):
    """Of everything that a training sees of a batch."""
    tensors = (*batch.views, batch.rects, batch.sources, batch.backgrounds, batch.labels)
    return hashlib.sha256(b"".join(t.contiguous().numpy().tobytes() for t in tensors)).hexdigest()


def batches(loader, count):
    """(epoch, step, digest) of the next batches, in the order in which they come."""
    while count > 0:
        for batch in loader:
            # The state counts this batch as done, so it names the next place.
            yield loader.state_dict()["epoch"], loader.state_dict()["step"], digest(batch)
            if (count := count - 1) == 0:
                return


def opened(demo, *, seed=0, **making):
    root, boxes = demo
    making = Making(backend="fused", device="cpu", workers=1, say=print, **making)
    return open_views(boxes, root, policy=POLICY, batch_size=8, seed=seed, making=making)


@dataclass
class Seen:
    """What a training saw, and how long it waited."""

    places: list = field(default_factory=list)
    pauses: list = field(default_factory=list)


def endure(loader, count, faults):
    """`count` batches of the loader; `faults` maps numbers of batches to what happens before them."""
    seen, began = Seen(), time.monotonic()
    for number, place in enumerate(batches(loader, count)):
        seen.pauses.append(time.monotonic() - began)
        seen.places.append(place)
        if number in faults:
            print(f"before batch {number + 1}:", faults[number]())
        began = time.monotonic()
    return seen


def helpers_of(ray, crew):
    """Process ids of the helpers that answer within a second, by name."""
    from augment.service.cluster import talk

    asked = {name: talk(handle.report) for name, (_, handle) in crew._helpers.items()}
    ray.wait(list(asked.values()), num_returns=len(asked), timeout=1)
    found = {}
    for name, reference in asked.items():
        try:
            found[name] = ray.get(reference, timeout=0)["pid"]
        except ray.exceptions.RayError:
            continue
    return found


def kill(pid):
    os.kill(pid, signal.SIGKILL)
    return f"SIGKILL of helper {pid}"


def stop(pid, threads):
    """SIGSTOP now, SIGCONT `STOPPED` seconds later."""
    import threading

    os.kill(pid, signal.SIGSTOP)
    timer = threading.Timer(STOPPED, lambda: os.path.exists(f"/proc/{pid}") and os.kill(pid, signal.SIGCONT))
    timer.start()
    threads.append(timer)
    return f"SIGSTOP of helper {pid}"


def wait_for(what, seconds=90):
    """Until `what()` is true."""
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until, "it did not come about in time"
        time.sleep(0.05)
