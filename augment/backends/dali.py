"""DALI makes everything, decoding included: the graph of `augment.backends.dali_graph` fed with a plan."""

import importlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from augment.backends.dali_runs import Runs
from augment.backends.decoding import USUAL, Decoding
from augment.backends.protocol import Backend
from augment.request import Making
from augment.views import colour
from augment.views.plan import Plan
from augment.views.policy import Policy, blur_radius

LEAST_SIGMA = 0.25  # below it a blur moves no pixel by more than 0.35 of 255 levels: exp(-1/2σ²) · 4 neighbours


class Fed:
    """Pipelines of one graph that take files; they are built for the first run and, after a failure, again."""

    def __init__(self, device: torch.device, workers: int, batch: int, decoding: Decoding = USUAL) -> None:
        """`batch`: the number of samples that pipelines are built for; larger runs build larger pipelines."""
        self.device, self.workers, self.batch, self.decoding = device, workers, batch, decoding
        self._runs = Runs(device, self._build)

    def begin(self, key: Any, files: Sequence[bytes], /, *more: Any) -> None:
        """Starts a run whose results are taken later with the same key, where that can overlap with other work.

        `more`: what else `_inputs` takes.
        """
        if self._runs.ahead:
            self._runs.begin(key, *self._inputs(key, files, *more))

    def _finish(self, key: Any, files: Sequence[bytes], *more: Any) -> Any:
        if not self._runs.begun(key):
            self._runs.begin(key, *self._inputs(key, files, *more))
        return self._runs.finish(key)

    def reset(self) -> None:
        """Frees the pipelines' threads and memory; after an error they are unusable. The next run builds new ones."""
        self._runs.drop()

    close = reset

    def _build(self, rows: int) -> tuple[Any, int]:
        rows = max(rows, self.batch)
        pipe = self._graph(rows)
        pipe.build()
        return pipe, rows

    def _inputs(self, key: Any, files: Sequence[bytes], /, *more: Any) -> tuple[int, dict[str, Any]]:
        """The number of samples and the graph's inputs."""
        raise NotImplementedError

    def _graph(self, rows: int) -> Any:
        raise NotImplementedError


class DaliBackend(Fed, Backend):
    """The views of a policy; a run's key is its plan."""

    name, buffers = "dali", True

    def __init__(self, policy: Policy, making: Making, batch: int, decoding: Decoding = USUAL) -> None:
        # Batches that are no multiple of the group need some images more than they have sources.
        super().__init__(torch.device(making.device), making.workers or 1, batch + 2 * policy.group, decoding)
        self.policy, self.dtype = policy, making.dtype

    def render(self, plan: Plan, files: Sequence[bytes], /) -> tuple[Tensor, ...]:
        """See `augment.backends.protocol.Backend`."""
        # HWC as it stands, seen as CHW, is channels-last: on the CPU nothing is copied (float16 and float32).
        outputs = self._finish(plan, files)
        views = [torch.from_dlpack(out.as_tensor())[: len(plan)].permute(0, 3, 1, 2) for out in outputs]
        cuda = self.device.type == "cuda"
        made = tuple(view.to(self.dtype, memory_format=torch.channels_last, copy=cuda) for view in views)
        self._runs.keep(views)
        return made

    def _inputs(self, plan: Plan, files: Sequence[bytes], /, *more: Any) -> tuple[int, dict[str, Any]]:
        from augment.backends.dali_graph import inputs

        # Sample j of the pipeline decodes one image. The first len(plan) samples also carry row j of the plan, whose
        # source they decode.
        backgrounds = np.setdiff1d(np.arange(len(plan.images)), plan.source_slot)
        slots = np.concatenate((plan.source_slot, backgrounds))
        graph, rows, read = graph_of(self.policy), len(slots), {}
        region = self.decoding.region
        if region:
            plan, parts = within_parts(plan, graph["covered"])
            read = _roi("read", parts[slots])
        values = arguments(plan, slots, graph["covered"], graph["shared_scene"]) | read
        table = inputs(**graph, region=region)
        fed: dict[str, Any] = {name: filled(value, rows, table[name][2]) for name, value in values.items()}
        fed["encoded"] = listed([files[slot] for slot in slots.tolist()])
        if graph["soft"]:
            fed |= {f"alpha{v}": _alphas(plan, v, rows) for v in range(plan.views)}
        return rows, fed

    def _graph(self, rows: int) -> Any:
        settings = pipeline_settings(self.device, rows, self.workers, self.decoding)
        return build_graph(self.policy, self.dtype, settings)


