"""The DALI graph: one function for CPU and CUDA. No other code lives here, for import hooks break pipelines.

Per sample of a batch: one encoded image and, for every view, where its background is in the batch, ROIs, rectangle and
colours, all from the plan. Each image is decoded once, and a view is made at its own size only:

    scene of the background → view size   ┐
    patch of the source → its rectangle   ┴→ multi_paste → (blend →) colour → blur → flip, normalise

Linear colour, y = M·x + K·mean(x), is one operator: `coord_transform` takes the last axis of HWC as the vector.
ROIs are cut out before `resize`; with an ROI of its own it would read beyond it (up to 12 levels along the edge).
"""

from typing import Any

from nvidia.dali import fn, pipeline_def
from nvidia.dali import types as dali_types

types: Any = dali_types  # its members are made at run time

MINIBATCH = 1024  # images in one of `resize`'s kernels on CUDA; the default of 32 means many launches


def inputs(
    *, size: int, views: int, covered: bool, shared_scene: bool, soft: bool, region: bool = False
) -> dict[str, tuple[Any, int, int]]:
    """Names, types, ranks and fillers of everything that is fed, one of each a sample (y before x, as DALI has it).

    The filler is for samples that are no source: cheap values that fit any image (crops of one pixel, nothing pasted).

    encoded          the image's file
    read_from/to     int [2]: what is decoded of it; the other ROIs are within that             [region]
    scene_from/to    int [2]: its scene; scene_size float [2] (1, 1 where nobody needs it)   [shared_scene]
    per view v:
    backgroundV      int []: which sample of the batch is the background                      [not covered]
    sceneV_from/to   int [2]: the scene in the background                                     [not shared_scene]
    patchV_from/to   int [2]: the patch's ROI in the source; extentV float [2]: its size in the view, at least 1
    anchorV, shapeV  int [2, 2]: rows for background and patch in the view; shape 0, 0: none  [not covered]
    alphaV           uint8 [size, size, 1], or [1, 1, 1] for all pixels: the patch's share    [soft]
    colouredV        int []: whether there is any colour jitter or gray; matrixV, offsetV float [3, 3]: M and K
    sigmaV float []; windowV int []; flipV int []
    """
    start, end, extent = (types.INT32, 1, 0), (types.INT32, 1, 1), (types.FLOAT, 1, 1)
    number, odd, matrix = (types.INT32, 0, 0), (types.INT32, 0, 1), (types.FLOAT, 2, 0)
    out: dict[str, tuple[Any, int, int]] = {"encoded": (types.UINT8, 1, 0)}
    if region:
        out |= {"read_from": start, "read_to": end}
    if shared_scene and not covered:
        out |= {"scene_from": start, "scene_to": end, "scene_size": extent}
    for v in range(views):
        if not covered:  # the anchor of nothing lies beyond the view: see `augment.backends.dali.arguments`
            out |= {f"background{v}": number, f"anchor{v}": (types.INT32, 2, size), f"shape{v}": (types.INT32, 2, 0)}
            if not shared_scene:
                out |= {f"scene{v}_from": start, f"scene{v}_to": end}
            if soft:
                out |= {f"alpha{v}": (types.UINT8, 3, 255)}
        out |= {f"patch{v}_from": start, f"patch{v}_to": end, f"extent{v}": extent}
        out |= {f"coloured{v}": number, f"matrix{v}": matrix, f"offset{v}": matrix}
        out |= {f"sigma{v}": (types.FLOAT, 0, 0), f"window{v}": odd, f"flip{v}": number}
    return out


