"""The extent of a mask as COCO writes it: polygons, or lengths of runs down the columns, plain or as text."""

from itertools import accumulate
from typing import Any

from precompute.datasets.rows import four_numbers

Edges = tuple[float, float, float, float]


def extent_of(segmentation: Any) -> tuple[Edges, tuple[int, int] | None] | str | None:
    """The box x0, y0, x1, y1 of a segmentation, and the size (width, height) it is of where it says one.

    None where there is none; a string says why one makes no sense.
    """
    if not segmentation:
        return None
    try:
        if isinstance(segmentation, dict):
            return _of_runs(segmentation)
        points = [float(value) for polygon in segmentation for value in polygon]
        edges = min(points[::2]), min(points[1::2]), max(points[::2]), max(points[1::2])
        if four_numbers(edges) is None or any(len(polygon) % 2 for polygon in segmentation):
            raise ValueError("not pairs of numbers")
        return edges, None
    except (ValueError, TypeError, KeyError, IndexError, OverflowError) as error:
        return f"its segmentation makes no sense ({type(error).__name__}: {str(error)[:100]})"


def _of_runs(segmentation: dict[str, Any]) -> tuple[Edges, tuple[int, int]] | None:
    """Runs of 0 and 1 in turn, from 0 on, down one column after the other."""
    height, width = (int(side) for side in segmentation["size"])
    counts = segmentation["counts"]
    runs = _unpacked(counts) if isinstance(counts, str) else [int(count) for count in counts]
    ends = list(accumulate(runs))
    if min(height, width) < 1 or min(runs, default=0) < 0 or (ends and ends[-1] != height * width):
        raise ValueError(f"runs of {ends[-1] if ends else 0} pixels for {width}x{height}")
    spans = [(end - run, end - 1) for end, run in zip(ends[1::2], runs[1::2], strict=True) if run]
    if not spans:
        return None
    columns = [place // height for span in spans for place in span]
    # A run that goes on in the next column reaches the foot of one and the head of another.
    whole = any(first // height != last // height for first, last in spans)
    tops, feet = (min(first % height for first, _ in spans), max(last % height for _, last in spans))
    top, foot = (0, height - 1) if whole else (tops, feet)
    return (min(columns), top, max(columns) + 1, foot + 1), (width, height)


def _unpacked(text: str) -> list[int]:
    """The runs of COCO's text: five bits a character, the lowest first, from the fourth on less the last but one."""
    runs: list[int] = []
    value = shift = 0
    for character in text.encode("ascii"):
        bits = character - 48
        if not 0 <= bits < 64:
            raise ValueError(f"{chr(character)!r} in the text of runs")
        value |= (bits & 31) << shift
        shift += 5
        if shift > 60:
            raise ValueError("a run longer than any picture")
        if not bits & 32:
            value -= 1 << shift if bits & 16 else 0
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    if shift:
        raise ValueError("the text of runs is cut")
    return runs
