"""What arrays hold: checked once, in pieces of bounded size, before anything trusts them.

`inspect` answers with the narrowest set that holds every value of ``x`` ({0, 1}, equal steps of [0,
1], [0, 1] or the reals), its layout as an image, and the kind of every other field; or with one
`DataError`.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from pyro_vae.data.memory_maps import MAX_PAGES, is_mapped, let_go, pages_of
from pyro_vae.data.readers import DataError, note

Arrays = Mapping[str, np.ndarray]

_PIECE = 2**23  # bytes read at a time
_GRID_ERROR = 1e-6  # float32 keeps k/255 to 3e-8; real measurements are not this close to a grid by chance


@dataclass(frozen=True)
class Contents:
    """How to read arrays as fields of a batch.

    ``top`` is the raw value of ``x`` that means 1.0; None where raw values are taken as they are.
    ``fields`` are the events' shapes, ``kinds`` what each field's numbers are: "class", "integer",
    "boolean" or "float".
    """

    support: str
    levels: int | None
    top: int | None
    low: float
    high: float
    image: tuple[int, int, int] | None
    channels_last: bool
    fields: Mapping[str, tuple[int, ...]]
    kinds: Mapping[str, str]
    classes: int | None
    counts: bool = False
    """Whether real ``x`` are whole numbers from 0 on, some above 1."""


def pieces(array: np.ndarray) -> Iterator[np.ndarray]:
    """Cut ``array`` along its first dimension into views of some megabytes."""
    rows = max(1, _PIECE // max(1, array.nbytes // len(array)))
    read = 0
    for start in range(0, len(array), rows):
        yield np.asarray(array[start : start + rows])
        read += pages_of(rows, array)
        if read > MAX_PAGES:
            let_go(array)
            read = 0
    let_go(array)


def inspect(
    parts: Mapping[str, Arrays],
    name: str,
    *,
    levels: int | None = None,
    image: tuple[int, int, int] | None = None,
    classes: int | None = None,
) -> Contents:
    """Return what the arrays hold, or raise.

    Args:
        parts: arrays by field, for each part of the data (such as "train" and "test"); every part
            has ``x``.
        name: of the data, for messages.
        levels: integers of ``x`` are 0 .. ``levels`` - 1; by default 256 for uint8.
        image: (channels, height, width) of ``x``; by default its own shape.
        classes: ``y`` must be below this; by default its maximum says.

    Raises:
        DataError: lengths or shapes that disagree, empty arrays, text or objects, NaN or infinite
            values, bad labels.
    """
    _check_shapes(parts, name)
    values = Values(levels)
    for arrays in parts.values():
        for start, piece in _numbered(arrays["x"]):
            _check_finite(piece, "x", name, start)
            values.update(piece)
    support, found, top = values.support(name, first_dtype(parts))
    shape = next(iter(parts.values()))["x"].shape[1:]
    layout, channels_last = _image(shape, image, support, name)
    if layout and support == "real" and first_dtype(parts).kind in "iu" and values.low >= 0:
        _suggest_levels(values, name)
    fields: dict[str, tuple[int, ...]] = {"x": (math.prod(shape),)}
    kinds = {"x": "float"}
    lowest = highest = None
    for key in next(iter(parts.values())):
        if key != "x":
            columns = [arrays[key] for arrays in parts.values()]
            fields[key], kinds[key] = _kind(key, columns)
            ends = _check_field(key, kinds[key], columns, name)
            lowest, highest = ends if key == "y" else (lowest, highest)
    if kinds.get("y") == "class":
        assert lowest is not None
        assert highest is not None
        numbered = classes is None  # by whoever wrote y, not by a data set that says its classes
        classes = _classes(highest, classes, sum(len(arrays["x"]) for arrays in parts.values()), name)
        if numbered and lowest > 0:
            empty = "class 0 has" if lowest == 1 else f"classes 0 .. {lowest - 1} have"
            note(f"{name}: y begins with class {lowest}, so {empty} no data: number the classes from 0.")
    else:
        classes = None
    whole = support == "real" and values.whole and values.low >= 0
    return Contents(support, found, top, values.low, values.high, layout, channels_last, fields, kinds, classes, whole)


def _suggest_levels(values: "Values", name: str) -> None:
    note(
        f"{name}: x holds whole numbers {values.low:.0f} .. {values.high:.0f} and is taken as real numbers; "
        f"if they are grey levels, say so with levels={max(256, int(values.high) + 1)}."
    )


def in_memory(array: np.ndarray, key: str, contents: Contents) -> np.ndarray:
    """Return ``array`` as batches are cut from it fastest; a memory-mapped one unchanged.

    ``x`` becomes (data, features): codes of uint8 where its values lie on at most 256 levels, else
    float32.
    """
    if is_mapped(array):
        return array
    kind = contents.kinds[key]
    if key != "x":
        wanted = {"class": np.int64, "integer": np.int64, "boolean": np.bool_, "float": np.float32}[kind]
        return array.astype(wanted, copy=False).reshape(len(array), *contents.fields[key])
    x = flat(array, contents)
    if contents.top is None:
        return np.ascontiguousarray(x, np.float32)
    if contents.top > 255:
        return (x if x.dtype.kind == "f" else x / contents.top).astype(np.float32)
    if x.dtype.kind == "f":
        return np.rint(x * contents.top).astype(np.uint8)
    return np.ascontiguousarray(x, np.uint8)


def flat(x: np.ndarray, contents: Contents) -> np.ndarray:
    """Return ``x`` as (data, features), images in the order (channels, height, width)."""
    if x.ndim == 4 and contents.channels_last:
        x = x.transpose(0, 3, 1, 2)
    return x.reshape(len(x), *contents.fields["x"])


@dataclass
class Values:
    """The range of the values seen so far, and the grids k / top of [0, 1] that hold them all."""

    levels: int | None
    low: float = math.inf
    high: float = -math.inf
    ends: bool = True  # all are 0 or 255
    whole: bool = True  # all are whole numbers
    tops: list[int] = field(default_factory=lambda: list(range(1, 256)))

    def update(self, piece: np.ndarray) -> None:
        """Take the values of ``piece`` into account."""
        self.low, self.high = min(self.low, float(piece.min())), max(self.high, float(piece.max()))
        if piece.dtype.kind != "f":
            self.ends = self.ends and bool(((piece == 0) | (piece == 255)).all())
            return
        self.whole = self.whole and bool((piece == np.rint(piece)).all())
        if self.low < 0 or self.high > 1:
            self.tops = []
        elif self.tops:
            self._narrow(piece)

    def _narrow(self, piece: np.ndarray) -> None:
        seen = np.unique(piece.reshape(-1)[:4096])  # a cheap look first: sorting all of it is needed only for a grid
        seen = self._distinct(piece) if len(seen) <= 256 else seen
        if len(seen) > 256:
            self.tops = []
        values = seen.astype(np.float64)
        self.tops = [top for top in self.tops if np.abs(np.rint(values * top) / top - values).max() <= _GRID_ERROR]

    def _distinct(self, piece: np.ndarray) -> np.ndarray:
        """Return the values of a piece, by counting if they lie on the coarsest grid left."""
        if piece.dtype.itemsize < 4:  # too coarse to tell a grid from another
            return np.unique(piece)
        top = self.tops[0]
        codes = np.rint(piece * piece.dtype.type(top))
        if np.abs(codes / top - piece).max() > _GRID_ERROR:
            return np.unique(piece)
        return np.flatnonzero(np.bincount(codes.astype(np.uint8).reshape(-1), minlength=top + 1)) / top

    def support(self, name: str, dtype: np.dtype) -> tuple[str, int | None, int | None]:
        """Return (support, levels, top): the narrowest set that holds every value."""
        if dtype.kind == "f":
            return self._float_support(name)
        if self.levels is not None:
            if self.low < 0 or self.high >= self.levels:
                raise DataError(
                    f"{name} has integers {self.low:.0f} .. {self.high:.0f} in x, "
                    f"which levels={self.levels} (0 .. {self.levels - 1}) cannot hold: give more levels."
                )
            top = self.levels - 1
        elif self.low >= 0 and self.high <= 1:
            top = 1
        elif dtype == np.uint8:
            top = 255
        else:
            return "real", None, None
        binary = top == 1 or (top == 255 and self.ends)
        return ("binary", None, top) if binary else ("levels", top + 1, top)

    def _float_support(self, name: str) -> tuple[str, int | None, int | None]:
        if self.levels is not None and self.levels - 1 not in self.tops:
            raise DataError(
                f"{name} has floats in x that are not k/{self.levels - 1}, as levels={self.levels} says: "
                "leave the option out, or give x as integers."
            )
        if 1 in self.tops:
            if self.levels not in (None, 2):
                raise DataError(
                    f"{name} has floats in x that are 0 and 1 alone, of which levels={self.levels} says nothing: "
                    "leave the option out, or give x as integers.",
                    unused="levels",
                )
            return "binary", None, 1
        if self.tops:
            top = self.levels - 1 if self.levels is not None else self.tops[0]
            return "levels", top + 1, top
        return ("unit" if self.low >= 0 and self.high <= 1 else "real"), None, None


def first_dtype(parts: Mapping[str, Arrays]) -> np.dtype:
    """Return the type of ``x``, the same in every part."""
    return next(iter(parts.values()))["x"].dtype


def _numbered(array: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    start = 0
    for piece in pieces(array):
        yield start, piece
        start += len(piece)


def _check_shapes(parts: Mapping[str, Arrays], name: str) -> None:
    first_part, first = next(iter(parts.items()))
    for part, arrays in parts.items():
        if arrays.keys() != first.keys():
            missing = sorted(arrays.keys() ^ first.keys())[0]
            has, lacks = (part, first_part) if missing in arrays else (first_part, part)
            raise DataError(f"{name} has {missing}_{has} but no {missing}_{lacks}: give both or neither.")
        for key, array in arrays.items():
            label = key if len(parts) == 1 else f"{key}_{part}"
            if array.dtype.kind not in "biuf":
                raise DataError(f"{name}: {label} holds {_spell(array.dtype)}, not numbers: save integers or floats.")
            if array.ndim == 0:
                raise DataError(f"{name}: {label} is the single number {array}: every field needs one row per datum.")
            if array.size == 0:
                raise DataError(f"{name}: {label} of shape {array.shape} is empty: give at least one datum.")
            if len(array) != len(arrays["x"]):
                raise DataError(
                    f"{name}: {label} has {len(array):,} data and x has {len(arrays['x']):,}: "
                    "every field needs one row per datum."
                )
            if array.shape[1:] != first[key].shape[1:] or (key == "x" and array.dtype != first[key].dtype):
                raise DataError(
                    f"{name}: {key}_{first_part} is {_spell(first[key].dtype)} of shape {first[key].shape} and "
                    f"{label} is {_spell(array.dtype)} of shape {array.shape}: data of all splits must look alike."
                )


def _check_finite(piece: np.ndarray, key: str, name: str, start: int) -> None:
    if piece.dtype.kind != "f":
        return
    limit = np.finfo(np.float32).max  # what training can hold
    with np.errstate(invalid="ignore", over="ignore"):
        if -limit <= float(piece.min()) and float(piece.max()) <= limit:  # either is NaN where one value is
            return
        bad = ~(np.abs(piece.astype(np.float64, copy=False)) <= limit)
    if bad.any():
        row, column = map(int, np.argwhere(bad.reshape(len(piece), -1))[0])
        place = f"row {start + row:,}" + (f", column {column}" if piece.ndim == 2 else "")
        change = "remove or fill them"
        if key == "x" and bool(np.isnan(piece).any()):
            change += ", or mark them as missing (--missing mark, missing='mark') for a pair that reads seen"
        raise DataError(f"{name}: {key} holds NaN, infinite or too large values, the first in {place}: {change}.")


def _image(
    shape: tuple[int, ...], image: tuple[int, int, int] | None, support: str, name: str
) -> tuple[tuple[int, int, int] | None, bool]:
    """Return ((channels, height, width) or None, whether the channels come last in the array)."""
    if image is not None:
        channels_last = len(shape) == 3 and shape != image and shape == (*image[1:], image[0])
        if math.prod(image) != math.prod(shape) or (len(shape) == 3 and shape != image and not channels_last):
            raise DataError(
                f"{name}: x has the shape {shape} per datum, which is not an image of {image} "
                "(channels, height, width): change one of them."
            )
        return image, channels_last
    if len(shape) not in (2, 3):
        return None, False
    if len(shape) == 2:
        return (1, *shape), False
    first, last = shape[0] <= 4, shape[2] <= 4
    if support == "real" and not first and not last:
        return None, False
    if not first and not last:
        raise DataError(
            f"{name}: x has the shape {shape} per datum, and neither its first nor its last size is a number "
            "of channels (1 to 4): give image=(channels, height, width), --image on the command line, or x as "
            "(data, features)."
        )
    if last and (not first or shape[0] == shape[1]):  # where both could be channels, images are more often square
        return (shape[2], shape[0], shape[1]), True
    return (shape[0], shape[1], shape[2]), False


def _kind(key: str, columns: list[np.ndarray]) -> tuple[tuple[int, ...], str]:
    """Return (event shape, kind) of a field other than x."""
    shape = columns[0].shape[1:]
    kinds = {column.dtype.kind for column in columns}
    if key == "y":
        if "f" not in kinds and math.prod(shape) == 1:
            return (), "class"
        return shape or (1,), "float"
    if "f" in kinds:
        return shape, "float"
    return shape, "boolean" if kinds == {"b"} else "integer"


def _check_field(key: str, kind: str, columns: list[np.ndarray], name: str) -> tuple[int, int]:
    """Return the lowest and the highest value, where they are classes."""
    if not key.isidentifier():
        raise DataError(f"{name}: {key!r} cannot be an argument of a program: give the field a plain name.")
    lowest, highest = 2**63, -1
    for column in columns:
        for start, piece in _numbered(column):
            _check_finite(piece, key, name, start)
            if kind == "class":
                low = int(piece.min())
                if low < 0:
                    raise DataError(
                        f"{name}: {key} holds the class {low}: number the classes from 0, or give {key} as floats."
                    )
                lowest, highest = min(lowest, low), max(highest, int(piece.max()))
    return lowest, highest


def _classes(highest: int, known: int | None, data: int, name: str) -> int:
    if known is not None and highest >= known:
        raise DataError(f"{name}: y holds the class {highest}, but there are {known} classes (0 .. {known - 1}).")
    if known is None and highest >= max(1000, data):
        raise DataError(
            f"{name}: y holds the class {highest:,} among {data:,} data: "
            "number the classes from 0, or give y as floats."
        )
    return known or highest + 1


def _spell(dtype: np.dtype) -> str:
    return {"U": "text", "S": "text", "O": "Python objects", "c": "complex numbers"}.get(dtype.kind, str(dtype))
