"""Training, validation and test splits that never leak.

They are disjoint, together hold all of the data, and never divide groups or copies.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from pyro_vae.data.binarization import Words, key, mix
from pyro_vae.data.memory_maps import MAX_PAGES, held, is_mapped, let_go, pages_of, take
from pyro_vae.data.readers import DataError
from pyro_vae.data.schema import Contents, in_memory, pieces
from pyro_vae.data.shards import ShardedX
from pyro_vae.data.sources import Source

SPLITS = ("train", "valid", "test")

_COPIES = 0.05
_BLOCK = 2**17  # words hashed at a time


@dataclass
class Split:
    """Raw arrays and the rows of them that belong to a split (None: all, in order)."""

    arrays: Mapping[str, np.ndarray]
    rows: np.ndarray | None
    _read: int = field(default=0, repr=False)  # bytes of pages of mapped arrays, since they were let go of

    def __len__(self) -> int:
        return len(self.arrays["x"]) if self.rows is None else len(self.rows)

    def take(self, name: str, positions: np.ndarray) -> np.ndarray:
        """Return a copy of the field ``name`` of the data at ``positions`` of the split."""
        rows = positions if self.rows is None else self.rows[positions]
        array = self.arrays[name]
        if not is_mapped(array):
            return take(array, rows)
        before = held()
        taken = take(array, rows)
        self._read += max(pages_of(len(rows), array), held() - before)  # Linux may map far more than what is read
        if self._read > MAX_PAGES:
            for each in self.arrays.values():
                let_go(each)
            self._read = 0
        return taken

    def order(self, generator: torch.Generator) -> np.ndarray:
        """Return the positions in an order that ``generator`` decides; a few shards at a time."""
        x: Any = self.arrays["x"]
        if isinstance(x, ShardedX):
            return x.order(self.rows, generator)
        return torch.randperm(len(self), generator=generator).numpy()


def cut(
    opened: Source, contents: Contents, valid: float | None, test: float | None, seed: int, split_by: str | None
) -> dict[str, Split]:
    """Return the splits: those given, and others cut from the training part or from all data."""
    parts = {
        part: {name: in_memory(array, name, contents) for name, array in arrays.items()}
        for part, arrays in opened.parts.items()
    }
    sizes = {}
    for split, asked, usual in (("valid", valid, opened.valid), ("test", test, opened.test)):
        if split not in parts:
            sizes[split] = usual if asked is None else asked
        elif asked is not None:
            raise DataError(f"{opened.name} has its own {split} split: leave {split}={asked} out.")
    if split_by is not None and not any(sizes.values()):
        raise DataError(
            f"split_by={split_by!r} keeps data together where splits are cut, and none is cut "
            f"from {opened.name}: leave it out.",
            unused="split_by",
        )
    whole = parts.pop("all", None) or parts.pop("train")
    groups = _groups(opened, whole, split_by)
    rows = _divide(len(whole["x"]), sizes, groups, seed, opened.name)
    splits = {split: Split(arrays, None) for split, arrays in parts.items()}
    if isinstance(whole["x"], ShardedX):  # one shard after the other
        rows = {split: np.sort(numbers) for split, numbers in rows.items()}
    splits |= {split: Split(whole, rows[split]) for split in rows}
    return {split: splits[split] for split in SPLITS}


def _groups(opened: Source, arrays: Mapping[str, np.ndarray], split_by: str | None) -> np.ndarray | None:
    """Return a number for each datum; data with equal numbers stay in one split."""
    x: Any = arrays["x"]
    if split_by is None and isinstance(x, ShardedX):
        return x.groups()
    if split_by is None:
        return None if opened.curated else copies(arrays["x"])
    if split_by not in arrays or arrays[split_by].ndim != 1:
        raise DataError(
            f"split_by={split_by!r} is not a field of {opened.name} with one number per datum "
            f"(it has {', '.join(arrays)})."
        )
    return np.unique(arrays[split_by], return_inverse=True)[1]


def copies(x: np.ndarray) -> np.ndarray | None:
    """Return a number for each datum, the same for equal data, if a few are copies of others; else
    None.

    A few copies are accidents of collecting, which must not lie in two splits. Many (over 5%) mean
    that the space is small and repeats are honest draws: keeping those together would leave whole
    patterns out of the training split.
    """
    hashes = np.concatenate([_row_hashes(piece) for piece in pieces(x)])
    distinct, number = np.unique(hashes, return_inverse=True)
    return number if 0 < len(x) - len(distinct) <= _COPIES * len(x) else None


def _divide(
    n: int, sizes: Mapping[str, float], groups: np.ndarray | None, seed: int, name: str
) -> dict[str, np.ndarray]:
    """Return the rows of each split of ``n`` data, shuffled except for training.

    Training draws an order for each epoch.
    """
    counts = {split: _count(size, n, split) for split, size in sizes.items()}
    if sum(counts.values()) >= n:
        cut = " and ".join(f"{count:,} for {split}" for split, count in counts.items())
        raise DataError(f"{name} has {n:,} data, and {cut} leave none for training: give smaller splits or more data.")
    generator = torch.Generator().manual_seed(key("split", seed) >> 1)
    order = torch.randperm(n, generator=generator).numpy()
    if groups is not None:
        shuffled = torch.randperm(int(groups.max()) + 1, generator=generator).numpy()
        order = order[np.argsort(shuffled[groups[order]], kind="stable")]
    rows, start = {}, 0
    for split, count in counts.items():
        stop = start + count
        while groups is not None and 0 < stop < n and start < stop and groups[order[stop - 1]] == groups[order[stop]]:
            stop += 1  # the group belongs to this split as a whole
        rows[split], start = order[start:stop], stop
    if start >= n:
        raise DataError(
            f"{name} has groups too large to leave any for training: give smaller splits or another split_by."
        )
    return {"train": np.sort(order[start:])} | rows


def _count(size: float, n: int, split: str) -> int:
    if isinstance(size, bool) or not 0 <= size < math.inf or (size >= 1 and size != int(size)):
        raise DataError(f"{split}={size} is not a size of a split: give a fraction below 1 or a whole number of data.")
    return int(size) if size >= 1 or size == 0 else max(1, round(n * size))


def _row_hashes(piece: np.ndarray) -> Words:
    data = np.ascontiguousarray(piece).reshape(len(piece), -1).view(np.uint8)
    width = -(-data.shape[1] // 8)
    places = np.arange(1, width + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    hashes = np.empty(len(data), np.uint64)
    rows = max(1, _BLOCK // max(1, width))  # a few at a time, which the processor's caches hold: three times faster
    for start in range(0, len(data), rows):
        block = data[start : start + rows]
        words = np.zeros((len(block), width), np.uint64)
        words.view(np.uint8)[:, : block.shape[1]] = block
        words += places
        hashes[start : start + rows] = mix(words).sum(axis=1, dtype=np.uint64)
    return hashes
