"""InsLoc, LooC*, Rot-Pred, Rel-Loc: what each is made of, against plain loops; and what each can learn."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from trainer_photos import PhotoBatch

from trainer.engine.cost import step_flops
from trainer.methods.base import Method
from trainer.methods.instloc import InstLoc
from trainer.methods.looc import LooC, rotated
from trainer.methods.pretext import RelLoc, RotPred, patches
from trainer.methods.registry import METHODS
from trainer.model.networks import Heads, PairHead, build_model
from trainer.model.resnets import feature_maps

DIM = 16


def network(dim: int = DIM, predictor: str = "none"):
    return build_model("resnet10w8", Heads(dim=dim, hidden=32, stages=(), predictor=predictor)).double()


def one_loss(method: Method, photos: PhotoBatch) -> Tensor:
    views = [view.double() for view in photos.views]
    (part,) = method.parts(views, [{4: photos.masks(v, 8).double()} for v in range(2)])
    return part.loss


def nce(query: Tensor, positive: Tensor, negatives: list[Tensor], temperature: float) -> float:
    """InfoNCE of one query, summed by hand."""
    like = lambda x: torch.exp(F.cosine_similarity(query, x, dim=0) / temperature).item()  # noqa: E731
    return -math.log(like(positive) / (like(positive) + sum(map(like, negatives))))


def test_instloc_pools_where_the_instance_lies(photos: PhotoBatch) -> None:
    method = InstLoc(network(), queue=24).double()
    loss = one_loss(method, photos)
    embedded = []
    for net, v in ((method.online, 0), (method.target, 1)):
        assert net is not None
        z, mask = feature_maps(net.encoder, photos.views[v].double())[4], photos.masks(v, 8).double()
        rows = [
            sum(mask[i, y, x] * z[i, :, y, x] for y in range(8) for x in range(8)) / mask[i].sum()
            for i in range(len(z))
        ]
        embedded.append(net.projector(torch.stack(rows)))
    queue = torch.randn(24, DIM, generator=torch.Generator().manual_seed(0))
    each = [nce(q, k, [*queue.double()], 0.2) for q, k in zip(*embedded, strict=True)]
    assert loss.item() == pytest.approx(sum(each) / len(each), rel=1e-5)


def test_looc_is_two_contrasts_with_the_left_out_rotation(photos: PhotoBatch) -> None:
    method = LooC(network(2 * DIM), queue=24).double()
    state = torch.get_rng_state()
    queue = method.queue.clone()
    loss = one_loss(method, photos)
    torch.set_rng_state(state)
    turns = torch.randint(4, (8,))
    others = (turns + torch.randint(1, 4, (8,))) % 4
    assert (turns != others).all()
    assert method.target is not None
    q = method.online(rotated(photos.views[0].double(), turns)).projection
    same, turned = (method.target(rotated(photos.views[1].double(), t)).projection for t in (turns, others))
    each = []
    for i in range(8):
        each.append(nce(q[i, :DIM], turned[i, :DIM], [*queue[:, :DIM]], 0.2))
        each.append(nce(q[i, DIM:], same[i, DIM:], [turned[i, DIM:], *queue[:, DIM:]], 0.2))
    assert loss.item() == pytest.approx(sum(each) / len(each), rel=1e-5)
    torch.testing.assert_close(method.queue[:8], F.normalize(same, dim=1).to(method.queue), rtol=1e-5, atol=1e-6)


def test_rotated_turns_each_view_by_its_own(photos: PhotoBatch) -> None:
    turns = torch.tensor([0, 1, 2, 3, 3, 2, 1, 0])
    for view, turn, out in zip(photos.views[0], turns.tolist(), rotated(photos.views[0], turns), strict=True):
        torch.testing.assert_close(out, torch.rot90(view, turn, (1, 2)), rtol=0, atol=0)


def test_patches_lie_where_their_number_says() -> None:
    """Pixels hold their own place: a patch lies in its cell and is a plain cut."""
    side = torch.arange(48.0)
    view = torch.stack([side[:, None].expand(48, 48), side.expand(48, 48), torch.zeros(48, 48)])[None]
    cut = patches(view)
    assert cut.shape == (9, 3, 12, 12)
    for patch, (row, column) in zip(cut, [(1, 1), (0, 0), (0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1), (2, 2)],
                                    strict=True):  # fmt: skip
        assert 16 * row <= patch[0].min()
        assert patch[0].max() < 16 * (row + 1)
        assert 16 * column <= patch[1].min()
        assert patch[1].max() < 16 * (column + 1)
        torch.testing.assert_close(patch[0, 1:] - patch[0, :-1], torch.ones(11, 12))


def test_pair_head_pairs_the_middle_with_each_neighbour() -> None:
    head = PairHead(4, 8).eval()
    p = torch.randn(9 * 3, 4)
    out = head(p)
    assert out.shape == (24, 8)
    for neighbour in range(8):
        for i in range(3):
            expected = head.mlp(torch.cat([p[i], p[3 * (neighbour + 1) + i]])[None])[0]
            torch.testing.assert_close(out[3 * neighbour + i], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("kind", "chance"), [(RotPred, 4), (RelLoc, 8)])
def test_a_pretext_task_begins_at_chance_and_is_learned(kind: type, chance: int, photos: PhotoBatch) -> None:
    method = kind(network(4, "none") if kind is RotPred else network(DIM, "pairs"))
    optimizer = torch.optim.SGD(method.online.parameters(), lr=0.1, momentum=0.9)
    losses = []
    for _ in range(15):
        torch.manual_seed(0)  # the same cuts
        loss = one_loss(method, photos)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(math.log(chance), abs=0.6)
    assert losses[-1] < 0.7 * losses[0]


def test_arithmetic_is_counted_as_each_method_sees() -> None:
    """In forwards of one view: byol 3 · 2 + 2, mocov2 3 + 1, looc 3 + 2, rotpred 3 · 4."""
    flops = {
        name: step_flops(METHODS[name].build(network(predictor=METHODS[name].predictor), queue=8), 32)
        for name in ("byol", "mocov2", "looc", "rotpred")
    }
    one = flops["mocov2"] / 4
    assert flops["looc"] == pytest.approx(5 * one)
    assert flops["rotpred"] == pytest.approx(12 * one)
    assert flops["byol"] == pytest.approx(8 * one, rel=0.01)  # and the predictor


def test_copy_paste_is_trained_with_soft_masks(demo_boxes, demo_root, tmp_path):
    """--policy copy-paste --maps DIR, from the command line to a loss; without its maps it is a usage error."""
    from PIL import Image

    from precompute.base.boxfile import BoxCache
    from precompute.base.errors import UsageError
    from trainer.record import metrics
    from trainer.run import program

    maps, out = tmp_path / "maps", tmp_path / "run"
    cache = BoxCache.open(demo_boxes)
    for i in range(len(cache)):  # the box, softly
        ramp = Image.new("L", (32, 32), 20)
        x0, y0, x1, y1 = (round(32 * float(v)) for v in cache.boxes[i])
        ramp.paste(220, (x0, y0, max(x1, x0 + 1), max(y1, y0 + 1)))
        path = (maps / cache.path(i)).with_suffix(".png")
        path.parent.mkdir(parents=True, exist_ok=True)
        ramp.save(path)
    flags = ["--boxes", str(demo_boxes), "--root", str(demo_root), "--arch", "resnet10w8", "--size", "32",
             "--batch-size", "16", "--epochs", "1", "--device", "cpu", "--out", str(out)]  # fmt: skip
    assert program([*flags, "--policy", "copy-paste", "--maps", str(maps)]) == 0
    steps = [row for row in metrics.read(out / metrics.NAME) if row["kind"] == "step"]
    assert steps[-1]["alignment"] > 0
    with pytest.raises(UsageError, match="--maps None: must be a folder of saliency maps for the policy copy-paste"):
        program([*flags, "--policy", "copy-paste"])