class Decoder(Fed):
    """Encoded files to uint8 [H, W, 3] tensors on the device, without a copy.

    With `regions` of each file only a part is decoded: `begin` and `listed` then take the parts too, int32 [n, 4], x0,
    y0, x1, y1 in pixels of the upright image.
    """

    regions = False

    def decode(self, files: Sequence[bytes], key: object = None) -> list[Tensor]:
        """The decoded files. Raises RuntimeError where one cannot be decoded; after `close` the next call starts anew.

        Give the pictures to `keep` when the last kernel that reads them is in torch's current stream.
        """
        return [torch.from_dlpack(picture) for picture in self.listed(files, key)]

    def listed(self, files: Sequence[bytes], key: object = None, *parts: np.ndarray) -> Any:
        """The decoded files as DALI's list, see `decode`: a tensor of each would cost the host several times as much.

        The list is the memory's only holder.
        """
        return self._finish(key, files, *parts)[0]

    def keep(self, pictures: Any) -> None:
        """Holds the pictures, or their list, until what is in torch's current stream now is done."""
        self._runs.keep(pictures)

    def _inputs(self, key: object, files: Sequence[bytes], /, *parts: np.ndarray) -> tuple[int, dict[str, Any]]:
        read = _roi("read", *parts) if parts else {}
        return len(files), {"encoded": listed(files)} | {name: np.ascontiguousarray(x) for name, x in read.items()}

    def _graph(self, rows: int) -> Any:
        from augment.backends.dali_graph import decode_graph

        settings = pipeline_settings(self.device, rows, self.workers, replace(self.decoding, region=self.regions))
        return decode_graph(**settings)  # type: ignore[call-arg]


def listed(files: Sequence[bytes]) -> Any:
    """DALI's list of the files' bytes, which it keeps alive and does not copy.

    Of a list of arrays `feed_input` would look at each in Python: a third of the host's time for a run.
    """
    tensors: Any = importlib.import_module("nvidia.dali.tensors")
    return tensors.TensorListCPU(list(map(tensors.TensorCPU, files)), contiguous=False)


def graph_of(policy: Policy) -> dict[str, Any]:
    """What the graph depends on besides device and dtype: see `augment.backends.dali_graph.views_graph`."""
    return {
        "size": policy.size,
        "views": policy.views,
        "covered": not policy.kind.pastes,
        "shared_scene": policy.scene == "whole",
        "soft": policy.kind.maps,
    }


def build_graph(policy: Policy, dtype: torch.dtype, settings: dict[str, Any]) -> Any:
    """The traced pipeline, not built: tracing works on a machine without a GPU, building does not.

    `settings`: `pipeline_settings`.
    """
    from augment.backends.dali_graph import types, views_graph

    return views_graph(
        **settings,
        **graph_of(policy),
        mean=[255 * x for x in policy.mean],
        std=[255 * x for x in policy.std],
        dtype=types.FLOAT16 if dtype == torch.float16 else types.FLOAT,
    )


def pipeline_settings(device: torch.device, rows: int, workers: int, decoding: Decoding = USUAL) -> dict[str, Any]:
    """Of both graphs' pipelines. On CUDA two of them take turns, so each has some of the workers only."""
    cuda = device.type == "cuda"
    hardware = {
        "hw_decoder_load": decoding.load,
        "preallocate_width_hint": decoding.width,
        "preallocate_height_hint": decoding.height,
    }
    return {
        "batch_size": rows,
        "num_threads": min(workers, decoding.threads) if cuda else workers,
        "device_id": (device.index or 0) if cuda else None,
        "prefetch_queue_depth": 1,  # see `Runs`
        "exec_dynamic": True,  # outputs are never overwritten by later runs
        "device": "gpu" if cuda else "cpu",
        "hardware": hardware if cuda else {},
        "fancy": decoding.fancy,
        "region": decoding.region,
    }


