"""What figures take as data: one batch, or several; anything else is refused in a sentence."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from pyro_vae.program.pair import Batch

NOTHING = "there are no data; give at least one datum"


def batches(data: Any) -> Iterator[dict[str, Tensor]]:
    """Yield the batches of ``data``: one batch, or an iterable of some.

    Raises:
        TypeError: for what is neither, and for fields that are no tensors.
        ValueError: for no data at all.
    """
    empty = True
    for batch in [data] if isinstance(data, Mapping) else _several(data):
        fields = _fields(batch)
        empty = empty and _is_empty(fields)
        yield fields
    if empty:
        raise ValueError(NOTHING)


def one_batch(batch: Any) -> dict[str, Tensor]:
    """Return a batch as a dictionary.

    Raises:
        TypeError: for what is none, and for fields that are no tensors.
        ValueError: for no data at all.
    """
    fields = _fields(batch)
    if _is_empty(fields):
        raise ValueError(NOTHING)
    return fields


def _fields(batch: Any) -> dict[str, Tensor]:
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
    if isinstance(data, Tensor) or not isinstance(data, Iterable):
        _fields(data)  # refuses it
    return data


def _change(value: Any) -> str:
    if hasattr(value, "batch") and hasattr(value, "spec"):
        return "pass one split of it, such as data.batch('test')"
    if isinstance(value, list | tuple) and any(map(torch.is_tensor, value)):
        return "let the loader yield dictionaries, such as {'x': x}"
    return "pass {'x': ...}"


def _kind(value: Any) -> str:
    package = type(value).__module__.partition(".")[0]
    name = type(value).__name__
    return f"a {name}" if package in ("builtins", "pyro_vae") else f"a {package}.{name}"
