"""The protocols' rates, crops and labels: what a classifier is trained and tested on."""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook
from trainer_runs import assert_equal

from augment import Policy, eval_images, open_views
from augment.request import Making
from precompute.base.errors import UserError
from trainer import evaluate
from trainer.engine.data import open_data
from trainer.evaluation import bench as benches
from trainer.evaluation import protocols, run_report
from trainer.evaluation.bench import Bench
from trainer.evaluation.knn import knn_accuracy
from trainer.model.encoders import maps, pooled
from trainer.model.resnets import build_encoder


def quiet(line: str) -> None:
    """Nothing is said in tests."""


@pytest.fixture(scope="module")
def bench(demo_boxes: Path, demo_root: Path) -> Bench:
    """Forty-eight training images: three steps an epoch."""
    data = open_data(None, str(demo_boxes), str(demo_root), quiet)
    return Bench(data, "train", "test", size=32, batch=16, making=Making("kornia", "cpu", workers=1, on_bad="fail"))


@pytest.fixture(scope="module")
def partly(bench: Bench) -> Bench:
    """The same, with every third image unlabelled."""
    labels = bench.data.cache.labels.copy()
    labels[::3] = -1
    return relabelled(bench, labels)


def relabelled(bench: Bench, labels: np.ndarray) -> Bench:
    return replace(bench, data=replace(bench.data, cache=replace(bench.data.cache, labels=labels)))


@pytest.fixture
def rates() -> Iterator[list[float]]:
    """The learning rate of every step that any optimizer makes."""
    found: list[float] = []
    handle = register_optimizer_step_pre_hook(lambda optimizer, *_: found.append(optimizer.param_groups[0]["lr"]))
    yield found
    handle.remove()


def test_the_linear_protocols_rate_falls_to_a_tenth_twice(bench: Bench, rates: list[float]) -> None:
    """At 60 % and 80 % of the steps, not of the epochs; per 256 images."""
    protocols.linear(build_encoder("resnet10w4"), bench, quiet, epochs=4, lr=8.0)
    shares = [1.0] * 8 + [0.1] * 2 + [0.01] * 2  # 7.2 and 9.6 of 12 steps
    assert rates == pytest.approx([8.0 * 16 / 256 * share for share in shares])


def test_finetunings_rate_is_a_cosine_over_the_steps(bench: Bench, rates: list[float]) -> None:
    protocols.finetune(build_encoder("resnet10w4"), bench, quiet, epochs=2, lr=0.5)
    assert rates == pytest.approx([0.5 * (1 + math.cos(math.pi * i / 6)) / 2 for i in range(6)])


