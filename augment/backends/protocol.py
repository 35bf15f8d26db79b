"""What every backend is: a pure function of (plan, image files) that makes the pixels."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor

    from augment.views.plan import Plan


class Backend(Protocol):
    """`begin(plan, files)` may start on a batch that is to be rendered soon; at most one more is rendered before it.

    `render(plan, files)`: files[i] are the bytes of plan.images[i], as `ImageSet.read` gives them; anything for an
    image that the backend `holds`.

    Returns one tensor a view, [B, 3, size, size] in channels-last memory, normalised, on the backend's device; nothing
    writes to it afterwards. Any exception means that this batch could not be made (a file that cannot be decoded);
    after `reset()` the backend must work again.
    """

    name: str

    def begin(self, plan: "Plan", files: Sequence[bytes], /) -> None:
        """Nothing, for backends whose threads are all at work in `render`."""

    def render(self, plan: "Plan", files: Sequence[bytes], /) -> "tuple[Tensor, ...]": ...

    def into(self, views: "Sequence[Tensor]", /) -> AbstractContextManager[None]:
        """A context in which `render` may put its views into these tensors; backends that cannot take no notice."""
        return nullcontext()

    def holds(self, row: int) -> bool:
        """False, for backends that keep nothing from batch to batch."""
        return False

    def decoded(self, files: Sequence[bytes], /) -> int:
        """How many pictures the last `render` decoded; `files` were its files."""
        return sum(map(bool, files))

    def reset(self) -> None:
        """Nothing, for backends that a failed batch leaves as they were."""

    def close(self) -> None: ...
