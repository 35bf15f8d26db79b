"""Philox4x32-10, a counter-based random generator (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011).

A number is a pure function of (key, counter), so every view has its own stream and nothing has to be stored, shared
between workers or replayed on resume. The constants and rounds are those of the paper's Random123 library; the tests
hold it against that library's known-answer vectors.
"""

from collections.abc import Sequence

import numpy as np

_M0, _M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_W0, _W1 = 0x9E3779B9, 0xBB67AE85  # added to the key each round (golden ratio, sqrt(3) - 1)
_LOW = np.uint64(0xFFFFFFFF)
_32 = np.uint64(32)
_ROUNDS = 10

# Purposes whose numbers must never coincide; the fourth counter word carries them above the view's number.
VIEW, ORDER, PARTNER = 0, 1, 2


def philox(counter: np.ndarray, key: tuple[int, int]) -> np.ndarray:
    """uint32 [..., 4] counters and two 32-bit key words to uint32 [..., 4] random words."""
    return np.stack(_rounds([counter[..., i].astype(np.uint64) for i in range(4)], key), axis=-1)


def _rounds(counter: Sequence[np.ndarray | np.uint64], key: tuple[int, int]) -> list[np.ndarray]:
    """`philox` of four words apart, uint64 arrays that broadcast: what few depend on is computed for few."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        p0, p1 = _M0 * c0, _M1 * c2
        c0, c1 = (p1 >> _32) ^ (c1 ^ np.uint64(k0)), p1 & _LOW
        c2, c3 = (p0 >> _32) ^ (c3 ^ np.uint64(k1)), p0 & _LOW
        k0, k1 = (k0 + _W0) & 0xFFFFFFFF, (k1 + _W1) & 0xFFFFFFFF
    return [np.asarray(word, np.uint32) for word in (c0, c1, c2, c3)]


def words(seed: int, epoch: int, sample: np.ndarray, view: np.ndarray, count: int, purpose: int = VIEW) -> np.ndarray:
    """uint32 [..., count]: the first `count` words of the streams of (seed, epoch, sample, view).

    `sample` and `view` are integer arrays that broadcast against each other. In memory the words come first, then the
    samples, so that a word of all of them is one piece. Raises ValueError for a seed outside 64 bits, an epoch or a
    sample outside 32.
    """
    if not 0 <= seed < 1 << 64:
        raise ValueError(f"seed={seed}: must be at least 0 and below 2**64")
    if not 0 <= epoch < 1 << 32:
        raise ValueError(f"epoch={epoch}: must be at least 0 and below 2**32")
    sample, view = np.asarray(sample), np.asarray(view)
    if sample.size and not (sample.min() >= 0 and sample.max() < 1 << 32):
        raise ValueError(f"sample={sample.min()}..{sample.max()}: must be at least 0 and below 2**32")
    shape, blocks = np.broadcast_shapes(sample.shape, view.shape), -(-count // 4)
    sample, view = sample.astype(np.uint64), view.astype(np.uint64)
    block = np.arange(blocks, dtype=np.uint64).reshape(-1, *[1] * len(shape))
    counter = block, sample, np.uint64(epoch), view | np.uint64(purpose << 16)
    out = np.empty((blocks, 4, *shape), np.uint32)
    for i, word in enumerate(_rounds(counter, (seed & 0xFFFFFFFF, seed >> 32))):
        out[:, i] = word
    return np.moveaxis(out.reshape(4 * blocks, *shape)[:count], 0, -1)


def uniform(bits: np.ndarray) -> np.ndarray:
    """uint32 words to float64 in [0, 1): multiples of 2**-32."""
    return bits * 2.0**-32


def below(bits: np.ndarray, limit: np.ndarray | int) -> np.ndarray:
    """uint32 words to int64 in [0, limit), by multiplication (bias below limit / 2**32)."""
    return (bits.astype(np.uint64) * np.asarray(limit, np.uint64) >> _32).astype(np.int64)
