"""Cells that find their points again: the measure against loops, what it says of nets that know, and its picture."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from trainer_photos import PhotoBatch

from precompute.base.sheet import GREEN, RED, Tile, contact_sheet
from trainer.engine.data import open_data
from trainer.engine.diagnostics import matched
from trainer.evaluation.bench import Bench
from trainer.evaluation.matching import matching
from trainer.evaluation.protocols import class_auc
from trainer.methods.base import Part
from trainer.model.matched import most_similar, own_beats_rolled, share_matched
from trainer.model.networks import Heads, build_model


def test_the_most_similar_cell_is_found_as_by_a_loop() -> None:
    query, key = torch.randn(2, 2, 5, 3, 4, dtype=torch.float64)
    found = most_similar(query, key)
    middle = [x.mean((0, 2, 3)) for x in (query, key)]
    for i in range(2):
        for y in range(3):
            for x in range(4):
                q = query[i, :, y, x] - middle[0]
                scores = {
                    (u + 0.5, v + 0.5): float(torch.cosine_similarity(q, key[i, :, v, u] - middle[1], dim=0))
                    for u in range(4) for v in range(3)
                }  # fmt: skip
                assert tuple(found[i, y, x].tolist()) == max(scores, key=scores.__getitem__)


def test_a_share_is_of_the_cells_that_both_views_show() -> None:
    points = torch.tensor([[[[0.5, 0.5], [2.0, 0.5]]], [[[0.5, 0.5], [9.0, 9.0]]]])  # two images of 1 × 2 cells
    same = torch.tensor([[[True, True]], [[False, False]]])
    found = torch.tensor([[[[0.5, 1.4], [0.5, 0.5]]], [[[0.5, 0.5], [9.0, 9.0]]]])
    first, second = share_matched(found, points, same).tolist()
    assert first == 0.5
    assert math.isnan(second)


def test_own_keys_beat_others_on_the_object_alone() -> None:
    masks = torch.tensor([[[1.0, 0.0]], [[1.0, 0.0]], [[1.0, 0.0]], [[0.0, 0.4]]])
    own = torch.tensor([[[0.9, 0.0]], [[0.1, 1.0]], [[0.5, 1.0]], [[1.0, 1.0]]])
    rolled = torch.tensor([[[0.2, 1.0]], [[0.2, 0.0]], [[0.5, 0.0]], [[0.0, 0.0]]])
    *known, unknown = own_beats_rolled(own, rolled, masks).tolist()
    assert known == [1.0, 0.0, 0.5]
    assert math.isnan(unknown)


def test_a_log_lines_figure_is_one_for_keys_that_hold_their_place(photos: PhotoBatch) -> None:
    """Stage-4 maps are replaced by what the cells show: the place within the box."""
    network = build_model("resnet10w8", Heads(dim=16, hidden=32, stages=()))
    match = photos.match(0, 8)
    across = torch.arange(8) + 0.5
    own = torch.stack(torch.meshgrid(across, across, indexing="xy"), -1).expand_as(match.points)

    def code(at: Tensor) -> Tensor:
        waves = [torch.cos(w * at[..., a] + s) for w in (0.2, 0.5) for a in (0, 1) for s in (0, 1.57)]
        return torch.stack(waves, 1)

    online, keys = network(photos.views[0]), network(photos.views[1])
    online.z[4], keys.z[4] = code(match.points), code(own)
    part = Part(torch.zeros(()), {}, online, keys)
    assert matched(part, *match) > 0.95
    keys.z[4] = torch.randn(8, 8, 8, 8)
    assert matched(part, *match) < 0.3


def test_class_auc_equals_counting_pairs() -> None:
    queries, bank = torch.randn(7, 4), torch.randn(11, 4)
    truth, labels = torch.arange(7) % 4, torch.arange(11) % 3  # class 3 has no picture in the bank
    aucs = []
    for q, of in zip(queries, truth, strict=True):
        like = torch.cosine_similarity(q[None], bank)
        pairs = [(a > b).float().item() for a in like[labels == of] for b in like[labels != of]]
        aucs += [sum(pairs) / len(pairs)] if pairs else []
    assert class_auc(queries, truth, bank, labels) == pytest.approx(sum(aucs) / len(aucs), abs=1e-6)


class Colours(nn.Module):
    """An encoder whose cells are mean colours, on a grid of an eighth of the side."""

    def forward(self, images: Tensor) -> Tensor:
        return nn.functional.avg_pool2d(images, 8)


@pytest.fixture(scope="module")
def report(demo_boxes: Path, demo_root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, list[str], Path]:
    """What is said of a net that knows colours beside one that knows nothing."""
    from trainer.model import encoders

    path, said = tmp_path_factory.mktemp("matches") / "matches.png", []
    bench = Bench(open_data(None, str(demo_boxes), str(demo_root), said.append), "train", "test", size=64, batch=16)
    blind = Colours()
    patch = pytest.MonkeyPatch()
    patch.setattr(
        "trainer.evaluation.matching.maps",
        lambda net, images: net(images) if net is not blind else torch.zeros(len(images), 3, 8, 8),
    )
    assert encoders.maps is not None
    found = matching(Colours(), blind, bench, 1, path, said.append)  # type: ignore[arg-type]
    patch.undo()
    assert found is not None
    return found, said, path


def test_a_report_has_the_matched_cells_beside_what_knows_less(report) -> None:
    found, said, _ = report
    assert found["pairs"] == 48
    share = {name: of["share"] for name, of in found.items() if isinstance(of, dict)}
    assert set(share) == {
        "matched", "untrained", "wrong cells", "same place", "same place in rectangle", "random cell",
        "random cell of the object",
    }  # fmt: skip
    assert share["matched"] > share["random cell"] + 0.05
    assert 0.02 < share["random cell"] < 0.08  # three of 64 cells, fewer at the edges
    assert share["random cell"] < share["random cell of the object"] < share["same place in rectangle"]
    assert 0 < found["matched"]["standard_error"] < 0.1
    assert f"{share['matched']:.3f}" in said[-4]
    assert f"random cell {share['random cell']:.3f}" in said[-3]


def test_the_picture_joins_points_of_two_views(report) -> None:
    *_, path = report
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB")).reshape(-1, 3).tolist()
    assert list(GREEN) in pixels
    assert list(RED) in pixels


def test_a_line_is_drawn_from_end_to_end() -> None:
    black = np.zeros((50, 100, 3), np.uint8)
    tile = Tile(black, lines=[((0.1, 0.2, 0.9, 0.8), GREEN)])
    drawn = np.asarray(contact_sheet([[tile]], height=100))[4:104]
    y, x = np.nonzero((drawn == GREEN).all(-1))
    left = (drawn.shape[1] - 200) // 2
    assert (x.min() - left, y.min()) == pytest.approx((20, 20), abs=4)
    assert (x.max() - left, y.max()) == pytest.approx((180, 80), abs=4)
    assert len(set(x.tolist())) > 150
