"""Columns of a table as numbers: those of categories one-hot, behind the others.

A column is one of categories if it holds text, is of pandas' dtype category, or is named as one;
with such columns beside it, so is one of booleans, or of 0 and 1 alone.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from pyro_vae.data.readers import DataError, note

MOST = 1000  # categories of a column
FEW = 20  # so many may be as many as there are data

Named = Sequence[str] | Mapping[str, Sequence[Any]]


class Column(NamedTuple):
    """A column of categories: category k is feature ``start + k`` of x, which is 0 or 1."""

    name: str
    start: int
    categories: tuple[str, ...]

    @property
    def place(self) -> slice:
        """Where in x it is."""
        return slice(self.start, self.start + len(self.categories))


class Numbers(NamedTuple):
    """A table as numbers, ``x`` of shape (data, features)."""

    x: np.ndarray
    feature_names: tuple[str, ...]
    categorical: tuple[Column, ...]


def to_numbers(columns: Mapping[str, Any], named: Named | None = None) -> Numbers:
    """Return a table as numbers.

    Args:
        columns: by name, of one length.
        named: the columns that are categories though they hold numbers, by name. With their
            categories too, by column, these are all such columns, and there are no others.

    Raises:
        DataError: a column holds neither numbers nor categories, or one that is not known.
    """
    for name in named or ():
        if name not in columns:
            raise DataError(f"categories name a column {name!r}, and x of the table has {some(columns)}.")
    if isinstance(named, Mapping):
        categories = {name: tuple(map(text_of, named[name])) for name in named}
    else:
        categories = {name: _categories(columns[name], name) for name in _chosen(columns, named or ())}
    given = [name for name in columns if name not in categories]
    parts = [numbers_in(columns[name], name)[:, None] for name in given]
    if categories:  # whole numbers of one byte would be grey levels
        parts = [part.astype(np.int64) if part.dtype.kind in "ui" else part for part in parts]
    names, found = list(given), []
    for name, known in categories.items():
        found.append(Column(name, len(names), known))
        names += [f"{name}={category}" for category in known]
        parts.append(_one_hot(columns[name], name, known))
    return Numbers(np.concatenate(parts, 1), tuple(names), tuple(found))


def joined(columns: Sequence[Any]) -> Any:
    """Return a column that is in several tables as one."""
    if len(columns) == 1:
        return columns[0]
    arrays = [np.asarray(column) for column in columns]
    if all(array.dtype.kind in "biuf" for array in arrays) and not any(map(_declared, columns)):
        return np.concatenate(arrays)
    as_text = any(map(_declared, columns))
    values = [value for array in arrays for value in array.tolist()]
    return np.array([text_of(value) if as_text and not missing(value) else value for value in values], object)


def as_known(columns: Mapping[str, Any], feature_names: Sequence[str], known: Sequence[Column]) -> np.ndarray:
    """Return a table as x of data that have these features and categories, other columns left out.

    Raises:
        DataError: a column is missing, or holds what it may not.
    """
    numbers = feature_names[: known[0].start] if known else feature_names
    wanted = [*numbers, *(column.name for column in known)]
    absent = [name for name in wanted if name not in columns]
    if absent:
        raise DataError(f"The table has no column {absent[0]!r}, which x has: it has {some(columns)}.")
    categories = {column.name: column.categories for column in known}
    return to_numbers({name: columns[name] for name in wanted}, categories).x


def say(columns: Sequence[Column], name: str) -> None:
    """Say which columns became several."""
    listed = ", ".join(f"{column.name} ({len(column.categories)})" for column in columns)
    note(f"{name}: columns of categories are one-hot in x, 0 or 1 for each: {listed}.")


def some(names: Any) -> str:
    """Return the first names in words, and how many there are."""
    listed = list(names)
    return ", ".join(listed[:8]) + (f", ... ({len(listed)})" if len(listed) > 8 else "")


def numbers_in(column: Any, name: str) -> np.ndarray:
    """Return a column as numbers, NaN where it has none.

    Raises:
        DataError: it holds something else.
    """
    array = np.asarray(column)
    if array.dtype.kind in "biuf":
        return array.astype(np.int64) if array.dtype.kind == "b" else array
    try:
        if array.dtype.kind in "mM":  # times, which would pass as whole numbers
            raise TypeError
        given = [np.nan if missing(value) else value for value in array.tolist()]
        if any(isinstance(value, str) for value in given):
            raise TypeError
        return np.asarray(given, np.float64)
    except (TypeError, ValueError):
        example = next((value for value in array.tolist() if not missing(value)), None)
        raise DataError(
            f"Column {name!r} holds {example!r}, which is no number: leave the column out, make numbers of it, "
            "or name its categories."
        ) from None


def missing(value: Any) -> bool:
    """Return whether a value of a column says that there is none."""
    return value is None or type(value).__name__ in ("NAType", "NaTType") or value != value


def text_of(value: Any) -> str:
    """Return a category's name: 3 and 3.0, which a missing entry makes of it, are one."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _chosen(columns: Mapping[str, Any], named: Sequence[str]) -> list[str]:
    """Return the names of the columns of categories, in the table's order."""
    kinds = {name: "text" if name in named else _kind(column) for name, column in columns.items()}
    binary = {name for name, kind in kinds.items() if kind in ("boolean", "zero-one")}
    if "text" not in kinds.values() and (len(binary) == len(kinds) or "boolean" not in kinds.values()):
        return []
    return [name for name, kind in kinds.items() if kind != "number"]


