"""The DALI graph for CUDA without a GPU: traced, held to the operators' schemas, and its pasting run by DALI's rule."""

import itertools
import re
from typing import Any

import numpy as np
import pytest
import torch
from test_augment_backends import birds, plan_of  # noqa: F401 - a fixture

from augment.request import Making
from augment.views.kinds import KINDS
from augment.views.policy import SCENES, Policy

pytest.importorskip("nvidia.dali")
from nvidia.dali import backend

from augment.backends import dali, dali_graph
from augment.backends.decoding import Decoding

POLICIES = [Policy(name=name, scene=scene) for name, scene in itertools.product(KINDS, SCENES)]
POLICIES += [Policy(mode="paste", views=3), Policy(own=0.5), Policy(size=100)]
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def traced(policy: Policy, dtype: torch.dtype, region: bool = False) -> list[Any]:
    """The operators of the graph for CUDA."""
    chosen = Decoding(load=0.8, width=640, height=480, fancy=False, region=region)
    graph = dali.build_graph(policy, dtype, dali.pipeline_settings(torch.device("cuda", 0), 8, 2, chosen))
    graph._build_graph()  # DALI's own; it lists the operators that the outputs need, nothing more
    return graph._ops


def faults(ops: list[Any]) -> list[str]:
    """What DALI would refuse when the graph is built on a GPU, and what would wait for the GPU: all but the means.

    A view's mean, three numbers, goes to the host, where arguments of operators must lie.
    """
    registered = {
        "cpu": set(backend.RegisteredCPUOps(True)),
        "gpu": set(backend.RegisteredGPUOps(True)),
        "mixed": set(backend.RegisteredMixedOps(True)),
    }
    found: list[str] = []
    made: dict[str, tuple[str, str]] = {}  # output: who made it, and where it lies
    for op in ops:
        spec = op.spec
        name = re.match(r"OpSpec for (\w+):", str(spec))[1]  # type: ignore[index]
        device = re.search(r"\n    device: (\w+)\n", str(spec))[1]  # type: ignore[index]
        schema = backend.GetSchema(name)
        schema.CheckArgs(spec)  # raises for an argument that is unknown, or missing
        if name not in registered[device]:
            found.append(f"{name} does not exist for {device}")
        regular, inputs = spec.NumRegularInput(), range(spec.NumInput())
        if not schema.MinNumInput() <= regular <= schema.MaxNumInput():
            found.append(f"{name} takes {schema.MinNumInput()} to {schema.MaxNumInput()} inputs, not {regular}")
        devices = [spec.InputDevice(i) for i in inputs]
        found += [f"{name}: argument input {i} lies on the GPU" for i in inputs[regular:] if devices[i] != "cpu"]
        for i in inputs[:regular]:
            # A "mixed" operator takes its inputs from the host.
            wanted = "cpu" if device == "mixed" else schema.GetInputDevice(i, devices[i], device)
            if wanted not in (None, devices[i]):
                found.append(f"{name} ({device}): input {i} lies on {devices[i]}")
            if device == "gpu" and devices[i] == "cpu" and name not in ("MakeContiguous", "_conditional__Split"):
                found.append(f"{name} ({device}): input {i} must be copied to the GPU")
        for i in inputs:
            maker, where = made.get(spec.InputName(i), (None, None))
            if maker is None:
                found.append(f"{name}: nothing makes {spec.InputName(i)}")
            elif where == "gpu" and devices[i] == "cpu" and maker != "reductions__Mean":
                found.append(f"{name}: waits for {maker} on the GPU")
        made |= {spec.OutputName(i): (name, spec.OutputDevice(i)) for i in range(spec.NumOutput())}
    return found


