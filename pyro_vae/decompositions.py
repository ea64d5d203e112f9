"""What inductor is told about some operations: softplus and log-sigmoid in a form that its code on a CPU runs several times faster, for the
same numbers; how one tensor is joined to none; and how bits are drawn in float64.

The first two need log(1 + exp(-|x|)). Inductor calls a library's `log1p` for it, which is right for every argument to half a unit in the last
place, and is most of the time of a step's elementwise code. Here the argument lies in (0, 1], where a short series is as exact as
float32 can hold. Other dtypes and devices keep torch's forms.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._prims_common import suggest_memory_format

ATANH = tuple(1 / (2 * k + 1) for k in range(8))  # atanh(s) / s in powers of s**2; the next term is 1e-9 at s = 1/3
_aten = torch.ops.aten


def log1p_of_exp(y: Tensor) -> Tensor:
    """Return log(1 + exp(y)) for y <= 0, by log(1 + u) = 2 atanh(u / (2 + u)); relative error below 3e-7 in float32."""
    u = y.exp()
    s = u / (u + 2)
    square = s * s
    series = torch.full_like(square, ATANH[-1])
    for coefficient in ATANH[-2::-1]:
        series = series * square + coefficient
    return 2 * s * series


def _softplus(x: Tensor, beta: float = 1, threshold: float = 20) -> Tensor:
    y = x * beta
    return torch.where(y > threshold, x, (y.clamp(min=0) + log1p_of_exp(-y.abs())) / beta)


def _log_sigmoid(x: Tensor) -> tuple[Tensor, Tensor]:
    y = -x.abs()
    return x.clamp(max=0) - log1p_of_exp(y), y.exp()


def decompositions() -> dict[Any, Callable[..., Any]]:
    """Return inductor's own decompositions, with these where they serve."""
    from torch._inductor.decomposition import select_decomp_table

    table = dict(select_decomp_table())
    for op, ours in ((_aten.softplus.default, _softplus), (_aten.log_sigmoid_forward.default, _log_sigmoid)):
        table[op] = functools.partial(_chosen, ours, table[op])
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


def _chosen(ours: Callable[..., Any], theirs: Callable[..., Any], x: Tensor, *args: Any) -> Any:
    return (ours if x.dtype == torch.float32 and x.device.type == "cpu" else theirs)(x, *args)