def arguments(plan: Plan, slots: np.ndarray, covered: bool, shared: bool) -> dict[str, np.ndarray]:
    """The inputs of the graph besides files and alpha, [rows, ...] each: see `augment.backends.dali_graph.inputs`.

    `slots`: the plan's image that each sample of the pipeline decodes. Shared scenes have a row for every sample, the
    other inputs a row for every source.
    """
    sample_of = np.empty(len(plan.images), np.int32)
    sample_of[slots[::-1]] = np.arange(len(slots), dtype=np.int32)[::-1]  # the first one that decodes it
    out: dict[str, np.ndarray] = {}
    if shared and not covered:
        out |= _scenes(plan, slots)
    for v in range(plan.views):
        rects = plan.rects[:, v]
        shape = np.maximum(rects[:, [3, 2]] - rects[:, [1, 0]], 0)
        out |= _roi(f"patch{v}", plan.patch[:, v]) | {f"extent{v}": np.maximum(shape, 1).astype(np.float32)}
        if not covered:
            whole = np.full_like(shape, plan.size)
            empty = shape.min(axis=1) == 0
            # Where nothing is pasted the anchor lies beyond the view. On CUDA DALI never closes an empty region inside
            # of it, and would read the pixels after it (from 0, 0: the whole view) beyond the patch's end.
            corner = np.where(empty[:, None], plan.size, rects[:, [1, 0]])
            out[f"background{v}"] = sample_of[plan.background_slot[:, v]]
            out[f"anchor{v}"] = np.stack((np.zeros_like(corner), corner), axis=1)
            out[f"shape{v}"] = np.stack((whole, np.where(empty[:, None], 0, shape)), axis=1)
            if not shared:
                out |= _roi(f"scene{v}", plan.scene[:, v])
        out[f"matrix{v}"], out[f"offset{v}"] = colour.collapse(plan.jitter[:, v], plan.gray[:, v])
        out[f"coloured{v}"] = (plan.jittered[:, v] | plan.gray[:, v]).astype(np.int32)
        sigma = np.where(plan.sigma[:, v] < LEAST_SIGMA, np.float32(0), plan.sigma[:, v])
        out[f"sigma{v}"] = sigma
        out[f"window{v}"] = np.array([2 * blur_radius(s) + 1 for s in sigma], np.int32)
        out[f"flip{v}"] = plan.flip[:, v].astype(np.int32)
    return {name: np.ascontiguousarray(value) for name, value in out.items()}


def within_parts(plan: Plan, covered: bool) -> tuple[Plan, np.ndarray]:
    """The plan with its ROIs counted from the parts of the images that they read, and those parts.

    Parts: int32 [M, 4], x0, y0, x1, y1 of each of the plan's images; one pixel where nothing is read of it.
    """
    count = len(plan.images)
    low, high = np.full((count, 2), np.iinfo(np.int32).max, np.int32), np.zeros((count, 2), np.int32)
    source_slot = np.repeat(plan.source_slot[:, None], plan.views, axis=1)
    reads = [(source_slot, plan.patch)] + ([] if covered else [(plan.background_slot, plan.scene)])
    for slot, roi in reads:
        np.minimum.at(low, slot, roi[..., :2])
        np.maximum.at(high, slot, roi[..., 2:])
    low = np.where(high > 0, low, 0)
    corner = np.tile(low, 2)
    local = replace(plan, patch=plan.patch - corner[source_slot], scene=plan.scene - corner[plan.background_slot])
    return local, np.concatenate((low, np.maximum(high, 1)), axis=1)


def filled(value: np.ndarray, rows: int, filler: int) -> np.ndarray:
    """`value` with further rows of `filler`, `rows` in all."""
    return np.concatenate((value, np.full((rows - len(value), *value.shape[1:]), filler, value.dtype)))


def _alphas(plan: Plan, v: int, rows: int) -> list[np.ndarray]:
    """View v's alpha of every source, uint8 [size, size, 1] in the plan's memory, and one pixel for the other rows."""
    whole = np.full((1, 1, 1), 255, np.uint8)
    alphas = [whole] * len(plan) if plan.alpha is None else list(plan.alpha[:, v, :, :, None])
    return alphas + [whole] * (rows - len(plan))


def _roi(name: str, roi: np.ndarray) -> dict[str, np.ndarray]:
    """ROIs x0, y0, x1, y1 as DALI's start and end, y before x."""
    return {f"{name}_from": roi[:, [1, 0]], f"{name}_to": roi[:, [3, 2]]}


def _scenes(plan: Plan, slots: np.ndarray) -> dict[str, np.ndarray]:
    """The scene of every sample; one pixel for images that no view has as its background."""
    count = len(plan.images)
    roi = np.tile(np.array((0, 0, 1, 1), np.int32), (count, 1))
    side = np.ones((count, 2), np.float32)
    used = plan.background_slot.reshape(-1)
    roi[used], side[used] = plan.scene.reshape(-1, 4), plan.size
    return _roi("scene", roi[slots]) | {"scene_size": side[slots]}
