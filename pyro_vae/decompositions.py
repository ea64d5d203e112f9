"""What inductor is told about two operations: how one tensor is joined to none, and how bits are drawn in float64."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._prims_common import suggest_memory_format

_aten = torch.ops.aten


def decompositions() -> dict[Any, Callable[..., Any]]:
    """Return inductor's own decompositions, with these in place of two."""
    from torch._inductor.decomposition import select_decomp_table

    table = dict(select_decomp_table())
    table[_aten.cat.default] = functools.partial(_cat, table[_aten.cat.default])
    table[_aten.bernoulli.default] = functools.partial(_bernoulli, table[_aten.bernoulli.default])
    return table


def _bernoulli(theirs: Callable[..., Any], p: Tensor, **options: Any) -> Any:
    """Draw in float64 as torch does: inductor's form draws in float32, and so other values."""
    if p.dtype == torch.float64 and p.device.type == "cpu" and not options.get("generator"):
        return (torch.rand_like(p) < p).to(p.dtype)
    return theirs(p, **options)


def _cat(theirs: Callable[..., Any], tensors: Sequence[Tensor], dim: int = 0) -> Any:
    """Lay out one tensor alone as torch does: inductor's form keeps its strides, and a view that follows need not be possible."""
    if len(tensors) == 1:
        return tensors[0].clone(memory_format=suggest_memory_format(tensors[0]))
    return theirs(tensors, dim)
