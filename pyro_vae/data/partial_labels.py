"""Data of which few are labelled: the other labels of the training split are gone for good."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch

from pyro_vae.data.binarization import key
from pyro_vae.data.readers import DataError, note
from pyro_vae.data.schema import Arrays, Contents
from pyro_vae.data.splits import Split

# labelled share of a training batch: a label seen once per epoch teaches little among 50,000 data
_SHARE = 0.1


def mark_unknown(parts: Mapping[str, Arrays], name: str) -> Mapping[str, Arrays]:
    """Return the arrays with unknown classes, -1 or NaN in ``y``, replaced by 0.

    A field ``labelled`` says which classes are known.

    A ``labelled`` of 0 and 1, whatever the type, becomes a boolean one. Parts without either stay
    as they are.

    Raises:
        DataError: ``labelled`` holds other numbers, or no class is known at all.
    """
    parts = {part: _with_flags(arrays, name) for part, arrays in parts.items()}
    unknown = {part: _unknown(arrays["y"]) for part, arrays in parts.items() if "y" in arrays}
    if not any(missing.any() for missing in unknown.values()):
        return parts
    if all(missing.all() for missing in unknown.values()):
        raise DataError(f"{name}: y is unknown (-1 or NaN) for all data: leave y out.")
    count, total = (sum(map(of, unknown.values())) for of in (np.count_nonzero, len))
    note(f"{name}: y is unknown for {count:,} of {total:,} data, which count as unlabelled.")
    marked = {}
    for part, arrays in parts.items():
        known = ~unknown[part]
        y = np.where(known, arrays["y"], 0).astype(np.int64)
        marked[part] = {**arrays, "y": y, "labelled": known & arrays.get("labelled", True)}
    return marked


def _unknown(y: np.ndarray) -> np.ndarray:
    """Return where ``y`` holds no class though it holds classes elsewhere: bool ``(data,)``."""
    nothing = np.zeros(np.shape(y)[:1], bool)  # a single number is refused later, for its rows
    if y.ndim != 1 or y.dtype.kind not in "if":
        return nothing
    missing = np.isnan(y) | (y == -1)
    rest = y[~missing]
    classes = y.dtype.kind == "i" or (np.isnan(y).any() and bool((rest == np.floor(rest)).all()))
    return missing if classes and bool((rest >= 0).all()) else nothing


def _with_flags(arrays: Arrays, name: str) -> Arrays:
    flags = arrays.get("labelled")
    if flags is None or flags.dtype.kind == "b" or flags.dtype.kind not in "iuf":
        return arrays
    if not np.isin(flags, (0, 1)).all():
        raise DataError(
            f"{name}: labelled holds other values than 0 and 1: give 1 where y is known and 0 where it is not."
        )
    return {**arrays, "labelled": flags == 1}


def hide_labels(
    splits: Mapping[str, Split], contents: Contents, count: int, seed: int, name: str
) -> tuple[dict[str, Split], Contents]:
    """Return the splits with a field ``labelled``; all other training labels are overwritten by 0.

    ``count`` training data keep theirs, equally many per class, drawn by ``seed``; they are
    repeated until about one in ten rows is labelled. Validation and test data keep ``y``, to be
    scored with, and count as unlabelled.

    Raises:
        DataError: there are no classes, or not ``count`` data to label equally many of each.
    """
    classes = contents.classes
    if classes is None:
        raise DataError(f"labels={count} needs data with classes in y, and {name} has none: leave it out.")
    if count < classes or count % classes:
        raise DataError(
            f"labels={count} cannot be equally many of {classes} classes: give a multiple of {classes}, "
            f"such as {max(1, count // classes) * classes}."
        )
    train = splits["train"]
    rows = np.arange(len(train)) if train.rows is None else train.rows
    y = train.arrays["y"].reshape(-1)[rows]
    generator = torch.Generator().manual_seed(key("labels", seed) >> 1)
    order = torch.randperm(len(rows), generator=generator).numpy()
    each = count // classes
    chosen = [order[y[order] == label][:each] for label in range(classes)]
    if min(map(len, chosen)) < each:
        raise DataError(f"labels={count} is {each} a class, and {name} has a class with fewer: give fewer labels.")
    known = np.sort(rows[np.concatenate(chosen)])
    labelled = np.zeros(len(train.arrays["x"]), bool)
    labelled[known] = True
    hidden = train.arrays["y"].copy()
    unknown = rows[~labelled[rows]]
    hidden[unknown] = 0
    repeats = int(_SHARE * len(rows) / count)
    order_of_rows = np.concatenate([rows, *[known] * repeats])
    marked = {"train": Split({**train.arrays, "y": hidden, "labelled": labelled}, order_of_rows)}
    for split, part in splits.items():
        if split != "train":
            nothing = np.zeros(len(part.arrays["x"]), bool)
            marked[split] = Split({**part.arrays, "labelled": nothing}, part.rows)
    fields, kinds = {**contents.fields, "labelled": ()}, {**contents.kinds, "labelled": "boolean"}
    return marked, replace(contents, fields=fields, kinds=kinds)
