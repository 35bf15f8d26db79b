"""Opening loaders by keywords, and all views of one, to compare with another's."""

from dataclasses import fields

import torch

from augment import Making, Policy, Share, Source, open_views

SMALL = Policy(size=32, blur_sigma=(0.1, 1.0), group=4)


def open_with(boxes, root=None, **options):
    """`open_views` with the fields of its records as keywords: policy, batch_size, seed, and those of the records."""
    records = {"source": Source, "making": Making, "share": Share}
    kinds = {field.name: name for name, record in records.items() for field in fields(record)}
    given = {name: {} for name in records} | {"source": {"boxes": boxes, "root": root}}
    for name in kinds.keys() & options.keys():
        given[kinds[name]][name] = options.pop(name)
    return open_views(**{name: record(**given[name]) for name, record in records.items()}, **options)


def views_of(demo, **options):
    """All batches of two epochs: {(epoch, source): (views, rects, backgrounds)}."""
    root, boxes = demo
    options = {"policy": SMALL, "batch_size": 8, "backend": "kornia", "device": "cpu", "drop_last": False} | options
    out = {}
    with open_with(boxes, root, say=lambda _: None, **options) as loader:
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
