"""A short name for what a data set holds: equal where all data, fields and splits are."""

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from pyro_vae.data.shards import ShardedX
from pyro_vae.data.splits import Split

MAX_BYTES = 2**26  # of a field that are read; of more, rows at equal distances
_PIECE = 2**22


def fingerprint(splits: Mapping[str, Split]) -> str:
    """Return 32 hexadecimal digits that depend on every field of every split, and on their order.

    Of a field above 64 MiB, rows at equal distances stand for all; of shards, their names,
    sizes and the first data of some.
    """
    digest = hashlib.blake2b(digest_size=16)
    for split, part in splits.items():
        for name in sorted(part.arrays):
            array: Any = part.arrays[name]
            digest.update(repr((split, name, array.dtype.newbyteorder("<").str, len(part), array.shape[1:])).encode())
            if isinstance(array, ShardedX):
                digest.update(array.digest() + (b"" if part.rows is None else part.rows.tobytes()))
                continue
            row = max(1, array.nbytes // max(1, len(array)))
            count = min(len(part), max(1, MAX_BYTES // row))
            positions = np.linspace(0, max(0, len(part) - 1), count).astype(np.int64)
            step = max(1, _PIECE // row)
            for start in range(0, count, step):
                rows = part.take(name, positions[start : start + step])
                digest.update(np.ascontiguousarray(rows, rows.dtype.newbyteorder("<")).tobytes())
    return digest.hexdigest()
