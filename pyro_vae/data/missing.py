"""Data of which single entries are missing: NaN in ``x`` becomes a field ``seen``."""

from collections.abc import Mapping, Sequence

import numpy as np

from pyro_vae.data.columns import Column
from pyro_vae.data.memory_maps import Elsewhere
from pyro_vae.data.readers import DataError, note
from pyro_vae.data.schema import Arrays


def mark_missing(parts: Mapping[str, Arrays], name: str, categorical: Sequence[Column] = ()) -> Mapping[str, Arrays]:
    """Return the arrays with a number for every NaN in ``x``, and a field ``seen`` of x's shape
    that says where there was one.

    The number is the feature's median in the first part, which leaves the support and the moments
    of x as they are, or the most frequent category; no pair that reads ``seen`` looks at it.

    Data without NaN stay as they are, and so do those in shards.

    Raises:
        DataError: there are NaN and a field ``seen`` too, or nothing but NaN.
    """
    if any(isinstance(arrays["x"], Elsewhere) for arrays in parts.values()):
        return parts  # where NaN are refused
    missing = {part: np.isnan(arrays["x"]) for part, arrays in parts.items() if arrays["x"].dtype.kind == "f"}
    count = sum(map(np.count_nonzero, missing.values()))
    if not count:
        return parts
    total = sum(array.size for array in missing.values())
    if count == total:
        raise DataError(f"{name}: every entry of x is missing (NaN): give data of which something is seen.")
    if any("seen" in arrays for arrays in parts.values()):
        raise DataError(f"{name}: x has NaN and there is a field seen, which says the same: give one or the other.")
    note(f"{name}: {count:,} of {total:,} entries of x are missing (NaN); the field seen says which.")
    first = next(iter(parts.values()))["x"]
    usual = _medians(first)
    for column in categorical:
        counts = np.nansum(first[:, column.place], axis=0)
        usual[column.place] = np.arange(len(counts)) == counts.argmax()
    return {
        part: {**arrays, "x": np.where(missing[part], usual, arrays["x"]), "seen": ~missing[part]}
        for part, arrays in parts.items()
    }


def _medians(x: np.ndarray) -> np.ndarray:
    """Return a value of each feature with as many below as above; 0 where none is seen."""
    ordered = np.sort(x, axis=0)  # NaN come last
    middle = np.maximum(np.count_nonzero(~np.isnan(x), axis=0) - 1, 0) // 2
    return np.nan_to_num(np.take_along_axis(ordered, middle[None], 0)[0])
