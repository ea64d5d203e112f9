"""What figures take: a pair or what training returned, and data; else they refuse in a sentence."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from pyro_vae.program.pair import Batch, Pair
from pyro_vae.program.verbs import Verbs

NOTHING = "there are no data; give at least one datum"


ROWS = 1000  # data of a batch, where a whole split is taken


def pair_and_data(used: Verbs, data: Any) -> tuple[Pair, Any]:
    """Return the pair, and the data: those of what training returned, unless others are given.

    Raises:
        TypeError: there are none.
    """
    pair = used if isinstance(used, Pair) else getattr(used, "pair", None)
    if not isinstance(pair, Pair):
        raise TypeError(f"a pair is a Pair or what fit or load returned, and this is {_kind(used)}; build one first")
    data = getattr(used, "data", None) if data is None else data
    if data is None:
        raise TypeError("there are no data; pass some, or what fit or load returned, which has its own")
    return pair, data


def batches(data: Any) -> Iterator[dict[str, Tensor]]:
    """Yield the batches of ``data``: one batch, ``x`` alone, an iterable of batches, or `Data`, of
    which the test split is taken (valid or train where that is empty).

    Raises:
        TypeError: for what is neither, and for fields that are no tensors.
        ValueError: for no data at all.
    """
    empty = True
    for batch in [data] if isinstance(data, Mapping | Tensor) else _several(data):
        fields = _fields(batch)
        empty = empty and _is_empty(fields)
        yield fields
    if empty:
        raise ValueError(NOTHING)


def one_batch(batch: Any) -> dict[str, Tensor]:
    """Return a batch as a dictionary: one batch, ``x`` alone, or `Data`, as in `batches`.

    Raises:
        TypeError: for what is none, and for fields that are no tensors.
        ValueError: for no data at all.
    """
    fields = _fields(batch.batch(batch.choose()) if _is_split(batch) else batch)
    if _is_empty(fields):
        raise ValueError(NOTHING)
    return fields


def _fields(batch: Any) -> dict[str, Tensor]:
    if isinstance(batch, Tensor):
        batch = {"x": batch}
    if not isinstance(batch, Mapping):
        raise TypeError(f"a batch is a dictionary of tensors by field, and this is {_kind(batch)}; {_change(batch)}")
    for name, value in batch.items():
        if not isinstance(value, Tensor):
            raise TypeError(
                f"the field {name!r} is {_kind(value)} and programs take tensors; pass torch.as_tensor({name})"
            )
    return dict(batch)


def _is_empty(fields: Batch) -> bool:
    return any(value.dim() and not len(value) for value in fields.values())


def _several(data: Any) -> Iterable[Batch]:
    if _is_split(data):
        return data.batches(data.choose(), ROWS)
    if not isinstance(data, Iterable):
        _fields(data)  # refuses it
    return data


def _is_split(data: Any) -> bool:
    """Return whether it is `Data`, which stands on a floor beside this one."""
    return hasattr(data, "choose") and hasattr(data, "batches")


def _change(value: Any) -> str:
    if isinstance(value, list | tuple) and any(map(torch.is_tensor, value)):
        return "let the loader yield dictionaries, such as {'x': x}"
    return "pass {'x': ...}"


def _kind(value: Any) -> str:
    package = type(value).__module__.partition(".")[0]
    name = type(value).__name__
    return f"a {name}" if package in ("builtins", "pyro_vae") else f"a {package}.{name}"
