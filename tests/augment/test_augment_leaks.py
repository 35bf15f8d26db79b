"""Nothing grows: memory, descriptors and threads over a thousand batches and a hundred loaders."""

import gc
import os
import threading

import pytest
from loading import open_with

from augment import Policy

TINY = Policy(size=32, blur_sigma=(0.1, 1.0), group=8)


def resources() -> tuple[int, int, int]:
    """Resident MiB, open descriptors, threads."""
    gc.collect()
    with open("/proc/self/statm") as file:
        resident = int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 20
    return resident, len(os.listdir("/proc/self/fd")), threading.active_count()


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["fused", "eager", "kornia", "dali"])
def test_a_thousand_batches(demo, backend):
    if backend == "dali":
        pytest.importorskip("nvidia.dali")
    root, boxes = demo
    with open_with(boxes, root, policy=TINY, batch_size=8, split=None, backend=backend, device="cpu") as loader:
        seen, after = 0, {}
        while seen < 1000:
            for batch in loader:
                seen += 1
                assert len(batch) == 8
                if seen in (100, 1000):
                    after[seen] = resources()
    grown = [b - a for a, b in zip(after[100], after[1000], strict=True)]
    assert grown[0] < 30, f"{grown[0]} MiB more after 1000 batches than after 100"
    assert grown[1] <= 8, "descriptors"  # files that are being read at this moment come and go
    assert grown[2] == 0, "threads"


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["fused", "eager", "kornia", "dali"])
def test_a_hundred_loaders(demo, backend):
    if backend == "dali":
        pytest.importorskip("nvidia.dali")
    root, boxes = demo
    after = {}
    for i in range(100):
        with open_with(
            boxes, root, policy=TINY, batch_size=8, backend=backend, device="cpu", say=lambda _: None
        ) as loader:
            next(iter(loader))
        if i in (20, 99):
            after[i] = resources()
    grown = [b - a for a, b in zip(after[20], after[99], strict=True)]
    assert grown[0] < 60, f"{grown[0]} MiB more after 100 loaders than after 20"
    assert grown[1] <= 0, "descriptors"
    assert grown[2] <= 0, "threads"
