"""The same views by plain DALI operators, as its documentation teaches them: a peer, not a backend.

Every sample decodes its source and the background of each view, as a Dataset's item does (`augment.backends.dali`: each
image once a batch). Colours are DALI's `color_twist` (contrast about half of the range, hue in YIQ); the blur has one
window for all samples. No other code lives here, for import hooks break pipelines.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from nvidia.dali import fn, pipeline_def
from nvidia.dali import types as dali_types

from augment.views.plan import BRIGHTNESS, CONTRAST, HUE, SATURATION, Plan
from augment.views.policy import Policy, blur_radius
from benchmarks.ways import Way

types: Any = dali_types  # its members are made at run time


@pipeline_def
def graph(*, device: str, views: int, size: int, window: int, mean: list[float], std: list[float]) -> Any:
    """`views` outputs [3, size, size] a sample."""

    def decoded(name: str) -> Any:
        encoded = fn.external_source(name=name, dtype=types.UINT8, ndim=1)
        return fn.decoders.image(encoded, device="mixed" if device == "gpu" else "cpu", output_type=types.RGB)

    def given(name: str, kind: Any, ndim: int) -> Any:
        return fn.external_source(name=name, dtype=kind, ndim=ndim)

    source = decoded("source")
    outputs = []
    for v in range(views):
        roi = {"start": given(f"start{v}", types.INT32, 1), "end": given(f"end{v}", types.INT32, 1)}
        patch: Any = fn.resize(fn.slice(source, **roi, axes=[0, 1]), size=given(f"extent{v}", types.FLOAT, 1))
        scene: Any = fn.resize(decoded(f"background{v}"), size=[size, size])
        places = {"out_anchors": given(f"anchors{v}", types.INT32, 2), "shapes": given(f"shapes{v}", types.INT32, 2)}
        if device == "gpu":  # where `multi_paste` takes all inputs to be as wide as the first
            patch = fn.pad(patch, axes=[1], shape=[size])
        view = fn.multi_paste(scene, patch, **places, output_size=[size, size])
        twist = given(f"twist{v}", types.FLOAT, 1)
        view = fn.color_twist(
            view, brightness=twist[0], contrast=twist[1], saturation=twist[2], hue=twist[3], device=device
        )
        view = fn.gaussian_blur(view, sigma=given(f"sigma{v}", types.FLOAT, 0), window_size=window)
        mirror = given(f"flip{v}", types.INT32, 0)
        outputs.append(fn.crop_mirror_normalize(view, mirror=mirror, mean=mean, std=std, output_layout="CHW"))
    return tuple(outputs)


class PlainDali(Way):
    """The pipeline, built for the first batch."""

    _pipe: Any = None

    def views(self, policy: Policy, plan: Plan, images: Sequence[bytes]) -> tuple[torch.Tensor, ...]:
        """See `Way.views`."""
        if self._pipe is None:
            self._pipe = self._build(len(plan), policy)
        encoded = [np.frombuffer(data, np.uint8) for data in images]
        self._pipe.feed_input("source", [encoded[s] for s in plan.source_slot])
        for v in range(plan.views):
            self._pipe.feed_input(f"background{v}", [encoded[s] for s in plan.background_slot[:, v]])
            for name, value in _arguments(plan, v).items():
                self._pipe.feed_input(f"{name}{v}", np.ascontiguousarray(value))
        outputs = self._pipe.run()
        # Its next run writes to the same memory.
        return tuple(torch.from_dlpack(out.as_tensor()).clone() for out in outputs)

    def _build(self, batch: int, policy: Policy) -> Any:
        device = "gpu" if self.device == "cuda" else "cpu"
        running: dict[str, Any] = {"batch_size": batch, "num_threads": torch.get_num_threads(), "device": device}
        window = 2 * blur_radius(policy.blur_sigma[1]) + 1
        norm = {"mean": [255 * x for x in policy.mean], "std": [255 * x for x in policy.std]}
        running |= {"device_id": 0 if device == "gpu" else None, "prefetch_queue_depth": 1}
        pipe = graph(**running, views=policy.views, size=policy.size, window=window, **norm)
        pipe.build()
        return pipe


def _arguments(plan: Plan, v: int) -> dict[str, np.ndarray]:
    """Inputs of one view besides the files; y before x, as in DALI. A blur of sigma 0.01 changes nothing."""
    rects, patch, jitter = plan.rects[:, v], plan.patch[:, v], plan.jitter[:, v]
    shape = np.maximum(rects[:, [3, 2]] - rects[:, [1, 0]], 1)
    whole = np.full_like(shape, plan.size)
    saturation = np.where(plan.gray[:, v], 0, jitter[:, SATURATION])
    twist = jitter[:, BRIGHTNESS], jitter[:, CONTRAST], saturation, 360 * jitter[:, HUE]
    return {
        "start": patch[:, [1, 0]],
        "end": patch[:, [3, 2]],
        "extent": shape.astype(np.float32),
        "anchors": np.stack((np.zeros_like(shape), rects[:, [1, 0]]), axis=1),
        "shapes": np.stack((whole, shape), axis=1),
        "twist": np.stack(twist, axis=1).astype(np.float32),
        "sigma": np.maximum(plan.sigma[:, v], 0.01),
        "flip": plan.flip[:, v].astype(np.int32),
    }
