"""What other libraries hold as data, as arrays by field: tensors, tables, and data sets of items.

Libraries are known by what their objects can do, so that none of them is imported here: pandas and
polars by columns, AnnData by ``obs`` and ``var_names``, Hugging Face by ``column_names``, torch by
``__getitem__`` and ``__len__``.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from pyro_vae.data.readers import DataError

MOST_ITEMS = 10_000_000


class Objects(NamedTuple):
    """Arrays by field, which may be named x_train, x_test and so on; and names that came with
    them.
    """

    arrays: dict[str, Any]
    feature_names: tuple[str, ...] | None = None
    class_names: tuple[str, ...] | None = None


def objects_in(source: Any, y: str | None) -> Objects | None:
    """Return what an object holds; None for a mapping of arrays, a name or a path, or what is no
    data.

    Args:
        source: any object.
        y: name of the column that is no part of x.

    Raises:
        DataError: a column is missing or holds no numbers, or items differ in shape.
    """
    if hasattr(source, "var_names") and hasattr(source, "obs"):
        return _annotated(source, y)
    if hasattr(source, "column_names") and hasattr(source, "features"):
        return _hugging_face({"all": source}, y)
    if isinstance(source, Mapping) and source and all(hasattr(part, "column_names") for part in source.values()):
        return _hugging_face(source, y)
    if hasattr(source, "columns") and hasattr(source, "to_numpy"):
        return table(source, y)
    found = _arrays(source)
    if found is not None and y is not None:
        raise DataError(f"y={y!r} names a column of a table, and {type(source).__name__} has none: leave it out.")
    return found


def table(frame: Any, y: str | None) -> Objects:
    """Return a table's columns as x, but for ``y``.

    Raises:
        DataError: see `objects_in`.
    """
    names = [str(name) for name in frame.columns]
    columns = dict(zip(names, frame.columns, strict=True))
    if len(columns) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"The table has two columns {twice!r}: rename one.")
    if y is not None and y not in columns:
        raise DataError(f"The table has no column {y!r} for y: it has {_some(names)}.")
    kept = [name for name in names if name != y]
    if not kept:
        raise DataError(f"The table has no column but {y!r}, which is y: x needs one at least.")
    x = np.stack([_numbers(frame[columns[name]], name) for name in kept], 1)
    arrays = {"x": x} if y is None else {"x": x, "y": labels(frame[columns[y]])}
    return Objects(arrays, tuple(kept))


def _numbers(column: Any, name: str) -> np.ndarray:
    """Return a column as numbers, NaN where it has none."""
    array = np.asarray(column)
    if array.dtype.kind in "biuf":
        return array.astype(np.int64) if array.dtype.kind == "b" else array
    try:
        if array.dtype.kind in "mM":  # times, which would pass as whole numbers
            raise TypeError
        given = [np.nan if _missing(value) else value for value in array.tolist()]
        if any(isinstance(value, str) for value in given):
            raise TypeError
        return np.asarray(given, np.float64)
    except (TypeError, ValueError):
        example = next((value for value in array.tolist() if not _missing(value)), None)
        raise DataError(
            f"Column {name!r} holds {example!r}, which is no number: leave the column out, make numbers of it "
            "(pandas.get_dummies), or let it be y."
        ) from None


def labels(column: Any) -> np.ndarray:
    """Return the values of y: numbers, or text, in which what is missing is empty."""
    array = np.asarray(column)
    if array.dtype.kind in "biuf":
        return array.astype(np.int64) if array.dtype.kind == "b" else array
    values = array.reshape(-1).tolist() if array.size == len(array) else array.tolist()
    if any(isinstance(value, str) for value in values):
        return np.array(["" if _missing(value) else str(value) for value in values])
    return np.array([np.nan if _missing(value) else value for value in values], np.float64)


def _missing(value: Any) -> bool:
    return value is None or type(value).__name__ in ("NAType", "NaTType") or value != value


def _annotated(source: Any, y: str | None) -> Objects:
    """Return AnnData: cells are data, genes are features, ``y`` is a column of ``obs``."""
    if y is not None and y not in source.obs.columns:
        raise DataError(f"AnnData has no {y!r} in obs: it has {_some(map(str, source.obs.columns))}.")
    arrays: dict[str, Any] = {"x": dense(source.X)}
    if y is not None:
        arrays["y"] = labels(source.obs[y])
    return Objects(arrays, tuple(map(str, source.var_names)))


def dense(x: Any) -> Any:
    """Return a sparse matrix as an array, and anything else as it is."""
    return x.toarray() if hasattr(x, "toarray") else x


def _hugging_face(parts: Mapping[str, Any], y: str | None) -> Objects:
    """Return Hugging Face's data: images or numbers, and a label."""
    arrays: dict[str, Any] = {}
    features = class_names = None
    for split, part in parts.items():
        names = list(part.column_names)
        label = y if y is not None else next((name for name in ("label", "labels", "y") if name in names), None)
        if label is not None and label not in names:
            raise DataError(f"The data set has no column {label!r} for y: it has {_some(names)}.")
        rest = [name for name in names if name != label]
        if not rest:
            raise DataError(f"The data set has no column but {label!r}, which is y: x needs one at least.")
        columns = {name: _column(part[name], name) for name in rest}
        wide = [name for name in rest if columns[name].ndim > 1]
        if wide and len(rest) > 1:
            raise DataError(
                f"The data set has columns {_some(rest)} of different shapes: keep one with select_columns, and y."
            )
        ending = "" if split == "all" else f"_{split}"
        arrays[f"x{ending}"] = columns[rest[0]] if wide else np.stack(list(columns.values()), 1)
        features = None if wide else tuple(rest)
        if label is not None:
            arrays[f"y{ending}"] = labels(list(part[label]))
            named = getattr(part.features[label], "names", None)
            class_names = tuple(map(str, named)) if named else None
    return Objects(arrays, features, class_names)


