"""Figures of an evaluation against slow and plain computations, and what they must not see or change."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from trainer_runs import TINY, assert_equal

from augment.request import Making
from trainer.engine.data import open_data
from trainer.evaluation import protocols, run_report
from trainer.evaluation.bench import Bench
from trainer.evaluation.knn import knn_accuracy, knn_predict
from trainer.evaluation.localise import (
    box_masks,
    box_overlaps,
    centre_prior,
    figures,
    fit_probe,
    max_box_accuracy,
    off_centre,
    off_centre_windows,
    probe_maps,
)
from trainer.model.resnets import build_encoder
from trainer.record import checkpoint
from trainer.run import program


@pytest.fixture(scope="module")
def bench(demo_boxes: Path, demo_root: Path) -> Bench:
    data = open_data(None, str(demo_boxes), str(demo_root), lambda line: None)
    return Bench(data, "train", "test", size=32, batch=16, making=Making("kornia", "cpu", workers=1, on_bad="fail"))


def test_a_cell_that_the_box_only_grazes_is_no_hit() -> None:
    mask = torch.tensor([[[1.0, 0.2], [0.0, 0.0]]])
    assert figures(torch.tensor([[[0.1, 0.9], [0.0, 0.0]]]), mask).pointing == 0
    assert figures(torch.tensor([[[0.9, 0.1], [0.0, 0.0]]]), mask).pointing == 1


@pytest.mark.parametrize("shift", [5.0, -2.0])
def test_energy_does_not_depend_on_where_a_map_begins(shift: float) -> None:
    masks = box_masks(torch.tensor([[0.25, 0.25, 0.75, 0.75]]), 8)
    assert figures(3 * masks + shift, masks).energy == pytest.approx(1)


def test_the_centre_prior_falls_with_the_distance() -> None:
    at = (np.arange(6) + 0.5) / 6 - 0.5
    np.testing.assert_allclose(centre_prior(6), 1 - 2 * np.hypot(at[:, None], at[None]) ** 2, rtol=1e-6)


def test_the_probe_solves_ridge_regression() -> None:
    z, masks = torch.randn(5, 3, 4, 4) * 2 + 1, torch.rand(5, 4, 4)
    x = z.permute(0, 2, 3, 1).reshape(-1, 3).double().numpy()
    y = masks.flatten().double().numpy()
    s = (x - x.mean(0)) / x.std(0, ddof=1)
    w = np.linalg.solve(s.T @ s / len(s) + 0.01 * np.eye(3), s.T @ (y - y.mean()) / len(s)) / x.std(0, ddof=1)
    weight, bias = fit_probe(z, masks)
    np.testing.assert_allclose(weight, w, rtol=1e-5)
    assert bias.item() == pytest.approx(y.mean() - x.mean(0) @ w, rel=1e-5)


def test_off_centre_begins_at_fifteen_hundredths() -> None:
    middles = torch.tensor([[0.64, 0.5], [0.66, 0.5], [0.5, 0.34], [0.5, 0.36]])
    assert off_centre(torch.cat([middles - 0.1, middles + 0.1], 1)).tolist() == [False, True, True, False]


def test_the_threshold_is_one_for_all_pictures() -> None:
    """Each of these would be found at a threshold of its own, never both at one."""
    boxes = torch.tensor([[0.25, 0.25, 0.75, 0.75], [0.25, 0.25, 0.75, 0.75]])
    inside = box_masks(boxes[:1], 8)[0]
    ringed = 0.5 * torch.ones(8, 8) + 0.5 * inside
    ringed[0, 0] = 0
    spotted = 0.3 * inside
    spotted[3, 3] = 1
    assert max_box_accuracy(box_overlaps(ringed[None], boxes[:1]))["0.7"] == 1
    assert max_box_accuracy(box_overlaps(spotted[None], boxes[:1]))["0.7"] == 1
    assert max_box_accuracy(box_overlaps(torch.stack([ringed, spotted]), boxes))["0.7"] == 0.5


def test_maps_are_scaled_one_by_one() -> None:
    boxes = torch.tensor([[0.25, 0.25, 0.75, 0.75], [0.0, 0.5, 0.5, 1.0]])
    maps = box_masks(boxes, 8) * torch.tensor([1.0, 100.0])[:, None, None]
    assert max_box_accuracy(box_overlaps(maps, boxes)) == {"0.3": 1.0, "0.5": 1.0, "0.7": 1.0}


def test_forty_thresholds_are_tried() -> None:
    """A cone whose box is right within a narrow range of levels only."""
    at = (torch.arange(56) + 0.5) / 56 - 0.5
    cone = 1 - torch.maximum(at[:, None].abs(), at[None].abs()) * 2
    for half in (0.29, 0.11):  # at levels near 0.42 and 0.78, which lie between multiples of a quarter
        box = torch.tensor([[0.5 - half, 0.5 - half, 0.5 + half, 0.5 + half]])
        assert max_box_accuracy(box_overlaps(cone[None], box))["0.7"] == 1


def test_off_centre_windows_are_the_best_of_sixteen() -> None:
    boxes = torch.rand(30, 2).repeat(1, 2) * 0.6 + torch.tensor([0, 0, 0.35, 0.35])
    corners, _ = off_centre_windows(boxes, torch.arange(30), side=96, window=64)
    for row, (box, corner) in enumerate(zip((boxes.double() * 96).tolist(), corners.tolist(), strict=True)):
        best = None
        for x, y in np.random.Generator(np.random.Philox(key=row)).integers(0, 33, (16, 2)).tolist():
            x0, y0, x1, y1 = (min(max(v - c, 0), 64) for v, c in zip(box, (x, y, x, y), strict=True))
            kept = (x1 - x0) * (y1 - y0) / ((box[2] - box[0]) * (box[3] - box[1]))
            away = max(abs((x0 + x1) / 128 - 0.5), abs((y0 + y1) / 128 - 0.5))
            if kept >= 0.5 and (best is None or away > best[0]):
                best = away, [x, y]
        assert best is not None
        assert corner == best[1]
    alike, _ = off_centre_windows(boxes[:1].repeat(40, 1), torch.arange(40), side=96, window=64)
    assert len({tuple(c) for c in alike.tolist()}) > 16, "every row draws its own windows"


def test_knns_temperature_is_wus() -> None:
    bank, queries, labels = torch.randn(60, 8), torch.randn(20, 8), torch.randint(5, (60,))
    assert torch.equal(knn_predict(queries, bank, labels, 5, 20), knn_predict(queries, bank, labels, 5, 20, 0.1))


def test_knn_takes_off_the_mean(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    truth = torch.randint(3, (300,))
    z = 10 + 0.05 * (torch.randn(300, 16) + 2 * torch.eye(3, 16)[truth])  # all point the same way, nearly
    parts = {"train": (z[:200], truth[:200]), "test": (z[200:], truth[200:])}
    monkeypatch.setattr(protocols, "features", lambda encoder, bench, split: parts[split])
    m = z[:200].mean(0)
    found = protocols.knn(build_encoder("resnet10w4"), bench)["accuracy"]
    assert found == knn_accuracy(z[200:] - m, truth[200:], z[:200] - m, truth[:200], 20)
    assert found != knn_accuracy(*parts["test"], *parts["train"], 20)


def test_probes_are_fitted_on_training_images_alone(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    z, tested, masks, truth = torch.randn(9, 5, 4, 4), torch.randn(7, 5, 4, 4), torch.rand(9, 4, 4), torch.rand(7, 4, 4)
    boxes = torch.tensor([[0.1, 0.1, 0.6, 0.6]]).repeat(9, 1)
    cells = {"train": (z, masks, boxes), "test": (tested, truth, boxes[:7])}
    monkeypatch.setattr(protocols, "_cells", lambda encoder, bench, split, crops: cells[split])
    found = protocols._figures(build_encoder("resnet10w4"), bench, crops=False)
    for name, of in (("probe", masks), ("shuffled probe", masks.roll(1, 0))):
        assert found[name]["auc"] == figures(probe_maps(tested, fit_probe(z, of)), truth).auc


@pytest.mark.parametrize("crops", [False, True])
def test_boxes_belong_to_the_windows_that_are_shown(bench: Bench, monkeypatch: pytest.MonkeyPatch, crops: bool) -> None:
    """Pictures that are white inside their box: what the encoder sees of each is what its boxes say."""

    def painted(self: Bench, split: str, crop: str):
        rows = torch.arange(6)
        white = box_masks(torch.from_numpy(self.data.cache.boxes[:6]), self.size)
        yield white[:, None].repeat(1, 3, 1, 1), rows

    monkeypatch.setattr(Bench, "images", painted)
    monkeypatch.setattr(protocols, "maps", lambda encoder, images: images)
    z, masks, boxes = protocols._cells(build_encoder("resnet10w4"), bench, "test", crops)
    assert z.shape[-1] == bench.size
    assert ((z[:, 0] >= 0.5) == (masks >= 0.5)).float().mean() > 0.99
    assert (boxes[:, 2:] > boxes[:, :2]).all()


def test_finetuning_leaves_the_encoder_that_it_was_given(bench: Bench) -> None:
    encoder = build_encoder("resnet10w4").requires_grad_(False)
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    protocols.finetune(encoder, bench, lambda line: None, epochs=1, lr=0.1)
    assert_equal(dict(encoder.state_dict()), before)
    assert not any(p.requires_grad for p in encoder.parameters())


def test_the_correspondence_of_a_run_is_that_of_held_out_views(
    demo_boxes: Path, demo_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """C of view q against its own k; with rolled keys, and with rolled masks; nothing of the networks is altered."""
    kept = {}
    real = run_report._correspondence

    def recorded(state, bench):
        before = {k: v.clone() for k, v in state.method.state_dict().items()}
        found, extra, pictures = real(state, bench)
        assert_equal(dict(state.method.state_dict()), before)
        c, rolled, mask, sources = [], [], [], []
        for batch in run_report._views(state, bench, bench.test_split):
            online, keys = state.method.online(batch.q), state.method.target(batch.k)
            swapped = SimpleNamespace(maps={4: keys.maps[4].roll(1, 0)})
            c.append(state.method.alignment.correspondence(online, keys, 4))
            rolled.append(state.method.alignment.correspondence(online, swapped, 4))
            mask.append(batch.masks(0, c[-1].shape[-1]))
            sources += batch.sources.tolist()
        kept.update(c=torch.cat(c), rolled=torch.cat(rolled), mask=torch.cat(mask), sources=sources)
        return found, extra, pictures

    monkeypatch.setattr(run_report, "_correspondence", recorded)
    fitted, views = [], run_report._views
    monkeypatch.setattr(
        run_report, "_views", lambda state, bench, split: fitted.append(split) or views(state, bench, split)
    )
    flags = ["--boxes", str(demo_boxes), "--root", str(demo_root), *TINY, "--epochs", "1", "--pipeline", "kornia"]
    assert program([*flags, "--out", str(tmp_path / "run")]) == 0
    found = json.loads((tmp_path / "run" / "evaluation.json").read_text())["localisation"]
    data = open_data(None, str(demo_boxes), str(demo_root), lambda line: None)
    assert set(kept["sources"]) <= set(data.cache.indices("test").tolist())
    assert fitted[:2] == ["train", "test"], "the linear head is fitted on training views alone"
    c, rolled, mask = (kept[name] for name in ("c", "rolled", "mask"))
    for name, expected in (
        ("views: C map", figures(c, mask)),
        ("views: C map, another image's keys", figures(rolled, mask)),
        ("views: C map, another image's mask", figures(c, mask.roll(1, 0))),
    ):
        assert found[name]["auc"] == pytest.approx(expected.auc, abs=1e-6), name
        assert found[name]["images"] == expected.images
    change = found["views: C map, another image's keys"]["auc"] - found["views: C map"]["auc"]
    assert found["rolled_keys"]["change"] == pytest.approx(change, abs=1e-6)
    assert change != 0
    assert checkpoint.load(tmp_path / "run" / checkpoint.NAME)["step"] == 3
