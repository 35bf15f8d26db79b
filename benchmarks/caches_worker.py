"""A training of `benchmarks.caches`: reads loaders' settings on stdin, goes through their epochs, says what they cost.

It also runs in older checkouts of this project, so it imports nothing of them but `open_views`.
"""

import json
import sys
import time
from typing import Any


def opened(values: dict[str, Any]) -> Any:
    """The loader of these settings, by today's interface or an older checkout's."""
    import augment

    policy = {"size": values["size"], "scene": values["scene"]}
    boxes, root, batch, seed, cache = (values[name] for name in ("boxes", "root", "batch", "seed", "cache"))
    if hasattr(augment, "Making"):
        where = {} if values["folder"] is None else {"cache_dir": values["folder"]}
        making = augment.Making(backend="fused", device="cpu", workers=1, cache=cache, say=lambda line: None, **where)
        source = augment.Source(boxes, root, "all")
        return augment.open_views(source, policy=augment.Policy(**policy), batch_size=batch, seed=seed, making=making)
    old: Any = augment.open_views
    return old(
        boxes, root, policy=augment.Policy(**policy), batch_size=batch, split=None, backend="fused", device="cpu",
        workers=1, seed=seed, cache=cache, say=lambda line: None,
    )  # fmt: skip


def serve() -> None:
    """For each line of settings: opens, waits for a line, reads the epochs, prints CPU and clock seconds of each."""
    for line in sys.stdin:
        values = json.loads(line)
        with opened(values) as loader:
            print("open", flush=True)
            sys.stdin.readline()
            cpu, wall, decoded = [], [], []
            for _ in range(values["epochs"]):
                began = time.process_time(), time.perf_counter()
                for _ in loader:
                    pass
                cpu.append(time.process_time() - began[0])
                wall.append(time.perf_counter() - began[1])
                decoded.append(loader.report()["decoded"])
            print(json.dumps([cpu, wall, decoded]), flush=True)
            sys.stdin.readline()
        print("closed", flush=True)
