"""Arrays that lie in a file and not in memory, and letting go of the pages that were read."""

import mmap

import numpy as np

MAX_PAGES = 2**28  # bytes of pages that may be read before they are let go of
_FAULT = 16 * mmap.PAGESIZE  # what Linux maps around an address that is read


def is_mapped(array: np.ndarray) -> bool:
    """Return whether an array, or what it is a view of, lies in a file."""
    return _map_of(array) is not None


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


def take(array: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return a copy of some rows of an array.

    Of a mapped one in Fortran order, whose rows lie on as many pages as they have values, a part of
    the columns at a time, so that no more pages are held than `MAX_PAGES`.
    """
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


def pages_of(rows: int, array: np.ndarray) -> int:
    """Return at most how many bytes of pages are read with so many rows of an array."""
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
