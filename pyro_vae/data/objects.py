"""What other libraries hold as data, as arrays by field: tensors, tables, and data sets of items.

Libraries are known by what their objects can do, so that none of them is imported here: pandas and
polars by columns, AnnData by ``obs`` and ``var_names``, Hugging Face by ``column_names``, torch by
``__getitem__`` and ``__len__``.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from pyro_vae.data.columns import Column, Named, joined, missing, some, to_numbers
from pyro_vae.data.readers import DataError

MOST_ITEMS = 10_000_000


class Objects(NamedTuple):
    """Arrays by field, which may be named x_train, x_test and so on; and names that came with
    them.
    """

    arrays: dict[str, Any]
    feature_names: tuple[str, ...] | None = None
    class_names: tuple[str, ...] | None = None
    categorical: tuple[Column, ...] = ()


def objects_in(source: Any, y: str | None, categories: Named | None = None) -> Objects | None:
    """Return what an object holds; None for a mapping of arrays, a name or a path, or what is no
    data.

    Args:
        source: any object.
        y: name of the column that is no part of x.
        categories: see `pyro_vae.data.columns.to_numbers`.

    Raises:
        DataError: a column is missing or holds no numbers, or items differ in shape.
    """
    if hasattr(source, "var_names") and hasattr(source, "obs"):
        return _annotated(source, y)
    found = _of_columns(source, y, categories)
    if found is not None:
        return found
    found = _arrays(source)
    if found is not None and y is not None:
        raise DataError(f"y={y!r} names a column of a table, and {type(source).__name__} has none: leave it out.")
    return found


def _of_columns(source: Any, y: str | None, categories: Named | None) -> Objects | None:
    """Return what has named columns: tables, in pairs and mappings too, Hugging Face's data."""
    if hasattr(source, "column_names") and hasattr(source, "features"):
        return _hugging_face({"all": source}, y, categories)
    if isinstance(source, Mapping) and source and all(hasattr(part, "column_names") for part in source.values()):
        return _hugging_face(source, y, categories)
    if is_table(source):
        return tables({"x": columns_of(source)}, y, categories)
    if isinstance(source, tuple) and len(source) == 2 and is_table(source[0]) and y is None:
        source = {"x": source[0], "y": source[1]}
    if not isinstance(source, Mapping):
        return None
    held = {key: columns_of(part) for key, part in source.items() if str(key)[:2] in ("x", "x_") and is_table(part)}
    if not held:
        return None
    found = tables(held, y, categories)
    others = {str(key): dense(part) for key, part in source.items() if key not in held}
    return found._replace(arrays=found.arrays | others)


def tables(parts: Mapping[str, Mapping[str, Any]], y: str | None, categories: Named | None) -> Objects:
    """Return tables' columns as x, but for ``y``; categories are those of all tables together.

    Args:
        parts: columns by name, of each table by the name that its array has: x, x_train, x_test.
        y: name of the column that is no part of x.
        categories: see `pyro_vae.data.columns.to_numbers`.

    Raises:
        DataError: see `objects_in`.
    """
    first = next(iter(parts.values()))
    for one in parts.values():
        if set(one) != set(first):
            raise DataError(f"The tables have columns {some(first)} and {some(one)}: give each the same.")
    if y is not None and y not in first:
        raise DataError(f"The table has no column {y!r} for y: it has {some(first)}.")
    kept = [name for name in first if name != y]
    if not kept:
        raise DataError(f"The table has no column but {y!r}, which is y: x needs one at least.")
    x, features, found = to_numbers({name: joined([one[name] for one in parts.values()]) for name in kept}, categories)
    ends = np.cumsum([len(one[kept[0]]) for one in parts.values()])[:-1]
    arrays: dict[str, Any] = dict(zip(parts, np.split(x, ends), strict=True))
    if y is not None:
        arrays |= {f"y{key[1:]}": labels(one[y]) for key, one in parts.items()}
    return Objects(arrays, features, categorical=found)


