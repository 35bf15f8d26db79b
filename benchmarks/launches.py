"""The Triton launches that the fused backend really makes, recorded without a GPU and compiled ahead of time.

`recorded` runs the launch code itself (views, crops, filling the cache) on small pictures in host memory, for every
policy, colour and dtype. Instead of running, each launch is kept if Triton would compile a kernel for it: its key holds
the arguments' types, which of them are divisible by 16, and the constants. `Launch.compiled` then makes the machine
code for any GPU: a driver that is not there says which.
"""

import importlib
import itertools
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import ModuleType

    import torch

    from augment.backends.decoded import Picture
    from augment.views.plan import Plan
    from augment.views.policy import Policy

DTYPES = ("float32", "bfloat16", "float16")
SIZES = (224, 100)  # a multiple of 16, which Triton compiles apart, and none
COUNT = 3  # sources of a plan
# 80 registers leave room for 24 of a multiprocessor's 64 warps. Nothing may be spilled (it would be in the stack). A
# tile that is blurred is held by the threads of a program; its 8 warps have room with as many as a thread can have.
LIMITS = {"registers": 80, "stack": 0, "local": 0, "shared": 4096}
LIMITS_OF = {"blur_kernel": LIMITS | {"registers": 255, "shared": 40960}}


@dataclass(frozen=True)
class Code:
    """What a compiled kernel takes of a multiprocessor."""

    registers: int  # of a thread
    stack: int  # bytes of a thread, spilled registers included
    local: int  # bytes of a thread
    shared: int  # bytes of a program
    warps: int  # of a program


@dataclass(frozen=True, eq=False)
class Launch:
    """The first launch of a kernel with its specialisation."""

    kernel: Any
    grid: tuple[int, ...]
    arguments: tuple[Any, ...]
    options: dict[str, Any]  # named arguments and compiler options

    @property
    def name(self) -> str:
        """The kernel's."""
        return self.kernel.__name__

    @property
    def named(self) -> dict[str, Any]:
        """Its arguments by name."""
        names = self.kernel.arg_names
        return dict(zip(names, self.arguments, strict=False)) | {n: x for n, x in self.options.items() if n in names}

    @property
    def constants(self) -> dict[str, Any]:
        """Those that are compiled into the kernel."""
        return {name: x for name, x in self.named.items() if x is None or name.isupper()}

    def __str__(self) -> str:
        parts = [f"{name} {x}" for name, x in (self.constants | {"size": self.named.get("size")}).items()]
        parts += [f"{name} {str(self.named[name].dtype)[6:]}" for name in ("out",) if name in self.named]
        return f"{self.name}({', '.join(part for part in parts if part != 'size None')})"

    def __call__(self) -> Any:
        """Launches it again, where there is a GPU or in Triton's interpreter."""
        return self.kernel[self.grid](*self.arguments, **self.options)

    def compiled(self, capability: int) -> Code:
        """Machine code for a GPU of that compute capability (90: Hopper). Raises what the compiler raises."""
        with feigned(capability):
            made = self.kernel.warmup(*self.arguments, grid=self.grid, **self.options)
        return _code(made.asm["cubin"], made.metadata.num_warps, made.metadata.shared)

    def faults(self, code: Code) -> list[str]:
        """What is wrong with the launch or with its machine code, in words; nothing if all is well."""
        import torch

        doubles = [n for n, x in self.named.items() if isinstance(x, torch.Tensor) and x.dtype == torch.float64]
        found = [f"{name} is float64, which is slow on a GPU" for name in doubles]
        if self.options.get("enable_fp_fusion") is None:
            found.append("enable_fp_fusion is not set: the last bits would depend on Triton's version")
        for name, most in LIMITS_OF.get(self.name, LIMITS).items():
            if (value := getattr(code, name)) > most:
                found.append(f"{name}: {value}, more than {most}")
        return [f"{self}: {fault}" for fault in found]


class _Driver:
    """All that Triton asks of a driver until a kernel is compiled."""

    def __init__(self, capability: int, number: int) -> None:
        self.capability, self.number = capability, number

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", self.capability, 32)

    def get_current_device(self) -> int:  # Triton keeps what it has compiled by this number
        return self.number

    def get_current_stream(self, device: int) -> int:
        return 0


@contextmanager
def feigned(capability: int, number: int | None = None) -> Iterator[None]:
    """Triton compiles for a GPU of that compute capability, which need not be there."""
    from triton.runtime import driver

    before = driver._active
    driver.set_active(_Driver(capability, capability if number is None else number))  # type: ignore[arg-type]
    try:
        yield
    finally:
        driver._active = before


@contextmanager
def intercepted(seen: Callable[[Any, tuple[int, ...], tuple[Any, ...], dict[str, Any]], object]) -> Iterator[None]:
    """`seen(kernel, grid, arguments, options)` is called instead of every launch of `augment`'s kernels."""
    module = kernels()
    own = {name: kernel for name, kernel in vars(module).items() if name.endswith("_kernel")}

    class Instead:
        def __init__(self, kernel: Any) -> None:
            self.kernel = kernel

        def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., object]:
            return lambda *arguments, **options: seen(self.kernel, grid, arguments, options)

    for name, kernel in own.items():
        setattr(module, name, Instead(kernel))
    try:
        yield
    finally:
        for name, kernel in own.items():
            setattr(module, name, kernel)


def kernels() -> "ModuleType":
    """The module of the kernels."""
    return importlib.import_module("augment.backends.triton_kernels")


