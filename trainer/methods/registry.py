"""All training methods, one record each. A new method is one file in this folder: a class marked with its record.

No other file tests a method's name: config, heads, optimizer, masks, messages and the model card ask the record.
Nothing here imports torch, so `--help` answers at once.
"""

import ast
import importlib
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from trainer.methods.loss_presets import MatchLoss

if TYPE_CHECKING:
    from trainer.methods.base import Method
    from trainer.model.networks import Network

C = TypeVar("C", bound=type)
QUEUE = 65536  # keys, of methods with a queue (Chen et al. 2020)
QUEUE_MOMENTUM = 0.999  # of the network that makes those keys (He et al. 2020)


@dataclass(frozen=True)
class MethodRecord:
    """What sets a method apart from the others."""

    name: str  # as in `--method NAME`
    about: str  # one sentence on what it learns from
    implementation: str  # "module:Class", imported by `build`
    optimizer: str = "lars"  # its paper's: "lars" or "sgd"
    predictor: str = "none"  # kind of `Heads.predictor`
    aligns: bool = False  # has conv heads and an `Alignment` with the masks, at the stages of --align-stages
    defaults: Mapping[str, Any] = field(default_factory=dict)  # of flags, where they are not the preset's
    controls: tuple[str, ...] = ()  # the values of --control that it has
    matches: bool = False  # has conv heads and a `MatchLoss` with the views' correspondences, at the same stages
    queue: bool = False  # keeps a queue of keys, and moves the target that makes them by QUEUE_MOMENTUM
    embeddings: int = 1  # of --dim numbers each, side by side in a projection
    outputs: int | None = None  # width of the projector where --dim does not set it
    pools_at: tuple[int, ...] = ()  # stages whose features are pooled with the masks as weights
    needs_pasting: str = ""  # why policies that paste nothing cannot be, and what to do instead
    options: Collection[str] = ("dim",)  # those it uses of the options that not every method uses
    takes: tuple[str, ...] = ()  # fields of `ModelConfig` that its class is given by name, for flags of its own

    def build(
        self, online: "Network", alignment: Any = None, queue: int = QUEUE, matching: MatchLoss | None = None,
        model: Any = None,
    ) -> "Method":  # fmt: skip
        """The method around an online network with its heads.

        `alignment`: a `trainer.methods.byol.Alignment`, for methods that align; `queue`: keys, for those with a queue;
        `matching`: for those that match, default: as it stands there; `model`: the `ModelConfig`, for those that take
        fields of it.
        """
        module, _, name = self.implementation.partition(":")
        method = getattr(importlib.import_module(module), name)
        own = {field: getattr(model, field) for field in self.takes}
        if self.queue:
            return method(online, queue, **own)
        if self.matches:
            return method(online, alignment, matching or MatchLoss(), **own)
        return method(online, alignment, **own) if self.aligns else method(online, **own)

    def dim(self, dim: int) -> int:
        """Width of the projections for --dim `dim`."""
        return self.outputs or self.embeddings * dim

    def mask_stages(self, align_stages: tuple[int, ...]) -> tuple[int, ...]:
        """Stages at which a step needs the views' masks."""
        return align_stages if self.aligns else self.pools_at

    def weight_decay(self, epochs: int) -> float:
        """The paper's: 1e-4 with SGD; BYOL's with LARS, which depends on the length of the run."""
        if self.optimizer == "sgd":
            return 1e-4
        return 1e-6 if epochs <= 300 else 1.5e-6

    def queue_length(self, images: int) -> int:
        """At most one key an image; QUEUE without a queue.

        A longer one would always hold older keys of the query's own image as negatives. This one does so for about half
        of the queries, as every epoch has another order (at most a quarter of a set's size: 3 %).
        """
        return min(images, QUEUE) if self.queue else QUEUE

    def target(self, ema: float) -> str:
        """How the target network moves, for the model card."""
        if self.queue:
            return f"target momentum {QUEUE_MOMENTUM}"
        return f"target momentum {ema} rising to 1" if "ema" in self.options else "no target network"


def method(name: str, about: str, **values: Any) -> Callable[[C], C]:
    """Marks a class as the method `name`, with the values of its record.

    They must be literals: the registry reads them from the file's text, without importing the file.
    """
    return lambda implementation: implementation


def _read_records() -> Iterator[MethodRecord]:
    """The records that stand above the classes of this folder. Importing the files instead would import torch."""
    for path in sorted(Path(__file__).parent.glob("*.py")):
        classes = (node for node in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(node, ast.ClassDef))
        for node in classes:
            for mark in node.decorator_list:
                if isinstance(mark, ast.Call) and isinstance(mark.func, ast.Name) and mark.func.id == method.__name__:
                    name, about = map(ast.literal_eval, mark.args)
                    values = {word.arg: ast.literal_eval(word.value) for word in mark.keywords if word.arg}
                    yield MethodRecord(name, about, f"{__package__}.{path.stem}:{node.name}", **values)


METHODS = {record.name: record for record in _read_records()}
METHOD_OPTIONS = frozenset().union(*(record.options for record in METHODS.values()))  # not every method uses them


def defaults_of(option: str) -> str:
    """The methods with a default of their own for an option, for its help: ", of matching 0.1"."""
    return "".join(f", of {name} {m.defaults[option]}" for name, m in METHODS.items() if option in m.defaults)


def methods_with(option: str) -> str:
    """The methods that use an option, for a message: "cvsa and byol"."""
    *names, last = [record.name for record in METHODS.values() if option in record.options]
    return f"{', '.join(names)} and {last}" if names else last
