"""Binary draws of grey values, a pure function of key and position: no generator state to keep.

A pixel ``k`` of ``0..top`` becomes one with probability ``k / top``: exactly, since an integer
uniform on ``0..top-1`` is compared with ``k``. Its bits are the counter-based SplitMix64 sequence
(*Fast Splittable Pseudorandom Number Generators*, Steele, Lea & Flood, 2014): datum ``i`` gets the
same bits whatever batch, process or order it is asked for in.
"""

from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def key(*parts: object) -> int:
    """Return 64 bits that depend on every part, such as ``key("noise", seed, epoch, step)``."""
    return int.from_bytes(blake2b(repr(parts).encode(), digest_size=8).digest(), "little")


def mix(words: Words) -> Words:
    """Scramble ``words`` in place (SplitMix64's finalizer, a bijection) and return them."""
    shifted = words >> np.uint64(30)
    words ^= shifted
    words *= np.uint64(0xBF58476D1CE4E5B9)
    np.right_shift(words, np.uint64(27), out=shifted)
    words ^= shifted
    words *= np.uint64(0x94D049BB133111EB)
    np.right_shift(words, np.uint64(31), out=shifted)
    words ^= shifted
    return words


def random_words(key: int, counters: Words) -> Words:
    """Return the random words number ``counters`` of the stream ``key``, in the counters' shape."""
    words = counters * _GOLDEN
    words += np.uint64(key)
    return mix(words)


def draw(values: NDArray, top: int | None, *, key: int, positions: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Return independent 0/1 draws with probabilities ``values / top``.

    Args:
        values: integers of ``0..top``, or real numbers of [0, 1] with ``top`` None; ``(batch,
            features)``.
        top: the value that stands for probability one.
        key: names the stream.
        positions: ``(batch,)`` place of each datum in the stream.

    Returns:
        ``(batch, features)`` of uint8. Exact for ``values`` of uint8; otherwise the probability is
        within 2^-25.
    """
    features = values.shape[1]
    places = positions.astype(np.uint64)[:, None]
    if top is None or values.dtype != np.uint8:
        words = _row_words(key, places, features, size=4).view("<u4")[:, :features]
        uniform = ((words >> np.uint32(8)).astype(np.float32) + np.float32(0.5)) * np.float32(2**-24)
        return (uniform < values.astype(np.float32) / np.float32(top or 1)).view(np.uint8)
    uniform8 = _row_words(key, places, features, size=1).view(np.uint8)[:, :features]
    # 256 is no multiple of top (255, most often), so bytes past the last whole multiple are
    # replaced by a fresh draw
    limit = 256 - 256 % top
    rejected = np.flatnonzero(uniform8 >= limit) if limit < 256 else np.empty(0, np.int64)
    if limit != top:
        uniform8 = uniform8 % np.uint8(top)
    if len(rejected):
        row, column = np.divmod(rejected, features)
        counters = places[row, 0] * np.uint64(features) + column.astype(np.uint64)
        fresh = random_words(key ^ 0x5851F42D4C957F2D, counters)
        uniform8[row, column] = fresh % np.uint64(top)  # biased by less than top / 2^64
    return (uniform8 < values).view(np.uint8)


def _row_words(key: int, places: Words, features: int, *, size: int) -> Words:
    """Return random words ``(batch, words)`` for ``features`` numbers of ``size`` bytes per row."""
    words = -(-features * size // 8)
    counters: Words = np.add(places * np.uint64(words), np.arange(words, dtype=np.uint64), dtype=np.uint64)
    return random_words(key, counters).astype("<u8", copy=False)