@pytest.mark.parametrize("policy", POLICIES, ids=str)
def test_the_graph_fits_the_operators_schemas(policy: Policy) -> None:
    for dtype in DTYPES:
        ops = traced(policy, dtype)
        assert faults(ops) == []
        kind = "FLOAT16" if dtype == torch.float16 else "FLOAT"
        last = [str(op.spec) for op in ops if "OpSpec for CropMirrorNormalize" in str(op.spec)]
        assert len(last) == policy.views
        assert all(f"\n    dtype: {int(getattr(dali_graph.types, kind))}\n" in text for text in last)
    names = {op.name for op in ops}
    assert set(dali_graph.inputs(**dali.graph_of(policy))) <= names
    assert policy.kind.maps == any(name.startswith("alpha") for name in names)
    assert sum("Pad" in name for name in names) == policy.views * policy.kind.pastes  # see the pasting's rule below


@pytest.mark.parametrize("policy", [Policy(), Policy(name="rrc"), Policy(scene="crop")], ids=str)
def test_the_graph_that_decodes_parts_fits_too(policy: Policy) -> None:
    ops = traced(policy, torch.float32, region=True)
    assert faults(ops) == []
    specs = [str(op.spec) for op in ops]
    assert sum("OpSpec for decoders__ImageSlice" in spec for spec in specs) == 1
    assert not any("OpSpec for decoders__Image:" in spec for spec in specs)
    assert {"read_from", "read_to"} <= {op.name for op in ops}


@pytest.mark.parametrize("policy", [*POLICIES[:-1], Policy(own=0.5, scene="crop")], ids=str)
def test_parts_give_the_views_of_the_whole_picture(birds, policy: Policy) -> None:  # noqa: F811
    policy = policy.replace(size=64, blur_sigma=(0.1, 1.0))
    plan = plan_of(policy, birds, 12, start=10)
    parts = dali.within_parts(plan, not policy.kind.pastes)[1]
    sides = np.stack((birds.pool.widths, birds.pool.heights), axis=1)[plan.images]
    assert (parts[:, 2:] <= sides).all()
    assert ((parts[:, 2:] - parts[:, :2]).prod(axis=1) < 0.9 * sides.prod(axis=1)).any()
    files = [birds.read(row) for row in plan.images.tolist()]
    views = []
    for region in (False, True):
        backend = dali.DaliBackend(
            policy, Making(device="cpu", workers=2).settled(), len(plan), Decoding(region=region)
        )
        views.append([view.clone() for view in backend.render(plan, files)])
        backend.close()
    assert all(torch.equal(a, b) for a, b in zip(*views, strict=True))


def test_a_broken_graph_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    fn = dali_graph.fn
    whole = dali_graph.blur

    def on_cpu(view: Any, sigma: Any, window: Any) -> Any:
        return fn.gaussian_blur(view.cpu(), sigma=sigma, window_size=window, device="cpu").gpu()

    def no_such_argument(view: Any, sigma: Any, window: Any) -> Any:
        return fn.gaussian_blur(view, sigma=sigma, windows=window)

    def argument_on_gpu(view: Any, sigma: Any, window: Any) -> Any:
        return fn.gaussian_blur(view, sigma=fn.reductions.mean(view), window_size=window)

    monkeypatch.setattr(dali_graph, "blur", on_cpu)
    found = faults(traced(Policy(), torch.float32))
    assert len(found) == 2  # one a view
    assert all("waits for" in fault for fault in found)
    monkeypatch.setattr(dali_graph, "blur", no_such_argument)
    with pytest.raises(KeyError, match="windows"):
        faults(traced(Policy(), torch.float32))
    monkeypatch.setattr(dali_graph, "blur", argument_on_gpu)
    with pytest.raises((TypeError, ValueError, RuntimeError), match=r"(?i)argument|cpu"):
        faults(traced(Policy(), torch.float32))
    monkeypatch.setattr(dali_graph, "blur", whole)
    assert faults(traced(Policy(), torch.float32)[1:])  # an input is gone


