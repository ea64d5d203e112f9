"""Arrays that lie in a file and not in memory, and letting go of the pages that were read."""

import math
import mmap
from typing import Any

import numpy as np

MAX_PAGES = 2**28  # bytes of pages that may be read before they are let go of
_FAULT = 16 * mmap.PAGESIZE  # what Linux maps around an address that is read


class Elsewhere:
    """What stands for an array that is not in memory: its rows are read when they are asked for."""

    shape: tuple[int, ...]
    dtype: np.dtype

    def rows(self, rows: np.ndarray) -> np.ndarray:
        """Return some rows, in this order."""
        raise NotImplementedError

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, place: slice) -> np.ndarray:
        return self.rows(np.arange(*place.indices(len(self))))

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of values."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes that all of it would take in memory."""
        return self.size * self.dtype.itemsize


def is_mapped(array: Any) -> bool:
    """Return whether an array, or what it is a view of, lies in a file."""
    return isinstance(array, Elsewhere) or _map_of(array) is not None


def let_go(array: np.ndarray) -> None:
    """Drop the pages of a mapped array that is only read; they are read again when they are needed.

    The system would take them back when memory is short, but counts them as this process's until
    then. Pages that may hold changes are left alone.
    """
    found = _map_of(array)
    if found is not None and found.mode == "r" and hasattr(mmap, "MADV_DONTNEED"):
        found._mmap.madvise(mmap.MADV_DONTNEED)  # type: ignore[attr-defined]


def held() -> int:
    """Return how many bytes of files' pages count as this process's; 0 if it is not known."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[2]) * mmap.PAGESIZE
    except OSError:
        return 0


def take(array: Any, rows: np.ndarray) -> np.ndarray:
    """Return a copy of some rows of an array.

    Of a mapped one in Fortran order, whose rows lie on as many pages as they have values, a part of
    the columns at a time, so that no more pages are held than `MAX_PAGES`.
    """
    if isinstance(array, Elsewhere):
        return array.rows(rows)
    if not is_mapped(array) or array.flags.c_contiguous or not array.flags.f_contiguous:
        return np.asarray(array).take(rows, axis=0)
    turned = np.asarray(array).T
    taken = np.empty((len(rows), *array.shape[1:]), array.dtype, order="F")
    step = max(1, MAX_PAGES // max(1, array.nbytes // len(turned)))
    for start in range(0, len(turned), step):
        taken.T[start : start + step] = turned[start : start + step][..., rows]
        if step < len(turned):
            let_go(array)
    return taken


def pages_of(rows: int, array: Any) -> int:
    """Return at most how many bytes of pages are read with so many rows of an array."""
    if isinstance(array, Elsewhere):
        return 0
    row = array.nbytes // max(1, len(array))
    apart = 1 if array.flags.c_contiguous else max(1, row // array.itemsize)  # runs of values that one row has
    return min(array.nbytes, rows * max(row, apart * _FAULT))


def _map_of(array: np.ndarray) -> np.memmap | None:
    base: object = array
    found = None
    while base is not None:
        found = base if isinstance(base, np.memmap) else found
        base = getattr(base, "base", None)
    return found
