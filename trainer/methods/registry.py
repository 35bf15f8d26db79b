"""All training methods, one record each. A new method is a class in a file of its own and a record here.

No other file tests a method's name: config, heads, optimizer, masks, messages and the model card ask the record.
Nothing here imports torch, so `--help` answers at once.
"""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trainer.methods.base import Method
    from trainer.methods.byol import Alignment
    from trainer.model.networks import Network

QUEUE = 65536  # keys, of methods with a queue (Chen et al. 2020)
QUEUE_MOMENTUM = 0.999  # of the network that makes those keys (He et al. 2020)


@dataclass(frozen=True)
class MethodRecord:
    """What sets a method apart from the others."""

    name: str  # as in `--method NAME`
    implementation: str  # "module:Class", imported by `build`
    about: str  # one sentence on what it learns from
    optimizer: str = "lars"  # its paper's: "lars" or "sgd"
    predictor: str = "none"  # kind of `Heads.predictor`
    aligns: bool = False  # has conv heads and an `Alignment` with the masks, at the stages of --align-stages
    queue: bool = False  # keeps a queue of keys, and moves the target that makes them by QUEUE_MOMENTUM
    embeddings: int = 1  # of --dim numbers each, side by side in a projection
    outputs: int | None = None  # width of the projector where --dim does not set it
    pools_at: tuple[int, ...] = ()  # stages whose features are pooled with the masks as weights
    refused: Mapping[str, str] = field(default_factory=dict)  # policy: why it cannot be, and what to do instead
    options: frozenset[str] = frozenset({"dim"})  # those it uses of the options that not every method uses

    def build(self, online: "Network", alignment: "Alignment | None" = None, queue: int = QUEUE) -> "Method":
        """The method around an online network with its heads; takes `alignment` if it aligns, `queue` if it has one."""
        module, _, name = self.implementation.partition(":")
        method = getattr(importlib.import_module(module), name)
        if self.queue:
            return method(online, queue)
        return method(online, alignment) if self.aligns else method(online)

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
        """At most one key an image: older keys of the query's own image would be negatives. QUEUE without a queue."""
        return min(images, QUEUE) if self.queue else QUEUE

    def target(self, ema: float) -> str:
        """How the target network moves, for the model card."""
        if self.queue:
            return f"target momentum {QUEUE_MOMENTUM}"
        return f"target momentum {ema} rising to 1" if "ema" in self.options else "no target network"


_NOTHING_PASTED = "without a pasted rectangle there is nothing to align with. Use --policy {}, or --method {}"
_ALIGNED = "dim ema loss scale temperature reduction align_weight align_stages conv_hidden mask control"
_RECORDS = (
    MethodRecord(
        "cvsa",
        "trainer.methods.byol:Byol",
        "byol, and correspondence maps between the views are aligned with the masks of the pasted object (Eq. 7)",
        predictor="mlp",
        aligns=True,
        refused={"rrc": _NOTHING_PASTED.format("saliencyswap", "byol")},
        options=frozenset(_ALIGNED.split()),
    ),
    MethodRecord(
        "byol",
        "trainer.methods.byol:Byol",
        "the online network predicts the projections of its moving average, in both directions (Eq. 6)",
        predictor="mlp",
        options=frozenset({"dim", "ema"}),
    ),
    MethodRecord(
        "mocov2",
        "trainer.methods.moco:MocoV2",
        "InfoNCE against a queue of the moving average's keys, in one direction",
        optimizer="sgd",
        queue=True,
    ),
    MethodRecord("simclr", "trainer.methods.simclr:SimClr", "NT-Xent between both views, without a target network"),
    MethodRecord(
        "instloc",
        "trainer.methods.instloc:InstLoc",
        "mocov2 with features that are pooled where the instance was pasted",
        optimizer="sgd",
        queue=True,
        pools_at=(4,),
        refused={"rrc": _NOTHING_PASTED.format("instloc", "mocov2")},
        options=frozenset({"dim", "mask"}),
    ),
    MethodRecord(
        "looc",
        "trainer.methods.looc:LooC",
        "mocov2 in two embeddings, of which one is invariant to rotation and the other knows it",
        optimizer="sgd",
        queue=True,
        embeddings=2,
    ),
    MethodRecord(
        "rotpred",
        "trainer.methods.pretext:RotPred",
        "by how many quarter turns a view was rotated",
        optimizer="sgd",
        outputs=4,  # the turns
        options=frozenset(),
    ),
    MethodRecord(
        "relloc",
        "trainer.methods.pretext:RelLoc",
        "where a patch lies beside another one of the same view",
        optimizer="sgd",
        predictor="pairs",
    ),
)
METHODS = {record.name: record for record in _RECORDS}
METHOD_OPTIONS = frozenset().union(*(record.options for record in _RECORDS))  # options that not every method uses


def methods_with(option: str) -> str:
    """The methods that use an option, for a message: "cvsa and byol"."""
    *names, last = [record.name for record in _RECORDS if option in record.options]
    return f"{', '.join(names)} and {last}" if names else last