def recorded(works: "Iterator[Callable[[], object]] | None" = None) -> list[Launch]:
    """One launch of every kernel and specialisation that `works` make (default: `all_works`)."""
    from triton import knobs

    found: dict[tuple[str, str], Launch] = {}
    keys: list[str] = []

    def hook(*, key: Any, **_: Any) -> bool:
        keys.append(str(key))
        return True  # and nothing is compiled

    def seen(kernel: Any, grid: tuple[int, ...], arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
        keys.clear()
        kernel.warmup(*arguments, grid=grid, **options)
        (key,) = keys
        found.setdefault((kernel.__name__, key), Launch(kernel, grid, arguments, options))

    before = knobs.runtime.jit_cache_hook
    knobs.runtime.jit_cache_hook = hook
    try:
        with feigned(90, number=-1), intercepted(seen):  # never compiled there, so the hook is called every time
            for work in works or all_works():
                work()
    finally:
        knobs.runtime.jit_cache_hook = before
    return list(found.values())


def few(launches: list[Launch]) -> list[Launch]:
    """One launch of every kernel with every set of constants, which decide what is compiled; other types left out."""
    chosen = {(launch.name, str(launch.constants)): launch for launch in reversed(launches)}
    return list(chosen.values())[::-1]


def all_works(device: str = "cpu") -> "Iterator[Callable[[], tuple[torch.Tensor, ...]]]":
    """Calls of the launch code: every policy, meaning of colour and dtype; kept pictures and fresh ones.

    The first fresh picture begins at an address that is a multiple of 16, or at an odd one: one kernel serves both.
    """
    from augment.views.kinds import KINDS
    from augment.views.policy import COLOURS, SCENES, Policy

    for size, name, colour, scene in itertools.product(SIZES, KINDS, COLOURS, SCENES):
        policy = Policy(name=name, size=size, colour=colour, scene=scene)
        for dtype, start in itertools.product(DTYPES, (0, 1)):
            yield partial(render, policy, dtype, start, device)
        yield partial(render_kept, policy, device)


def render(policy: "Policy", dtype: str, start: int = 0, device: str = "cpu") -> "tuple[torch.Tensor, ...]":
    """Views of small pictures, `start` bytes after an aligned address."""
    plan, pictures, _ = small(policy, start, device)
    return views(policy, plan, pictures, dtype, device)


def views(
    policy: "Policy", plan: "Plan", pictures: "list[Picture]", dtype: str, device: str
) -> "tuple[torch.Tensor, ...]":
    """`make_views` by the names of dtype and device."""
    import torch

    from augment.backends.fused_cuda import make_views

    return make_views(policy, plan, pictures, torch.device(device), getattr(torch, dtype))


def decoded_picture(data: bytes, device: str) -> "Picture":
    """A file decoded on the CPU, on the device."""
    from augment.backends.decoded import Picture
    from augment.backends.torch_ops import decode

    return Picture(decode(data).permute(1, 2, 0).contiguous().to(device))


def render_kept(policy: "Policy", device: str = "cpu") -> "tuple[torch.Tensor, ...]":
    """Views of pictures that the decoded cache keeps, scaled down, so that all its crops are launched too."""
    from augment.backends.addressed import Addressed
    from augment.backends.decoded import DecodedCache
    from augment.backends.fused_cuda import FusedCudaBackend
    from augment.request import Making

    plan, pictures, pool = small(policy, 0, device)
    cache = DecodedCache(policy, pool, 1 << 30, side=16)
    backend = FusedCudaBackend(policy, Making(device=device, workers=1).settled(), COUNT, cache)
    backend.keep(plan.images, Addressed.of(pictures))
    return backend.render(plan, [b""] * len(plan.images))


def small(policy: "Policy", start: int, device: str) -> "tuple[Plan, list[Picture], Any]":
    """A plan of few sources, its pictures, and the pool that it was drawn from."""
    import numpy as np
    import torch

    from augment.backends.decoded import Picture
    from augment.stream.alpha import with_alpha
    from augment.views.plan import Pool, draw, partners

    rng = np.random.default_rng(0)
    sides = rng.integers(24, 48, (COUNT, 2))
    boxes = np.tile(np.array((0.2, 0.1, 0.9, 0.8), np.float32), (COUNT, 1))
    pool = Pool(sides[:, 0].astype(np.int32), sides[:, 1].astype(np.int32), boxes, np.ones(COUNT, bool))
    order = np.arange(COUNT)
    plan = draw(policy, pool, order, partners(order, order, COUNT, policy.views, 1, 0), seed=1, epoch=0)
    arrays = [rng.integers(0, 256, (height, width, 3), np.uint8) for width, height in sides]
    if policy.kind.maps:
        plan = with_alpha(plan, lambda row: arrays[row][..., 0], sides)
    pictures = []
    for row in plan.images.tolist():
        memory = torch.empty(start + arrays[row].size, dtype=torch.uint8, device=device)
        pixels = memory[start:].view(arrays[row].shape)
        pictures.append(Picture(pixels.copy_(torch.from_numpy(arrays[row]))))
    return plan, pictures, pool


def _code(cubin: bytes, warps: int, shared: int) -> Code:
    """What `cuobjdump` reads in the machine code."""
    shown = read_cubin(cubin, "cuobjdump", "-res-usage")
    used = {name: int(number) for name, number in re.findall(r"\b(REG|STACK|LOCAL):(\d+)", shown)}
    return Code(used["REG"], used["STACK"], used["LOCAL"], shared, warps)


def read_cubin(cubin: bytes, tool: str, *flags: str) -> str:
    """What one of NVIDIA's tools that come with Triton says of machine code."""
    from triton import knobs

    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [getattr(knobs.nvidia, tool).path, *flags, file.name]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout
