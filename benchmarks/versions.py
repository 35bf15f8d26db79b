"""What this code costs beside an older checkout of it, on the same pictures.

python -m benchmarks.versions --old ../before --boxes cache/cub.h5 --root data/CUB_200_2011
python -m benchmarks.versions --old ../before --boxes cache/large.h5 --cases scaled --out versions.json

Each side runs in a process of its own with its own code: that of the virtual environment .venv in its checkout, where
there is one. Both get the same pictures and draw the same plans; whether their views are equal to the bit is said. They
take turns, a batch each. Cases, one thread each, two 224-pixel views:
  exact, rrc     photographs as they are, JPEG bytes in memory to views; rrc: random crops of the whole picture
  batch-4        the same in batches of 4 source images, not 32
  exact-12       photographs resized to 12 megapixels (JPEG 90)
  scaled, scaled-3, scaled-12   with decode="scaled" here; as they are, or resized to so many megapixels
  disk           files on disk to batches by the whole loader: the older one without a cache, this one's cache in memory
                 and on disk, in the run that makes its file and in the next one. Counted are reading, drawing, checking
                 the file's pictures and making views; not the opening of the loader. A run also takes memory for its
                 batches, once, however many pictures there are; of few that is much: it is counted where the name says
                 "+ memory". The system has the files in memory: a cold disk is not measured
  python-64, python-4   what Python takes of drawing the plan and making the views, in batches of 64 and 4: CPU time but
                 for the calls of C++, of libjpeg and of torchvision's decoder
"""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import growth, harness
from benchmarks.child import ROOT, Child
from benchmarks.harness import Arm
from benchmarks.program import JobSettings, Output, Photographs, head, parse
from precompute.base.errors import BadValue, UserError
from precompute.base.options import group, option
from precompute.base.program import main


class Case(NamedTuple):
    """A job that both sides do, in the words of `versions_worker`."""

    policy: str = "saliencyswap"
    decode: str = "exact"  # of the newer side: the older may have no other
    batch: int = 32
    batches: int = 4
    megapixels: float | None = None  # photographs are resized to so many
    kind: str = "bytes"  # or "files": the whole loader, from files; or "python": its part of bytes to views
    times: int = 1  # repeats for one of `--repeats`: what is short varies more


CASES = {
    "exact": Case(),
    "rrc": Case("rrc"),
    "batch-4": Case(batch=4, batches=16),
    "exact-12": Case(batch=16, batches=1, megapixels=12),
    "scaled": Case(decode="scaled", batch=16, batches=1),
    "scaled-3": Case(decode="scaled", batch=16, batches=1, megapixels=3),
    "scaled-12": Case(decode="scaled", batch=16, batches=1, megapixels=12),
    "disk": Case(kind="files", times=2),
    "python-64": Case(batch=64, batches=2, kind="python"),
    "python-4": Case(batch=4, batches=32, kind="python"),
}
INSIDE = {
    "bytes": "JPEG bytes in memory to two normalised views",
    "files": "files on disk to batches of two normalised views",
    "python": "Python's part of drawing a plan and of making, of JPEG bytes in memory, two normalised views",
}
MEMORY = " + memory"
# The arms of a case of files: name, cache, whether the folder is emptied first, epochs.
LOADERS = (("RAM cache", "ram", False, 2), ("disk cache, run that makes it", "disk", True, 1),
           ("disk cache, next run", "disk", False, 2))  # fmt: skip


@dataclass(frozen=True)
class VersionsSettings:
    """The program's settings and their only defaults."""

    photographs: Photographs = group(Photographs, "photographs")
    old: str | None = option(None, "folder of the older checkout")
    cases: tuple[str, ...] = option((), "what is measured; default: all", choices=tuple(CASES))
    repeats: int = option(5, "timed repeats of every arm in a process, both sides taking turns", least=1)
    rounds: int = option(3, "pairs of fresh processes that do all of it", least=1)
    output: Output = group(Output, "result")

    def __post_init__(self) -> None:
        if self.old is None:
            raise BadValue("old", None, "the folder of an older checkout", "git worktree add FOLDER COMMIT makes one")