def _kind(column: Any) -> str:
    array = np.asarray(column)
    if _declared(column) is not None:
        return "text"
    if array.dtype.kind in "OUST":
        values = [value for value in array.tolist() if not missing(value)]
        if any(isinstance(value, str) for value in values):
            return "text"
        if values and all(isinstance(value, bool) for value in values):
            return "boolean"
        array = np.array(values) if all(isinstance(value, int | float) for value in values) else array
    if array.dtype.kind == "b":
        return "boolean"
    if array.dtype.kind not in "iuf":
        return "number"
    known = array[~np.isnan(array)] if array.dtype.kind == "f" else array
    return "zero-one" if len(known) and bool(((known == 0) | (known == 1)).all()) else "number"


def _declared(column: Any) -> tuple[str, ...] | None:
    """Return the categories of pandas' dtype category, in its order."""
    dtype: Any = getattr(column, "dtype", None)
    if not (hasattr(dtype, "categories") and hasattr(dtype, "ordered")) or dtype.categories is None:
        return None
    return tuple(map(text_of, dtype.categories.tolist()))


def _categories(column: Any, name: str) -> tuple[str, ...]:
    """Return a column's categories: as declared, else in alphabetical or rising order.

    Raises:
        DataError: there are too many, or they are numbers but for a few.
    """
    found = _declared(column)
    values = [value for value in np.asarray(column).tolist() if not _nothing(value)]
    if found is None:
        numeric = not any(isinstance(value, str) for value in values)
        found = tuple(
            dict.fromkeys(map(text_of, sorted(set(values)) if numeric else sorted(set(map(text_of, values)))))
        )
    if not found:
        raise DataError(f"Column {name!r} is empty: leave it out.")
    odd = [text for text in found if not _is_number(text)]
    if 0 < len(odd) < len(found) / 2 and len(found) > 4:
        raise DataError(f"Column {name!r} holds {odd[0]!r} among numbers: leave such entries empty, or correct them.")
    if len(found) > MOST or (len(found) > FEW and len(found) > len(values) / 2):
        raise DataError(
            f"Column {name!r} holds {len(found):,} different entries, such as {found[0]!r}, in {len(values):,} data, "
            "too many for categories: leave the column out, or let it be y."
        )
    return found


def _nothing(value: Any) -> bool:
    return missing(value) or value == ""


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _one_hot(column: Any, name: str, categories: tuple[str, ...]) -> np.ndarray:
    """Return a column as (data, categories) of 0 and 1; where it is missing, NaN.

    Raises:
        DataError: a value is none of the categories.
    """
    number = {category: k for k, category in enumerate(categories)}
    codes = [-1 if _nothing(value) else number.get(text_of(value), -2) for value in np.asarray(column).tolist()]
    rows = np.array(codes)
    if (rows == -2).any():
        value = np.asarray(column).tolist()[int(np.flatnonzero(rows == -2)[0])]
        raise DataError(
            f"Column {name!r} holds {value!r}, which is none of its categories: they are {some(categories)}."
        )
    x = (rows[:, None] == np.arange(len(categories))).astype(np.int64)
    return np.where(rows[:, None] == -1, np.nan, x) if (rows == -1).any() else x
