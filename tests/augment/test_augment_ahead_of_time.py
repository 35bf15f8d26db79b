"""Machine code for three GPUs, without one: every launch that the fused backend makes, and the proof's own proof."""

import os

import pytest
import torch

from augment.backends import fused_cuda
from augment.views.kinds import KINDS
from augment.views.policy import Policy
from benchmarks import launches

pytest.importorskip("triton")
pytestmark = pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="the interpreter does not compile")
CAPABILITIES = (80, 90, 100)


@pytest.fixture(scope="module")
def made() -> list[launches.Launch]:
    return launches.recorded()


def prove(found: list[launches.Launch], capability: int) -> None:
    """Raises what the compiler raises, or AssertionError."""
    faults = [fault for launch in found for fault in launch.faults(launch.compiled(capability))]
    assert not faults, "\n".join(faults)


def test_every_kernel_is_launched_in_every_kind(made: list[launches.Launch]) -> None:
    """What is recorded comes from the launch code. This says that the recording misses nothing that is known."""
    names = {name for name in vars(launches.kernels()) if name.endswith("_kernel")}
    assert {launch.name for launch in made} == names
    dtypes = {getattr(torch, name) for name in launches.DTYPES}
    for kernel in ("view_kernel", "blur_kernel"):
        named = [launch.named for launch in made if launch.name == kernel]
        kinds = {(x["LINEAR"], x["alpha"] is None, x["out"].dtype, x["size"] % 16) for x in named}
        assert kinds == {(a, b, c, d) for a in (True, False) for b in (True, False) for c in dtypes for d in (0, 4)}
    crops = [launch for launch in made if launch.name == "crop_kernel"]
    assert len(crops) == 1, "wherever the first picture begins"


def test_each_kernel_compiles_for_hopper(made: list[launches.Launch]) -> None:
    chosen = launches.few(made)
    assert len(chosen) == 13  # crop; mean, view and blur: two meanings of colour, with and without alpha
    prove(chosen, 90)


@pytest.mark.slow
@pytest.mark.parametrize("capability", CAPABILITIES)
def test_all_specialisations_compile(made: list[launches.Launch], capability: int) -> None:
    prove(made, capability)


@pytest.mark.parametrize("name", KINDS)
def test_making_views_never_waits_for_the_device(name: str) -> None:
    """Meta tensors have no numbers: whatever would hand one to the host raises."""
    policy, launched = Policy(name=name, size=64), []
    with launches.intercepted(lambda kernel, *_: launched.append(kernel.__name__)):
        views = launches.render(policy, "bfloat16", device="meta")
    assert [view.device.type for view in views] == ["meta"] * 2
    assert launched == ["crop_kernel", "mean_kernel", "view_kernel", "blur_kernel"]
    with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
        views[0].cpu()


def one_work(dtype: str = "bfloat16"):
    return iter([lambda: launches.render(Policy(size=64), dtype)])


def broken_kernel():
    """A program of 100 pixels: the interpreter takes it, the compiler wants powers of two."""
    import triton
    import triton.language as tl

    @triton.jit
    def crop_kernel(jobs, places, out, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
        at = tl.program_id(0) * 100 + tl.arange(0, 100)
        tl.store(out + at, tl.load(out + at) + 1)

    return crop_kernel


def greedy_kernel():
    """Each thread holds far too many numbers."""
    import triton
    import triton.language as tl

    @triton.jit
    def crop_kernel(jobs, places, out, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
        at = tl.arange(0, 128 * 128)
        low = tl.load(out + at).to(tl.float32)
        total = tl.sum(low)
        tl.store(out + at, (low / total).to(out.dtype.element_ty))

    return crop_kernel


def test_a_broken_kernel_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    import triton

    monkeypatch.setattr(launches.kernels(), "crop_kernel", broken_kernel())
    found = launches.recorded(one_work())
    with pytest.raises(triton.CompilationError, match="power of 2"):
        prove([launch for launch in found if launch.name == "crop_kernel"], 90)
    monkeypatch.setattr(launches.kernels(), "crop_kernel", greedy_kernel())
    found = launches.recorded(one_work())
    with pytest.raises(AssertionError, match=r"crop_kernel.*registers: [0-9]+, more than 80"):
        prove([launch for launch in found if launch.name == "crop_kernel"], 90)


def test_a_wrong_argument_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two arguments that changed places; one that is missing."""
    import triton

    put = fused_cuda.put

    def swapped(device, **arrays):
        given = put(device, **arrays)
        return given | {"plain": given["levels"], "levels": given["plain"]} if "plain" in given else given

    monkeypatch.setattr(fused_cuda, "put", swapped)
    with pytest.raises(triton.CompilationError):
        prove([x for x in launches.recorded(one_work()) if x.name == "view_kernel"], 90)
    monkeypatch.setattr(fused_cuda, "put", lambda *a, **k: {n: x for n, x in put(*a, **k).items() if n != "levels"})
    with pytest.raises(KeyError, match="levels"):
        launches.recorded(one_work())


def test_a_wrong_dtype_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """NumPy's usual float64 may compile, and be many times slower. Offsets that became floats do not compile."""
    import triton

    put = fused_cuda.put

    def cast(name: str, dtype: torch.dtype) -> None:
        def changed(*a, **k):
            return {n: x.to(dtype) if n == name else x for n, x in put(*a, **k).items()}

        monkeypatch.setattr(fused_cuda, "put", changed)

    cast("levels", torch.float64)
    with pytest.raises(AssertionError, match=r"view_kernel.*levels is float64"):
        prove([x for x in launches.recorded(one_work()) if x.name == "view_kernel"], 90)
    cast("plain", torch.float32)
    with pytest.raises(triton.CompilationError):
        prove([x for x in launches.recorded(one_work()) if x.name == "view_kernel"], 90)


@pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION is unset:UserWarning")
def test_a_launch_that_leaves_fusion_to_triton_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused_cuda, "FUSION", {})
    found = [x for x in launches.recorded(one_work()) if x.name == "crop_kernel"]
    with pytest.raises(AssertionError, match="enable_fp_fusion is not set"):
        prove(found, 90)