class Side(Child):
    """The process of one checkout."""

    def __init__(self, checkout: Path) -> None:
        self.commit = harness.commit(checkout)
        super().__init__("versions_worker.py", checkout)

    def call(self, case: str, method: str, **values: Any) -> Any:
        """What its `method` for that case returns."""
        return self.ask([case, method, values])


def program(argv: list[str] | None = None) -> int:
    """Parses the command line, runs both sides, prints; exit status 0 done, 1 failed, 2 usage."""
    settings = parse(VersionsSettings, "benchmarks.versions", __doc__, argv)
    settings.output.deliver([measure(settings)], table)
    return 0


def measure(settings: VersionsSettings) -> dict[str, Any]:
    """The result. UserError where there is no older checkout, or a side's process ends."""
    assert settings.old is not None
    if not ((old := Path(settings.old).resolve()) / "augment" / "backends").is_dir():
        raise UserError(f"{old}: no checkout of this project, or one from before augment/backends")
    chosen = {name: CASES[name] for name in settings.cases or CASES}
    settings.photographs.check()
    arms: dict[str, Arm] = {}
    digests: dict[str, set[str]] = {}
    about: dict[str, Any] = {}
    checkouts = {"before": old, "ours": ROOT}
    with ExitStack() as stack:
        values = {name: _values(settings, case, stack) for name, case in chosen.items()}
        for number in range(settings.rounds):
            settings.output.say(f"round {number + 1} of {settings.rounds}")
            with ExitStack() as ends:
                sides = {}
                for name, checkout in checkouts.items():
                    sides[name] = Side(checkout)
                    ends.callback(sides[name].end)
                    about[name] = {"commit": sides[name].commit, "versions": sides[name].about}
                for name, case in chosen.items():
                    for side in sides.values():
                        side.call(name, "open", **values[name])
                    measured = _files if case.kind == "files" else _bytes
                    measured(sides, name, values[name], case.times * settings.repeats, arms)
                    if case.kind == "bytes" and case.decode == "exact":
                        digests.setdefault(name, set()).update(side.call(name, "digest") for side in sides.values())
    ratios = {f"{a} / {b}": harness.ratio(arms[a], arms[b]) for a, b in _pairs(arms)}
    return head("versions", settings, "cpu_ms", cases=list(chosen)) | {
        "before": about["before"],
        "arms": [harness.row(arm) for arm in arms.values()],
        "ratios": ratios,
        "views_equal": {name: len(found) == 1 for name, found in digests.items()},
        "rounds": settings.rounds,
    }


