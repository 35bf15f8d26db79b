"""The C++ passes give the same views whatever the CPU that they are compiled for; decoders run as often as promised."""

import ctypes
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from test_augment_backends import birds, plan_of  # noqa: F401 - a fixture

from augment import Making, Policy
from augment.backends import fused, jpeg, native
from augment.backends.decoded import DecodedCache
from augment.stream.imageset import ImageSet

ALONE = Making(device="cpu", workers=1).settled()
FLAGS_OF = {"x86-64": set(), "x86-64-v2": {"sse4_2"}, "x86-64-v3": {"avx2", "fma"}}


def flags_of_this_cpu() -> set[str]:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return set(next((line.split(":")[1] for line in lines if line.startswith("flags")), "").split())


def test_all_threads_begin_at_once_and_torch_keeps_its_own(birds: ImageSet):  # noqa: F811
    """One that began later would set torch's number of threads for everybody."""
    before = torch.get_num_threads()
    backend = fused.FusedBackend(Policy(size=32), Making(device="cpu", workers=16).settled(), compiled=False)
    assert len(backend._threads._threads) == 16
    assert torch.get_num_threads() == before
    backend.close()


@pytest.mark.slow
@pytest.mark.parametrize("march", FLAGS_OF)
@pytest.mark.parametrize("colour", ["linear", "torchvision"])
@pytest.mark.parametrize("compiler", ["g++", "g++-11", "clang++"])
def test_other_cpus_get_the_same_views(birds: ImageSet, tmp_path, monkeypatch, march, colour, compiler):  # noqa: F811
    if shutil.which(compiler) is None or not flags_of_this_cpu() or not FLAGS_OF[march] <= flags_of_this_cpu():
        pytest.skip(f"{compiler} and a CPU that runs {march} are needed")
    policy = Policy(size=96, colour=colour)
    plan = plan_of(policy, birds)
    files = [birds.read(int(i)) for i in plan.images]
    here = fused.FusedBackend(policy, ALONE)
    expected = here.render(plan, files)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CXX", compiler)
    monkeypatch.setattr(native, "FLAGS", tuple(f.replace("native", march) for f in native.FLAGS))
    there = fused.FusedBackend(policy, ALONE)
    assert len(list((tmp_path / "saliencyswap").glob("pixels-*.so"))) == 1
    std = torch.tensor(policy.std)[:, None, None]
    for a, b in zip(expected, there.render(plan, files), strict=True):
        levels = (a - b).abs() * std * 255
        # A fused multiply-add rounds once where two instructions round twice: now and then a level falls the other way.
        assert levels.max() < 2.5
        assert levels.mean() < 0.02
    here.close()
    there.close()


@pytest.mark.parametrize("march", ["native", "x86-64"])  # with the processor's own conversion, and by hand
def test_half_precision_is_torchs_bit_for_bit(tmp_path, march):
    """All float16 numbers, what lies half-way between two and beside that, the ends of the range, and random bits."""
    if shutil.which("g++") is None or "sse2" not in flags_of_this_cpu():
        pytest.skip("g++ and an x86-64 CPU are needed")
    (tmp_path / "rows.cpp").write_text(
        f'#include "{native.SOURCES[1]}"\n'
        'extern "C" void row(const float* from, void* to, int n, int kind) { write_row(from, to, 0, n, kind); }\n'
    )
    flags = [f.replace("native", march) for f in native.FLAGS]
    subprocess.run(["g++", *flags, tmp_path / "rows.cpp", "-o", tmp_path / "rows.so"], check=True)
    library = ctypes.CDLL(str(tmp_path / "rows.so"))
    halves = torch.arange(1 << 16).to(torch.int32).to(torch.uint16).view(torch.float16).float()
    halves = halves[halves.isfinite()]
    between = (halves[:-1] + halves[1:]) / 2
    beside = [torch.nextafter(between, torch.tensor(end)) for end in (-torch.inf, torch.inf)]
    generator = torch.Generator().manual_seed(0)
    bits = torch.randint(-(1 << 31), 1 << 31, (1 << 18,), generator=generator).to(torch.int32).view(torch.float32)
    ends = torch.tensor(
        [0.0, -0.0, 65519.99, 65520.0, -65520.0, 65536.0, 1e38, torch.inf, -torch.inf, 1e-45, torch.nan]
    )
    numbers = torch.cat([halves, between, *beside, bits, ends])
    for kind, dtype in ((1, torch.bfloat16), (2, torch.float16)):
        found = torch.empty(len(numbers), dtype=dtype)
        library.row(*(ctypes.c_void_p(t.data_ptr()) for t in (numbers, found)), len(numbers), kind)
        expected, known = numbers.to(dtype), ~numbers.isnan()
        assert torch.equal(found.view(torch.int16)[known], expected.view(torch.int16)[known])
        if kind == 2:
            assert found[~known].isnan().all()


@pytest.mark.parametrize("compiled", [True, False])
def test_each_image_is_decoded_once_and_never_again_from_the_cache(birds: ImageSet, monkeypatch, compiled):  # noqa: F811
    """Counted at the decoders themselves: once for each image of a batch; none for a batch whose images are kept."""
    calls = []
    real, cut = fused.decode, jpeg.JpegCrops.cut
    monkeypatch.setattr(fused, "decode", lambda data: calls.append(len(data)) or real(data))
    monkeypatch.setattr(
        jpeg.JpegCrops, "cut", lambda self, files, *a: calls.extend(map(len, files)) or cut(self, files, *a)
    )
    policy = Policy(size=32, blur_sigma=(0.1, 1.0))
    plans = [plan_of(policy, birds, count=16, start=start) for start in (0, 16)]
    batches = [(plan, [birds.read(int(i)) for i in plan.images]) for plan in plans]
    monkeypatch.setattr(jpeg, "_check", lambda crops: None)  # decodes small pictures of its own
    for cache, counts in ((None, (32, 32)), (DecodedCache(policy, birds.pool, 1 << 30), (32, 0))):
        backend = fused.FusedBackend(policy, Making(device="cpu", workers=2).settled(), cache, compiled=compiled)
        made = []
        for expected in counts:  # two epochs
            calls.clear()
            made.append([view.clone() for plan, files in batches for view in backend.render(plan, files)])
            # Groups of 16 close on themselves: each image is a source once and a background only beside it.
            assert sum(len(plan.images) for plan in plans) == 32
            assert len(calls) == expected
        assert all(torch.equal(a, b) for a, b in zip(*made, strict=True))
        backend.close()
    assert np.unique(np.concatenate([plan.images for plan in plans])).size == 32