def _column(values: Any, name: str) -> np.ndarray:
    listed = list(values)
    if listed and (isinstance(listed[0], str) or listed[0] is None):
        return _numbers(listed, name)
    return _stacked(listed, name)


def _arrays(source: Any) -> Objects | None:
    """Return tensors, sparse matrices, pairs of them, and data sets of items."""
    if hasattr(source, "toarray"):
        return Objects({"x": dense(source)})
    if isinstance(source, np.ndarray) or _is_tensor(source):
        return Objects({"x": source})
    if isinstance(source, tuple) and len(source) == 2 and all(_has_rows(part) for part in source):
        return Objects({"x": dense(source[0]), "y": source[1]})
    if hasattr(source, "dataset") and hasattr(source, "batch_size"):  # a DataLoader: fit makes batches itself
        return objects_in(source.dataset, None)
    if isinstance(source, Sequence | Mapping):
        return None
    if not (hasattr(source, "__getitem__") and hasattr(source, "__len__")):
        if hasattr(source, "__iter__"):
            raise DataError(
                f"{type(source).__name__} has no length, and splits need one: give a data set with __len__ and "
                "__getitem__, or arrays."
            )
        return None
    return Objects(_items(source))


def _is_tensor(source: Any) -> bool:
    return type(source).__module__.partition(".")[0] == "torch" and hasattr(source, "detach")


def _has_rows(part: Any) -> bool:
    return (
        isinstance(part, np.ndarray | list) or _is_tensor(part) or hasattr(part, "toarray") or hasattr(part, "to_numpy")
    )


def _items(source: Any) -> dict[str, Any]:
    """Return the items of a map-style data set: x; x and y; or fields by name."""
    tensors = getattr(source, "tensors", None)  # of a TensorDataset
    if isinstance(tensors, tuple) and 1 <= len(tensors) <= 2:
        return dict(zip("xy", tensors, strict=False))
    size = len(source)
    if not 0 < size <= MOST_ITEMS:
        raise DataError(f"The data set has {size:,} items: give 1 to {MOST_ITEMS:,}, or .npy files for more.")
    items = [source[i] for i in range(size)]
    first = items[0]
    if isinstance(first, Mapping):
        return {str(name): _stacked([item[name] for item in items], str(name)) for name in first}
    if isinstance(first, tuple | list):
        if not 1 <= len(first) <= 2:
            raise DataError(
                f"An item of the data set has {len(first)} parts: give x, (x, y), or a dict of fields by name."
            )
        return {name: _stacked([item[k] for item in items], name) for k, name in enumerate("xy"[: len(first)])}
    return {"x": _stacked(items, "x")}


def _stacked(values: list[Any], name: str) -> np.ndarray:
    try:
        arrays = [np.asarray(value.detach().cpu() if _is_tensor(value) else value) for value in values]
        return np.stack(arrays)
    except ValueError:
        raise DataError(f"{name} of the items differs in shape: give items of one shape.") from None


def _some(names: Any) -> str:
    listed = list(names)
    return ", ".join(listed[:8]) + (f", ... ({len(listed)})" if len(listed) > 8 else "")


def numbered(arrays: dict[str, Any], known: tuple[str, ...] | None) -> tuple[dict[str, Any], tuple[str, ...] | None]:
    """Return the arrays with text in ``y`` as numbers of classes, in alphabetical order, -1 where
    it is empty; and the classes' names.

    Args:
        arrays: by field, or by field and split.
        known: names that came with the data.
    """
    texts = {
        name: labels(value) for name, value in arrays.items() if name.partition("_")[0] == "y" and _holds_text(value)
    }
    if not texts:
        return arrays, known
    names = known or tuple(sorted({str(text) for value in texts.values() for text in value.tolist() if text}))
    number = {text: k for k, text in enumerate(names)} | {"": -1}
    coded = {name: np.array([number[text] for text in value.tolist()]) for name, value in texts.items()}
    return {**arrays, **coded}, names


def _holds_text(value: Any) -> bool:
    if hasattr(value, "detach"):
        return False
    array = np.asarray(value)
    return array.ndim == 1 and (
        array.dtype.kind in "UST" or (array.dtype.kind == "O" and any(isinstance(v, str) for v in array.tolist()))
    )