def test_a_linear_classifier_does_not_depend_on_the_features_length(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are scaled by the training images' rms; the encoder stays what it was."""
    encoder, losses = build_encoder("resnet10w4"), []
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    for length in (1.0, 50.0):
        said: list[str] = []
        torch.manual_seed(0)
        monkeypatch.setattr(protocols, "pooled", lambda net, images, by=length: by * pooled(net, images))
        protocols.linear(encoder.train(), bench, said.append, epochs=2)
        losses.append([float(line.split()[-1]) for line in said])
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    assert len(losses[0]) == 2
    assert_equal(dict(encoder.state_dict()), before)


@pytest.mark.parametrize(("protocol", "least"), [(protocols.linear, 0.08), (protocols.finetune, 0.5)])
def test_classifiers_train_on_random_crops_and_flips_alone(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, protocol: Callable[..., Any], least: float
) -> None:
    """MoCo's crops of 8 % and more, the paper's of half and more; no colour, no blur."""
    opened: list[tuple[Any, Any]] = []
    monkeypatch.setattr(benches, "open_views", lambda *a, **k: opened.append((a, k)) or open_views(*a, **k))
    protocol(build_encoder("resnet10w4"), bench, quiet, epochs=1, lr=0.01)
    ((arguments, options),) = opened
    cache, shares, flips = bench.data.cache, [], []
    with open_views(*arguments, **options) as loader:
        for _ in range(4):
            for batch in loader:
                assert set(batch.sources.tolist()) <= set(cache.indices("train").tolist())
                x0, y0, x1, y1 = batch.plan.patch[:, 0].T.astype(float)
                rows = batch.sources.numpy()
                shares += ((x1 - x0) * (y1 - y0) / (cache.widths[rows] * cache.heights[rows])).tolist()
                flips += batch.plan.flip[:, 0].tolist()
                assert not batch.plan.jittered.any()
                assert not batch.plan.gray.any()
                assert not batch.plan.sigma.any()
    assert least - 0.02 < min(shares) < least + 0.06
    assert max(shares) > 0.9
    assert 0.3 < np.mean(flips) < 0.7


def test_classes_are_tested_on_centre_crops_and_boxes_on_whole_images(bench: Bench) -> None:
    encoder = build_encoder("resnet10w4").eval()
    found = protocols.features(encoder, bench, "test")[0], protocols._cells(encoder, bench, "test", crops=False)[0]
    for crop, of, z in zip(("center", "whole"), (pooled, maps), found, strict=True):
        images = eval_images(bench.data.cache, bench.data.root, size=32, batch_size=16, crop=crop)
        with torch.no_grad():
            expected = torch.cat([of(encoder, x) for x, _ in images])
        torch.testing.assert_close(z, expected)


def test_a_finetuned_net_is_tested_with_its_running_statistics(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """An image's class does not depend on the images beside it."""
    kept: list[tuple[bool, str]] = []
    real = protocols.features
    monkeypatch.setattr(
        protocols, "features", lambda net, bench, split: kept.append((net.training, split)) or real(net, bench, split)
    )
    protocols.finetune(build_encoder("resnet10w4").eval(), bench, quiet, epochs=1)
    assert kept == [(False, "test")]


def test_images_without_a_label_take_no_part(bench: Bench, partly: Bench) -> None:
    encoder = build_encoder("resnet10w4").eval()
    parts = []
    for split in ("train", "test"):
        z, labels = protocols.features(encoder, bench, split)
        known = torch.from_numpy(partly.data.cache.labels[bench.data.cache.indices(split)] >= 0)
        assert 0 < known.sum() < len(known)
        parts.append((z[known], labels[known]))
        assert_equal(list(protocols.features(encoder, partly, split)), list(parts[-1]))
    (bank, labels), (queries, truth) = parts
    m = bank.mean(0)
    accuracy = knn_accuracy(queries - m, truth, bank - m, labels, 20)
    found = protocols.knn(encoder, partly)
    assert (found["accuracy"], found["images"]) == (accuracy, len(truth))
    assert partly.majority() == pytest.approx((truth.bincount().max() / len(truth)).item())
    for protocol in (protocols.linear, protocols.finetune):
        said: list[str] = []
        assert protocol(encoder, partly, said.append, epochs=1, lr=0.01)["images"] == len(truth)
        assert "cross-entropy" in said[0]


def test_labels_are_needed_in_both_splits(bench: Bench, partly: Bench) -> None:
    cache = bench.data.cache
    assert bench.has_labels()
    assert partly.has_labels()
    for split in ("train", "test"):
        labels = cache.labels.copy()
        labels[cache.indices(split)] = -1
        assert not relabelled(bench, labels).has_labels()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_features_that_are_no_numbers_make_no_figure(bench: Bench, value: float) -> None:
    """A single channel of them is enough."""
    encoder = build_encoder("resnet10w4").eval()
    with torch.no_grad():
        encoder.layer4[-1].bn2.bias[0] = value  # type: ignore[union-attr,index]
    linear = partial(protocols.linear, say=quiet, epochs=1)
    for protocol in (protocols.knn, protocols.localise, linear):
        with pytest.raises(UserError, match="features are not all finite"):
            protocol(encoder, bench)


def test_a_runs_accuracy_is_printed_beside_an_untrained_nets_and_chance(bench: Bench) -> None:
    said: list[str] = []
    encoder, other = build_encoder("resnet10w4"), build_encoder("resnet10w4")
    found = run_report._knn(encoder, other, bench, said.append)
    assert found is not None
    before = protocols.knn(other, bench)
    about = {"untrained": before["accuracy"], "untrained_class_auc": before["class_auc"], "majority": bench.majority()}
    assert found == protocols.knn(encoder, bench) | about
    assert before["accuracy"] != bench.majority()
    assert said == [
        f"kNN (k=20, 48 held-out images): {found['accuracy']:.3f}; the same net untrained {before['accuracy']:.3f}; "
        f"the most frequent class {bench.majority():.3f}",
        f"same-class retrieval AUC: {found['class_auc']:.3f}; untrained {before['class_auc']:.3f}",
    ]


def test_batches_without_any_label_stop_no_training(bench: Bench) -> None:
    labels = np.full_like(bench.data.cache.labels, -1)
    for split in ("train", "test"):
        labels[bench.data.cache.indices(split)[:3]] = 0
    few = replace(relabelled(bench, labels), batch=4)
    for protocol in (protocols.linear, protocols.finetune):
        found = protocol(build_encoder("resnet10w4"), few, quiet, epochs=1, lr=0.01)
        assert found["images"] == 3


def test_a_large_split_is_sampled_over_all_its_classes(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether files lie sorted by class, or one of each class in turn."""
    for labels in (torch.arange(48_000) // 240, torch.arange(48_000) % 200):
        assert len(set(labels[benches.some(48_000)].tolist())) == 200
    assert benches.some(2000).tolist() == list(range(2000))
    monkeypatch.setattr(benches, "MOST_IMAGES", 12)
    assert len(bench.rows("test")) == 48
    sample, of = bench.sampled(), benches.some(48)
    assert sample.rows("test").tolist() == bench.rows("test")[of].tolist()
    assert (sample.rows("test").diff() > 0).all()
    encoder = build_encoder("resnet10w4").eval()
    assert len(protocols._cells(encoder, sample, "test", crops=False)[0]) == 12
    assert protocols.localise(encoder, bench)["probe"]["images"] <= 12
    bank, queries = (protocols.features(encoder, bench, split) for split in ("train", "test"))
    mean = bank[0].mean(0)
    expected = protocols.class_auc(queries[0][of] - mean, queries[1][of], bank[0] - mean, bank[1])
    assert protocols.knn(encoder, bench)["class_auc"] == pytest.approx(expected)
    monkeypatch.setattr(run_report, "MOST_IMAGES", 12)
    said: list[str] = []
    run_report._knn(encoder, encoder, bench, said.append)
    assert said[1].startswith("same-class retrieval AUC (of 12 of them): ")


def test_a_left_out_picture_is_in_no_view(bench: Bench) -> None:
    """Another one would stand in for a file that went bad, and count twice."""
    gone = [bench.data.cache.path(row) for row in bench.rows("test").tolist()[3:5]]
    known = replace(bench, left_out=dict.fromkeys(gone, "damaged")).sampled()
    assert len(known.rows("test")) == 46
    views = known.every_view("test", Policy(size=32), seed=0)
    seen = [bench.data.cache.path(row) for batch in views for row in batch.sources.tolist()]
    assert len(seen) == len(set(seen)) == 46
    assert not set(seen) & set(gone)


def test_a_protocol_is_the_same_after_another_one(bench: Bench, capsys: pytest.CaptureFixture) -> None:
    config = evaluate.EvaluateConfig(finetune_epochs=2, finetune_lr=0.05, linear_epochs=1, seed=5)
    encoder, said = build_encoder("resnet10w4"), []
    for name in ("finetune", "linear", "finetune"):
        evaluate._measure(name, encoder, bench, config)
        said.append(capsys.readouterr().out)
    assert "cross-entropy" in said[0]
    assert said[0] == said[2]