def columns_of(frame: Any) -> dict[str, Any]:
    """Return a table's columns by name.

    Raises:
        DataError: two have one name.
    """
    names = [str(name) for name in frame.columns]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"The table has two columns {twice!r}: rename one.")
    return {name: frame[key] for name, key in zip(names, frame.columns, strict=True)}


def is_table(source: Any) -> bool:
    """Return whether an object has named columns, as pandas' and polars' tables do."""
    return hasattr(source, "columns") and hasattr(source, "to_numpy")


def labels(column: Any) -> np.ndarray:
    """Return the values of y: numbers, or text, in which what is missing is empty."""
    array = np.asarray(column)
    if array.dtype.kind in "biuf":
        return array.astype(np.int64) if array.dtype.kind == "b" else array
    values = array.reshape(-1).tolist() if array.size == len(array) else array.tolist()
    if any(isinstance(value, str) for value in values):
        return np.array(["" if missing(value) else str(value) for value in values])
    return np.array([np.nan if missing(value) else value for value in values], np.float64)


def _annotated(source: Any, y: str | None) -> Objects:
    """Return AnnData: cells are data, genes are features, ``y`` is a column of ``obs``."""
    if y is not None and y not in source.obs.columns:
        raise DataError(f"AnnData has no {y!r} in obs: it has {some(map(str, source.obs.columns))}.")
    arrays: dict[str, Any] = {"x": dense(source.X)}
    if y is not None:
        arrays["y"] = labels(source.obs[y])
    return Objects(arrays, tuple(map(str, source.var_names)))


def dense(x: Any) -> Any:
    """Return a sparse matrix as an array, and anything else as it is."""
    return x.toarray() if hasattr(x, "toarray") else x


def _hugging_face(parts: Mapping[str, Any], y: str | None, categories: Named | None) -> Objects:
    """Return Hugging Face's data: images or numbers, and a label."""
    arrays: dict[str, Any] = {}
    columns: dict[str, dict[str, Any]] = {}  # of tables
    class_names = None
    for split, part in parts.items():
        names = list(part.column_names)
        label = y if y is not None else next((name for name in ("label", "labels", "y") if name in names), None)
        if label is not None and label not in names:
            raise DataError(f"The data set has no column {label!r} for y: it has {some(names)}.")
        rest = [name for name in names if name != label]
        if not rest:
            raise DataError(f"The data set has no column but {label!r}, which is y: x needs one at least.")
        found = {name: _column(part, name) for name in rest}
        wide = [name for name in rest if found[name].ndim > 1]
        if wide and len(rest) > 1:
            raise DataError(
                f"The data set has columns {some(rest)} of different shapes: keep one with select_columns, and y."
            )
        ending = "" if split == "all" else f"_{split}"
        if wide:
            arrays[f"x{ending}"] = found[rest[0]]
        else:
            columns[f"x{ending}"] = found
        if label is not None:
            arrays[f"y{ending}"] = labels(list(part[label]))
            class_names = _names_of(part, label)
    table = tables(columns, None, categories) if columns else Objects({})
    return table._replace(arrays=table.arrays | arrays, class_names=class_names)


def _names_of(part: Any, name: str) -> tuple[str, ...] | None:
    """Return the names of a column of classes."""
    named = getattr(part.features[name], "names", None)
    return tuple(map(str, named)) if named else None


def _column(part: Any, name: str) -> np.ndarray:
    """Return a column of Hugging Face's: numbers, text or rows; of classes, their names."""
    listed, names = list(part[name]), _names_of(part, name)
    if names:
        return np.array([None if value is None or value < 0 else names[value] for value in listed], object)
    scalar = listed and all(value is None or isinstance(value, str | bool | int | float) for value in listed)
    return np.array(listed, object) if scalar else _stacked(listed, name)


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
