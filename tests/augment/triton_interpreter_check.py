"""Whether Triton's interpreter runs a loop whose length was computed: older ones do not beside numpy 2.5 and later.

Run with TRITON_INTERPRET=1; exit status 0: it does.
"""

import torch
import triton
import triton.language as tl


@triton.jit
def count(length, out):
    for _ in range(0, tl.load(length)):
        tl.store(out, tl.load(out) + 1)


def main() -> None:
    """Counts to 3."""
    out = torch.zeros(1, dtype=torch.int32)
    count[(1,)](torch.tensor([3], dtype=torch.int32), out)
    assert out.item() == 3


if __name__ == "__main__":
    main()
