"""Views of the small demo set by a loader, to be held against another's."""

import torch

from augment import Policy, open_views

SMALL = Policy(size=32, blur_sigma=(0.1, 1.0), group=4)


def views_of(demo, **options):
    """All batches of two epochs: {(epoch, source): (views, rects, backgrounds)}."""
    root, boxes = demo
    options = {"policy": SMALL, "batch_size": 8, "backend": "kornia", "device": "cpu", "drop_last": False} | options
    out = {}
    with open_views(boxes, root, say=lambda _: None, **options) as loader:
        for epoch in range(2):
            for batch in loader:
                collect(out, epoch, batch)
    return out


def collect(out, epoch, batch):
    for i, source in enumerate(batch.sources.tolist()):
        assert (epoch, source) not in out
        out[epoch, source] = (torch.stack([v[i] for v in batch.views]), batch.rects[i], batch.backgrounds[i])


def assert_equal(a, b):
    assert a.keys() == b.keys()
    for key in a:
        for x, y in zip(a[key], b[key], strict=True):
            assert torch.equal(x, y), key
