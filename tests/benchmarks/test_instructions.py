"""Instructions counted by hand in machine code that was written by hand, and in the kernels' own."""

import os
from collections import Counter

import numpy as np
import pytest

from benchmarks import instructions

SOURCE = '//## File "/any/where/augment/backends/triton_kernels.py", line {}'


def machine_code(*rows: str) -> str:
    """What nvdisasm prints: rows are labels, lines of the source, or instructions, which get addresses."""
    out, address = [], 0
    for row in rows:
        if row.startswith((".", "//")):
            out.append(row + ":" * row.startswith("."))
        else:
            out.append(f"        /*{address:04x}*/                   {row} ;")
            address += 16
    return "\n".join(out)


def line_of(words: str) -> str:
    import augment.backends

    path = os.path.join(os.path.dirname(augment.backends.__file__), "triton_kernels.py")
    with open(path) as file:
        return SOURCE.format(next(n for n, row in enumerate(file, 1) if words in row))


def test_loops_by_hand():
    outer, inner = line_of("for ky in"), line_of("for kx in")
    code = machine_code(
        "MOV R1, R2", "@P0 EXIT", ".L_x_0", outer, "IADD3 R1", ".L_x_1", "FFMA R3", "FFMA R4", inner,
        "@P1 BRA `(.L_x_1)", outer, "@!P1 BRA `(.L_x_0)", "@P2 BRA `(.L_x_2)", "FADD R5", ".L_x_2", "EXIT",
        ".L_x_3", "BRA `(.L_x_3)",
    )  # fmt: skip
    assert instructions.entry_of(code) == 2
    # The last jump is to itself, behind the end: it counts once, as it should not, and is one of hundreds.
    assert instructions.by_loops(code) == {(): 6, ("ky",): 2, ("ky", "kx"): 3}
    twice = machine_code(
        "EXIT", ".L_x_0", "FADD R1", outer, "@P0 BRA `(.L_x_0)", ".L_x_1", "FADD R2", "@P0 BRA `(.L_x_1)"
    )
    with pytest.raises(ValueError, match="more than one"):
        instructions.by_loops(twice)
    with pytest.raises(ValueError, match="is no `for`"):
        instructions.by_loops(twice.replace(outer, line_of("import triton")))


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="the interpreter does not compile")
def test_what_is_counted_is_what_is_launched(demo_images):
    """Patches of kept pictures are cut, and blur costs more than none."""
    pytest.importorskip("triton")
    from augment.views.policy import Policy

    total = {}
    for blur in (0.0, 1.0):
        policy = Policy(size=64, blur_p=blur)
        (plan,) = instructions.drawn(policy, demo_images.pool, 8, 1)
        found = list(instructions.launched(policy, demo_images.pool, [plan], True, "float32"))
        total[blur] = Counter({launch.name: instructions.of_launch(launch, 90) for launch in found})
        (crop,) = (instructions.programs(launch) for launch in found if launch.name == "crop_kernel")
        shape = plan.rects[..., 2:] - plan.rects[..., :2]
        assert crop.total() == np.ceil(shape / (32, 16)).prod(axis=-1).sum()  # kept scenes: patches only
    assert total[0.0]["crop_kernel"] == total[1.0]["crop_kernel"] > 0
    assert total[0.0].keys() == {"crop_kernel", "mean_kernel", "view_kernel"}
    assert total[1.0]["blur_kernel"] > 2 * total[0.0]["view_kernel"] > 0
