"""Softplus and log-sigmoid in operations that inductor's code on a CPU runs several times faster, for the same numbers.

Both need log(1 + exp(-|x|)). Inductor calls a library's `log1p` for it, which is right for every argument to half a unit in the last
place, and is most of the time of a step's elementwise code. Here the argument lies in (0, 1], where a short series is as exact as
float32 can hold. Other dtypes and devices keep torch's forms.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

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
    return table


def _chosen(ours: Callable[..., Any], theirs: Callable[..., Any], x: Tensor, *args: Any) -> Any:
    return (ours if x.dtype == torch.float32 and x.device.type == "cpu" else theirs)(x, *args)
