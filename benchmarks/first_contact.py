"""The first minutes on a machine with a GPU: one command, and every figure that the time allows.

python -m benchmarks.first_contact --boxes cache/cub.h5 --root data/CUB_200_2011 --device cuda --out first
python -m benchmarks.first_contact --boxes cache/cub.h5 --root data/CUB_200_2011 --batch 8 --size 64  # this CPU

Stages (first_contact.toml) run in order of worth, each in a process of its own with a time limit of its own. Each has
its JSON file when it ends, however it ends; one that fails, hangs or is killed costs the others nothing but its time.
summary.json says how all of them ended, and is renewed after each. On the CPU the same stages run at a small size,
where they can: so none fails for a silly reason where time is dear.
"""

import shlex
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from augment.views.policy import Policy
from benchmarks.program import Photographs, check_device, parse
from benchmarks.stages import run_stage, write
from precompute.base.errors import BadValue
from precompute.base.options import group, option, option_of
from precompute.base.program import main

# Device: name of the stage: most seconds, and the program with its flags.
STAGES: dict[str, dict[str, tuple[float, str]]] = {
    device: {name: (float(seconds), text) for name, (seconds, text) in stages.items()}
    for device, stages in tomllib.loads(Path(__file__).with_suffix(".toml").read_text()).items()
}
ROOT = Path(__file__).resolve().parent.parent
LEAST = 5.0  # seconds that are worth beginning a stage for


@dataclass(frozen=True)
class FirstContactSettings:
    """The program's settings and their only defaults."""

    photographs: Photographs = group(Photographs, "photographs")
    out: str = option("first-contact", "folder of the JSON files")
    device: str = option("cpu", "which machine's stages", choices=tuple(STAGES))
    only: tuple[str, ...] = option((), "names of stages, in the order to run them in; default: all of the device's")
    minutes: float = option(8.0, "end after this time: the stage that runs then is cut off, the rest named", above=0)
    batch: int = option(256, "source images of a batch", least=1)
    size: int = option_of(Policy, "size")
    threads: int = option(16, "threads of decoders and loaders", least=1)

    def __post_init__(self) -> None:
        if unknown := set(self.only) - set(STAGES[self.device]):
            raise BadValue("only", sorted(unknown), list(STAGES[self.device]))
        if Path(self.out).is_file():
            raise BadValue("out", self.out, "a folder, but this is a file")


def program(argv: list[str] | None = None) -> int:
    """Runs the stages; exit status 0 all done, 1 something failed or was left, 2 usage."""
    settings = parse(FirstContactSettings, "benchmarks.first_contact", __doc__, argv)
    began, folder = time.monotonic(), Path(settings.out)
    check_device(settings.device)
    root = settings.photographs.check().folder(settings.photographs.root)
    environment = {
        "PYTHONUNBUFFERED": "1",
        # The tests of the decoder take the photographs that the rest is measured on.
        "GPU_TESTS_BOXES": settings.photographs.box_file,
        "GPU_TESTS_ROOT": str(root),
    }
    ended: dict[str, dict[str, Any]] = {}
    for name in settings.only or STAGES[settings.device]:
        seconds, text = STAGES[settings.device][name]
        limit = min(seconds, 60 * settings.minutes - (time.monotonic() - began))
        shown = text.format(batch=settings.batch, size=settings.size, threads=settings.threads)
        if limit < LEAST:
            ended[name] = {"stage": name, "command": shown, "status": "left for want of time"}
            write(folder / f"{name}.json", ended[name])
        else:
            print(f"{name} (at most {limit:.0f} s): {shown}", flush=True)
            ended[name] = run_stage(name, command_of(shown, settings.photographs), shown, limit, environment, folder)
            print(f"  {ended[name]['status']} after {ended[name]['seconds']} s", flush=True)
        states = {stage: document["status"] for stage, document in ended.items()}
        write(folder / "summary.json", {"device": settings.device, "stages": states})
    return int(any(document["status"] != "done" for document in ended.values()))


def command_of(shown: str, photographs: Photographs) -> list[str]:
    """Arguments of Python for a stage's program."""
    word, *flags = shlex.split(shown)
    if word == "pytest":
        return ["-m", "pytest", *(str(ROOT / x) if x.startswith("tests/") else x for x in flags)]
    program = [str(ROOT / word)] if word.startswith("tests/") else ["-m", f"benchmarks.{word}"]
    return [*program, *photographs.flags(), *flags]


if __name__ == "__main__":
    main(program)
