"""Does a cell find its point again in another view? Held-out pairs of views, beside guesses that know less.

A pair is two views of one picture, made as `trainer.run` makes them by default, whatever the run was trained on: so all
arms of a comparison are asked the same. Every figure is a mean over pairs of a share of the cells whose point on the
object both views show: the share whose most similar cell of the other view, by the encoder's last features, lies within
one cell of the truth (`trainer.model.matched`).

random cell               any cell of the other view: chance
random cell of the object any whose middle lies in the other view's rectangle
same place                the cell at the same place of the view
same place in rectangle   the cell at the same place of the object's rectangle; flips are not undone
wrong cells               the matched cell, compared with the true point of another cell of the object: what a map
                          that only tells the object from its background would reach
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from augment import Batch
from precompute.base.sheet import GREEN, RED, YELLOW, Tile, contact_sheet, save
from trainer.config.run import RunConfig
from trainer.evaluation.bench import Bench
from trainer.evaluation.localise import mean_and_error
from trainer.evaluation.pictures import SHOWN, as_pictures
from trainer.methods.base import Match, match_of
from trainer.methods.dense import wrong_cells
from trainer.model.encoders import Encoder, maps
from trainer.model.matched import middles, most_similar, share_matched
from trainer.record.figures import matching_lines

LINES = 8  # of a pair in the picture


class Pair(NamedTuple):
    """Two views of a held-out picture [2, 3, S, S], their rectangles, and cells with where they were found and are."""

    views: Tensor
    rects: list[list[int]]
    cells: Tensor  # [L, 2] x, y in shares of the view, as all that follow
    truth: Tensor  # [L, 2] in the other view
    found: list[Tensor]  # of each encoder
    grid: int  # cells along a side


@torch.no_grad()
def matching(
    encoder: Encoder, untrained: Encoder, bench: Bench, seed: int, path: Path, say: Callable[[str], None]
) -> dict[str, Any] | None:
    """The figures of the encoder and of an untrained one as JSON values; prints them and draws some pairs.

    None where the held-out split has fewer than two pictures, of which no pair of views can be made, or where the map
    is a single cell.
    """
    bench = bench.sampled()
    if len(bench.rows(bench.test_split)) < 2:
        say("matched cells: left out, a pair of views needs another picture as background")
        return None
    encoder.eval()
    untrained.eval()
    shares: dict[str, list[Tensor]] = {}
    cells, shown = [], []
    for batch in bench.every_view(bench.test_split, RunConfig.of(size=bench.size).views, seed):
        found = []
        for net in (untrained, encoder):
            # Of two views after each other: a batch has another mean than its halves.
            q, k = (maps(net, view).float() for view in batch.views[:2])
            found.append(most_similar(q, k))
        if found[0].shape[1] == 1:
            say("matched cells: left out, the encoder's map is a single cell")
            return None
        match = match_of(batch, 0, found[0].shape[1])
        for name, places, truth in _ways(batch, match, found):
            shares.setdefault(name, []).append(share_matched(places, truth.points, truth.same))
        cells.append(match.same.flatten(1).sum(1).float())
        shown += _chosen(batch, match, found, SHOWN - len(shown))
    result: dict[str, Any] = {}
    for name, values in shares.items():
        share, error, _ = mean_and_error(torch.cat(values))
        result[name] = {"share": share, "standard_error": error}
    result |= {"pairs": len(torch.cat(cells)), "cells": torch.cat(cells).mean().item()}
    for line in matching_lines(result):
        say(line)
    if shown:
        draw_pairs(shown, path)
        say(f"matched points: {path}")
    return result


def _ways(batch: Batch, match: Match, found: list[Tensor]) -> Iterator[tuple[str, Tensor, Match]]:
    """Every way to find a cell again: its name, the places [N, H, W, 2] where it finds them, and the truth for it."""
    grid = found[0].shape[1]
    own = middles((grid, grid), match.points.device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        wrong = wrong_cells(match)
    yield "matched", found[1], match
    yield "untrained", found[0], match
    yield "wrong cells", found[1], wrong
    q, k = (batch.rects[:, v, None, None] * (grid / batch.size) for v in (0, 1))
    place = (own - q[..., :2]) / (q[..., 2:] - q[..., :2])
    yield "same place", own.expand_as(match.points), match
    yield "same place in rectangle", k[..., :2] + place * (k[..., 2:] - k[..., :2]), match
    yield from _chances(match, own, k)


def _chances(match: Match, own: Tensor, k: Tensor) -> Iterator[tuple[str, Tensor, Match]]:
    """Cells drawn at random, from all of the other view and from its rectangle."""
    n, grid = len(match.points), own.shape[0]
    random = torch.Generator().manual_seed(0)
    weight = ((own >= k[..., :2]) & (own < k[..., 2:])).all(-1).flatten(1).float()
    weight = torch.where(weight.sum(1, keepdim=True) > 0, weight, torch.ones_like(weight))
    for name, of in (("random cell", torch.ones_like(weight)), ("random cell of the object", weight)):
        drawn = torch.multinomial(of.cpu(), grid * grid, replacement=True, generator=random).to(own.device)
        yield name, own.flatten(0, 1)[drawn].view(n, grid, grid, 2), match


def _chosen(batch: Batch, match: Match, found: list[Tensor], count: int) -> list[Pair]:
    """The first `count` pairs with enough cells that both views show, a few cells of each."""
    grid, out = match.points.shape[1], []
    own = middles((grid, grid)).flatten(0, 1)
    for i in range(len(batch)):
        seen = match.same[i].flatten().cpu().nonzero()[:, 0]
        if len(out) < count and len(seen) >= LINES:
            few = seen[torch.linspace(0, len(seen) - 1, LINES).round().long()]
            places = [x[i].flatten(0, 1).cpu()[few] / grid for x in (match.points, *found)]
            views = torch.stack([view[i].float().cpu() for view in batch.views[:2]])
            out.append(Pair(views, batch.rects[i, :2].tolist(), own[few] / grid, places[0], places[1:], grid))
    return out


def draw_pairs(pairs: list[Pair], path: Path) -> None:
    """Writes the PNG: each pair of views twice, its cells joined to where the untrained and the trained net find them.

    Green: within a cell of the truth; red: elsewhere. The frame is the object's rectangle.
    """
    rows = []
    for pair in pairs:
        q, k = as_pictures(pair.views)
        both = torch.from_numpy(q), torch.from_numpy(k)
        pixels, size = torch.cat(both, 1).numpy(), len(q)
        half = lambda x, right: (x + right) / 2  # noqa: E731 - the views stand side by side
        frames = [
            ((half(r[0] / size, v), r[1] / size, half(r[2] / size, v), r[3] / size), YELLOW)
            for v, r in enumerate(pair.rects)
        ]
        row = []
        for name, places in zip(("untrained", "trained"), pair.found, strict=True):
            good = ((places - pair.truth) * pair.grid).norm(dim=1) <= 1
            lines = [
                ((half(a[0], 0), a[1], half(b[0], 1), b[1]), GREEN if right else RED)
                for a, b, right in zip(pair.cells.tolist(), places.tolist(), good.tolist(), strict=True)
            ]
            row.append(Tile(pixels, f"{name}: {int(good.sum())} of {len(lines)} points found", frames, lines=lines))
        rows.append(row)
    lines = [[tile for row in rows[i : i + 2] for tile in row] for i in range(0, len(rows), 2)]  # two pairs a line
    save(contact_sheet(lines, height=144), path)