def pasted_on_cuda(anchors: np.ndarray, shapes: np.ndarray, sides: np.ndarray, size: int) -> np.ndarray:
    """Which input each pixel of the view is read from, and where, by the rule of DALI's multi_paste on CUDA.

    The rule: the edges of all regions cut the view into a grid. Down the rows, then along each, regions open at the
    grid line where they begin and close at the one where they end; a cell shows the last one that is open. On CUDA a
    region that begins where it ends opens and does not close (it closes before it opens).

    anchors, shapes [k, 2]: y, x in the view; sides [k, 2]: height, width of the inputs, of which all are read with the
    width of the first. Returns [size, size, 3]: input (-1: none), and the number of the pixel from the input's start as
    row, column. IndexError where an edge lies beyond the view's and is met.
    """
    ends = anchors + shapes
    lines = [sorted({0, size, *anchors[:, axis].tolist(), *ends[:, axis].tolist()}) for axis in (0, 1)]
    out = np.full((size, size, 3), -1, np.int64)
    active: list[tuple[int, int, int]] = []  # (input, its first column, its last one's end) that are met at this row
    for top, bottom in itertools.pairwise(lines[0]):
        active += [(i, anchors[i, 1], ends[i, 1]) for i in range(len(anchors)) if anchors[i, 0] == top]
        opened: set[int] = set()
        for left, right in itertools.pairwise(lines[1]):
            opened |= {i for i, start, _ in active if start == left}
            if opened and top < size and left < size:
                shown = max(opened)
                y, x = np.mgrid[top : min(bottom, size), left : min(right, size)]
                flat = (y - anchors[shown, 0]) * sides[0, 1] + x - anchors[shown, 1]
                rows, columns = np.divmod(flat, sides[shown, 1])
                cell = np.stack((np.full_like(rows, shown), rows, columns), axis=-1)
                out[top : min(bottom, size), left : min(right, size)] = cell
            opened -= {i for i, _, end in active if end == right}
        active = [entry for entry in active if ends[entry[0], 0] != bottom]
    return out


@pytest.mark.parametrize("policy", [p for p in POLICIES if p.kind.pastes and p.size == 224], ids=str)
def test_pasting_on_cuda_shows_the_right_pixels(birds, policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    """The project's anchors, shapes and padding, through DALI's rule: each pixel is the one that the plan asks for."""
    policy = policy.replace(size=64, blur_sigma=(0.1, 1.0))
    plan = plan_of(policy, birds, 24, start=10)
    slots = np.arange(len(plan.images))
    given = dali.arguments(plan, slots, False, policy.scene == "whole")
    wide = []
    monkeypatch.setattr(dali_graph.fn, "pad", lambda patch, axes, shape: wide.append((axes, shape)))
    dali_graph.as_wide(None, policy.size, "gpu")
    assert wide == [([1], [policy.size])]  # so patches have rows as wide as the view
    for v, k in itertools.product(range(policy.views), range(len(plan))):
        x0, y0, x1, y1 = plan.rects[k, v]
        sides = np.array([[policy.size] * 2, [max(y1 - y0, 1), policy.size]])
        got = pasted_on_cuda(given[f"anchor{v}"][k], given[f"shape{v}"][k], sides, policy.size)
        right = np.zeros_like(got)
        right[..., 1], right[..., 2] = np.mgrid[: policy.size, : policy.size]
        inside = right[y0:y1, x0:x1]
        inside[..., 0] = 1
        inside[..., 1:] -= (y0, x0)
        assert np.array_equal(got, right), (v, k)


def test_the_rule_tells_what_the_anchors_and_the_padding_are_for() -> None:
    """An empty region at the corner shows pixels beyond its input; rows of another width show others."""
    anchors, shapes = np.array([[0, 0], [0, 0]]), np.array([[8, 8], [0, 0]])
    sides = np.array([[8, 8], [1, 8]])
    assert (pasted_on_cuda(anchors, shapes, sides, 8)[..., 0] == 1).any()
    anchors[1] = 8
    assert (pasted_on_cuda(anchors, shapes, sides, 8)[..., 0] == 0).all()
    anchors, shapes = np.array([[0, 0], [2, 2]]), np.array([[8, 8], [4, 4]])
    rows = pasted_on_cuda(anchors, shapes, np.array([[8, 8], [4, 4]]), 8)[2:6, 2:6, 1]
    assert (rows == [[0] * 4, [2] * 4, [4] * 4, [6] * 4]).all()