@pipeline_def(enable_conditionals=True)
def views_graph(
    *,
    device: str,
    size: int,
    views: int,
    covered: bool,
    shared_scene: bool,
    soft: bool,
    mean: list[float],
    std: list[float],
    dtype: Any,
    hardware: dict[str, Any],
    fancy: bool = True,
    region: bool = False,
) -> Any:
    """`views` outputs [size, size, 3], normalised: `mean` and `std` are of pixels in [0, 255].

    `covered`: patches cover their views, no background is needed. `shared_scene`: the scene of an image is the same in
    all views, so it is resized once and handed around. `soft`: patches have an alpha (never where `covered`).
    `region`: of each image only what views read is decoded.
    """
    graph = {"size": size, "views": views, "covered": covered, "shared_scene": shared_scene, "soft": soft}
    graph["region"] = region
    given = {
        name: fn.external_source(name=name, dtype=kind, ndim=ndim, no_copy=True)
        for name, (kind, ndim, _) in inputs(**graph).items()
    }
    read = (given["read_from"], given["read_to"]) if region else None
    decoded = decode(given["encoded"], device, hardware, fancy, read)
    scenes = decoded
    if shared_scene and not covered:
        scenes = crop_resize(decoded, given["scene_from"], given["scene_to"], given["scene_size"])
    outputs = []
    for v in range(views):
        view = crop_resize(decoded, given[f"patch{v}_from"], given[f"patch{v}_to"], given[f"extent{v}"])
        if not covered:
            background = fn.permute_batch(scenes, indices=given[f"background{v}"])
            if not shared_scene:
                background = crop_resize(background, given[f"scene{v}_from"], given[f"scene{v}_to"], [size, size])
            view = fn.multi_paste(
                background,
                as_wide(view, size, device),
                out_anchors=given[f"anchor{v}"],
                shapes=given[f"shape{v}"],
                output_size=[size, size],
            )
            if soft:
                view = blend(view, background, given[f"alpha{v}"], device)
        view = colour(view, given[f"coloured{v}"], given[f"matrix{v}"], given[f"offset{v}"])
        view = blur(view, given[f"sigma{v}"], given[f"window{v}"])
        view = fn.crop_mirror_normalize(
            view, mirror=given[f"flip{v}"], mean=mean, std=std, dtype=dtype, output_layout="HWC"
        )
        outputs.append(view)
    return tuple(outputs)


@pipeline_def
def decode_graph(*, device: str, hardware: dict[str, Any], fancy: bool = True, region: bool = False) -> Any:
    """Decoded pictures [H, W, 3], and nothing else: for the fused backend on CUDA. `region`: see `views_graph`."""
    encoded = fn.external_source(name="encoded", dtype=types.UINT8, ndim=1, no_copy=True)
    places = ("read_from", "read_to") if region else ()
    read = [fn.external_source(name=name, dtype=types.INT32, ndim=1, no_copy=True) for name in places]
    return decode(encoded, device, hardware, fancy, read)


def decode(encoded: Any, device: str, hardware: dict[str, Any], fancy: bool = True, read: Any = None) -> Any:
    """RGB, oriented. Fancy upsampling brings the GPU's chroma close to the CPU's. `hardware`: the GPU decoder's own.

    `read`: start and end of the part that is decoded, in pixels of the oriented image; None: all of it. On a CPU the
    pixels are those of the whole decode, to the bit.
    """
    own = {"output_type": types.RGB, "adjust_orientation": True, "jpeg_fancy_upsampling": fancy}
    own |= {"device": "mixed", **hardware} if device == "gpu" else {}
    if read:
        return fn.decoders.image_slice(encoded, start=read[0], end=read[1], axes=[0, 1], **own)
    return fn.decoders.image(encoded, **own)


def crop_resize(image: Any, start: Any, end: Any, size: Any) -> Any:
    """The ROI, resized bilinearly with antialiasing."""
    crop = fn.slice(image, start=start, end=end, axes=[0, 1])
    return fn.resize(crop, size=size, interp_type=types.INTERP_LINEAR, antialias=True, minibatch_size=MINIBATCH)


def as_wide(patch: Any, size: int, device: str) -> Any:
    """The patch with rows of `size` pixels on CUDA, where `multi_paste` takes all inputs to be as wide as the first."""
    return fn.pad(patch, axes=[1], shape=[size]) if device == "gpu" else patch


def blend(view: Any, background: Any, alpha: Any, device: str) -> Any:
    """`augment.backends.torch_ops.blend`, in integers as there; `view` has the whole patch on its background."""
    share: Any = fn.cast(alpha.gpu() if device == "gpu" else alpha, dtype=types.INT32)
    return fn.cast((share * view + (255 - share) * background + 127) // 255, dtype=types.UINT8)


def colour(view: Any, coloured: Any, matrix: Any, offset: Any) -> Any:
    """M·x + K·mean(x), rounded and clamped to 0-255, of those views that change: nothing costs as much on a CPU."""
    if coloured != 0:
        # Arguments of operators must be on the CPU: the mean goes there, three numbers a sample.
        mean: Any = fn.reductions.mean(view, axes=[0, 1])
        centre = mean.cpu()
        shift = fn.reductions.sum(offset * centre, axes=[1])
        out = fn.coord_transform(view, M=matrix, T=shift, dtype=types.UINT8)
    else:
        out = view
    return out


def blur(view: Any, sigma: Any, window: Any) -> Any:
    """Only where sigma > 0: even a window of one pixel would cost a copy."""
    if sigma > 0.0:  # noqa: SIM108 - DALI's conditionals are statements
        out = fn.gaussian_blur(view, sigma=sigma, window_size=window)
    else:
        out = view
    return out
