"""The kernels' tables on CUDA: one pass of C++ makes the bytes that NumPy makes, for every policy."""

import re

import numpy as np
import pytest

from augment.backends import native, tables
from augment.backends.addressed import Addressed
from augment.backends.layout import JOB
from augment.stream.alpha import with_alpha
from augment.views.kinds import KINDS
from augment.views.plan import Pool, draw, partners
from augment.views.policy import Policy

COUNT, CUTS = 150, 1 << 40

POLICIES = [
    *({"name": name, "scene": scene} for name in KINDS for scene in ("whole", "crop", "zoom")),
    {"own": 0.5, "scene": "zoom", "views": 3},
    {"own": 1.0},  # with kept scenes nothing is cut
    {"blur_p": 0.0},
    {"blur_p": 1.0, "blur_sigma": (0.01, 30.0)},  # wider than a tile
    {"jitter_p": 0.0, "gray_p": 1.0},
    {"name": "copy-paste", "mode": "paste", "paste_scale": 1.0, "box_cap": 1.0, "aspect": (1.0, 1.0)},
]


def batch_of(policy, kept):
    """A plan and its pictures, whose addresses are made up: nobody reads there."""
    rng = np.random.default_rng(0)
    sides = rng.integers(100, 400, (COUNT, 2))
    boxes = np.sort(rng.uniform(0, 1, (COUNT, 2, 2)), axis=1).reshape(COUNT, 4).astype(np.float32)
    pool = Pool(sides[:, 0].astype(np.int32), sides[:, 1].astype(np.int32), boxes, rng.random(COUNT) < 0.8)
    order = rng.permutation(COUNT)
    plan = draw(policy, pool, order[:100], partners(order, np.arange(100), 64, policy.views, 1, 0), seed=1, epoch=0)
    if policy.kind.maps:
        plan = with_alpha(plan, lambda row: np.full((8, 8), row, np.uint8), sides[plan.sources])
    address = rng.integers(1 << 30, 1 << 44, len(plan.images))
    corner = np.zeros((len(address), 2), np.int32) if kept else None
    scene = address + 7 if kept and policy.scene == "whole" and policy.kind.pastes else None
    return plan, Addressed(address, sides[plan.images], corner, None, scene)


@pytest.fixture(scope="module")
def library():
    try:
        return native.load()
    except native.NotBuilt as error:
        pytest.skip(str(error))


def made_by(library, policy, plan, pictures):
    """Of C++ the same as of `tables.in_numpy`."""
    arrays = {}

    def memory(rooms):
        arrays.update({name: np.zeros(size // np.dtype(kind).itemsize, kind) for name, (kind, size) in rooms.items()})
        return {name: array.ctypes.data for name, array in arrays.items()}

    sizes = []
    made = tables.compiled(library, policy, plan, pictures, lambda size: sizes.append(size) or CUTS, memory)
    return made, arrays, sizes


@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize("changes", POLICIES, ids=str)
def test_one_pass_makes_the_bytes_that_numpy_makes(library, changes, kept):
    policy = Policy(size=96, **changes)
    plan, pictures = batch_of(policy, kept)
    rooms = []
    slow, expected = tables.in_numpy(policy, plan, pictures, lambda size: rooms.append(size) or CUTS)
    fast, found, sizes = made_by(library, policy, plan, pictures)
    assert rooms == sizes
    assert slow == fast
    assert slow.plain + slow.blurred == 100 * policy.views
    if slow.crops:
        a, b = (arrays["crops"].view(JOB) for arrays in (expected, found))
        for name in [name for name in JOB.names or () if name != "unused"]:
            np.testing.assert_array_equal(a[name], b[name], err_msg=name)
    a, b = (arrays["jobs"].view(native.VIEW) for arrays in (expected, found))
    for name in [name for name in native.VIEW.names or () if name != "unused"]:
        assert a[name].tobytes() == b[name].tobytes(), name
    for name in ("plain", "blurred", "weights"):
        assert expected[name].tobytes() == found[name].tobytes(), name


def test_both_refuse_a_crop_that_leaves_its_picture(library):
    policy = Policy(size=96)
    plan, pictures = batch_of(policy, kept=False)
    smaller = Addressed(pictures.address, pictures.sides - 60)
    with pytest.raises(ValueError, match="the plan was drawn for another one"):
        tables.in_numpy(policy, plan, smaller, lambda size: CUTS)
    with pytest.raises(ValueError, match="the plan was drawn for another one"):
        made_by(library, policy, plan, smaller)


def test_the_struct_is_that_of_the_source():
    """As many numbers in the same order: what is made would else be written anywhere."""
    text = next(path for path in native.SOURCES if path.name == "tables.cpp").read_text()
    body = re.sub(r"//.*", "", text[text.index("struct Tables {") :].split("};")[0])
    names = re.findall(r"(\w+)(?=[,;])", body)
    assert names == [field[0] for field in tables._Tables._fields_]