def _values(settings: VersionsSettings, case: Case, stack: ExitStack) -> dict[str, Any]:
    """The case as a side takes it: its pictures are written to a folder, which is removed with `stack`."""
    import numpy as np

    photographs = settings.photographs
    values = case._asdict()
    if case.kind == "files":
        root = photographs.cache().folder(photographs.root).resolve()
        kept = stack.enter_context(tempfile.TemporaryDirectory(dir=Path(photographs.box_file).resolve().parent))
        return values | {"boxes": str(Path(photographs.box_file).resolve()), "root": str(root), "folder": kept}
    images = photographs.images()
    if len(images) < case.batch:
        raise UserError(f"{case.batch} images are needed, {photographs.box_file} has {len(images)}")
    values["batches"] = min(case.batches, len(images) // case.batch)
    count = case.batch * values["batches"]
    if case.megapixels is not None:
        job = JobSettings(batch=case.batch, batches=values["batches"])
        images = growth.images_at(images, job, "image", case.megapixels, stack)
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    pool = images.pool
    np.savez(folder / "pool.npz", **{c: getattr(pool, c) for c in ("widths", "heights", "boxes", "has_box")})
    for row in range(count):
        (folder / f"{row}.jpg").write_bytes(images.read(row))
    return values | {"folder": str(folder)}


def _bytes(sides: dict[str, Side], name: str, values: dict[str, Any], repeats: int, arms: dict[str, Arm]) -> None:
    """Repeats a case of pictures in memory, after a warm-up: both sides do each batch before the next one comes."""
    for repeat in range(-1, repeats):
        costs: dict[str, list[list[float]]] = {side: [] for side in sides}
        for part in range(values["batches"]):
            for side in sides if (repeat + part) % 2 == 0 else reversed(sides):
                costs[side] += sides[side].call(name, "do", part=part)
        for side, parts in costs.items() if repeat >= 0 else ():
            _note(arms, f"{side}: {name}", INSIDE[values["kind"]], parts)


def _files(sides: dict[str, Side], name: str, values: dict[str, Any], repeats: int, arms: dict[str, Arm]) -> None:
    """Repeats a case of loaders, after a warm-up; every other repeat begins with our side."""
    boxes = Path(values["folder"])
    for repeat in range(-1, repeats):
        costs: dict[str, list[list[float]]] = {}
        for side in sides if repeat % 2 == 0 else reversed(sides):
            if side == "before":
                memory, epoch = sides[side].call(name, "do", part=0)
                costs |= {"before: files": [epoch], f"before: files{MEMORY}": [epoch, memory]}
                continue
            for what, cache, anew, epochs in LOADERS:
                folder = str(boxes) if cache == "disk" else None
                for path in boxes.iterdir() if anew else ():
                    path.unlink()
                memory, *answer = sides[side].call(name, "do", part=0, cache=cache, folder=folder, epochs=epochs)
                costs |= {f"ours: {what}" + (f", epoch {k + 1}" if epochs > 1 else ""): [cost]
                          for k, cost in enumerate(answer)}  # fmt: skip
                if not anew and cache == "disk":
                    costs[f"ours: {what}, epoch 1{MEMORY}"] = [answer[0], memory]
        for arm, parts in costs.items() if repeat >= 0 else ():
            _note(arms, arm, INSIDE["files"], parts)


def _note(arms: dict[str, Arm], name: str, inside: str, parts: Sequence[Sequence[float]]) -> None:
    """Adds a repeat, the sum of its parts, to an arm."""
    cpu, wall, samples = map(sum, zip(*parts, strict=True))
    arm = arms.setdefault(name, Arm(name, (), int(samples), inside))
    arm.cpu.append(cpu * arm.samples / samples)  # a loader may have made a batch more ahead than another time
    arm.wall.append(wall * arm.samples / samples)


def _pairs(arms: dict[str, Arm]) -> Iterator[tuple[str, str]]:
    """The names of arms that are compared."""
    yield from ((f"before: {name}", f"ours: {name}") for name in CASES if f"before: {name}" in arms)
    if "before: files" in arms:
        (ram, *_), (makes, *_), (disk, *_) = LOADERS
        yield "before: files", f"ours: {disk}, epoch 1"
        yield f"before: files{MEMORY}", f"ours: {disk}, epoch 1{MEMORY}"
        yield f"ours: {ram}, epoch 2", f"ours: {disk}, epoch 1"  # which checks the file's pictures
        yield f"ours: {ram}, epoch 2", f"ours: {disk}, epoch 2"
        yield f"ours: {ram}, epoch 1", f"ours: {makes}"


def table(document: dict[str, Any]) -> str:
    """The result as text: a line a comparison."""
    middles = {arm["name"]: arm["cpu_ms"]["median"] for arm in document["arms"]}
    commits = f"commit {document['before']['commit']} (before), {document['commit']} (ours)"
    lines = [f"\nCPU ms a source image: {commits}", "", f"{'':76} {'ms':>7} {'ms':>7} {'ratio':>6}  lowest-highest"]
    for name, ratio in document["ratios"].items():
        a, b = name.split(" / ")
        spread = f"{ratio['median']:6.2f}  {ratio['low']:.2f}-{ratio['high']:.2f}"
        lines.append(f"{name:76} {middles[a]:7.2f} {middles[b]:7.2f} {spread}")
    equal = [name for name, same in document["views_equal"].items() if same]
    other = [name for name, same in document["views_equal"].items() if not same]
    for names, word in ((equal, "equal to the bit"), (other, "NOT equal")):
        lines += [f"views {word}: {', '.join(names)}"] if names else []
    return "\n".join(lines)


if __name__ == "__main__":
    main(program)
