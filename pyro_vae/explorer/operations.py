"""How torch's operations are written for a page: `OPERATIONS` by name, each as one step or a few.

An operation gets the tape, what torch returned and torch's own arguments, and returns the number
of the value that stands for it.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor


class Tape(Protocol):
    """What operations are written on: `pyro_vae.explorer.recording.Tape`."""

    def value(self, tensor: Tensor) -> int:
        """Return the number of a tensor's value."""

    def add(self, op: str, of: Sequence[int], shape: Sequence[int], **how: Any) -> int:
        """Append a step."""

    def spread(self, operand: Any, shape: torch.Size) -> int:
        """Broadcast a number or a tensor."""

    def taken(self, tensor: Tensor, view: Callable[[Tensor], Any], part: int | None = None) -> int:
        """Append a view."""

    def placed(self, of: Sequence[int], places: Tensor) -> int:
        """Append a choice of places."""


VIEWS = frozenset(
    """_unsafe_view alias clone detach diagonal expand flip lift_fresh permute repeat roll select slice split
    split_with_sizes squeeze t transpose unbind unfold unsqueeze upsample_nearest2d view""".split()
)
"""Operations that only move numbers."""

OPERATIONS: dict[str, Callable[..., int]] = {}


def _operation(*names: str) -> Callable[[Callable[..., int]], Callable[..., int]]:
    def enter(write: Callable[..., int]) -> Callable[..., int]:
        OPERATIONS.update(dict.fromkeys(names, write))
        return write

    return enter


def _each(op: str, tape: Tape, output: Tensor, a: Tensor) -> int:
    return tape.add(op, [tape.value(a)], output.shape)


for _name in """abs asin atan ceil cos erf exp expm1 floor log log1p neg reciprocal relu round rsqrt sigmoid sign silu
    sin sqrt tan tanh""".split():
    OPERATIONS[_name] = partial(_each, _name)


def _both(op: str, tape: Tape, output: Tensor, a: Any, b: Any) -> int:
    return tape.add(op, [tape.spread(a, output.shape), tape.spread(b, output.shape)], output.shape)


for _name in "atan2 div eq ge gt le lt maximum minimum mul ne pow".split():
    OPERATIONS[_name] = partial(_both, _name)
for _name in ("logical_and", "bitwise_and"):
    OPERATIONS[_name] = partial(_both, "mul")
for _name in ("logical_or", "bitwise_or"):
    OPERATIONS[_name] = partial(_both, "maximum")


@_operation("add")
def _add(tape: Tape, output: Tensor, a: Any, b: Any, *, alpha: float = 1) -> int:
    times = _scaled(tape, tape.spread(b, output.shape), alpha, output.shape)
    return tape.add("add", [tape.spread(a, output.shape), times], output.shape)


@_operation("sub")
def _sub(tape: Tape, output: Tensor, a: Any, b: Any, *, alpha: float = 1) -> int:
    return _add(tape, output, a, b, alpha=-alpha)


@_operation("rsub")
def _rsub(tape: Tape, output: Tensor, a: Any, b: Any, alpha: float = 1) -> int:
    return _add(tape, output, b, a, alpha=-alpha)


def _scaled(tape: Tape, number: int, factor: float, shape: Any) -> int:
    return number if factor == 1 else tape.add("mul", [number, tape.spread(factor, shape)], shape)


@_operation("where")
def _where(tape: Tape, output: Tensor, condition: Any, a: Any, b: Any) -> int:
    return tape.add("where", [tape.spread(each, output.shape) for each in (condition, a, b)], output.shape)


@_operation("logical_not", "bitwise_not")
def _not(tape: Tape, output: Tensor, a: Tensor) -> int:
    return _both("eq", tape, output, a, 0)


@_operation("clamp", "hardtanh")
def _clamp(tape: Tape, output: Tensor, a: Tensor, low: Any = None, high: Any = None, **named: Any) -> int:
    number = tape.value(a)
    for op, end in (("maximum", named.get("min", low)), ("minimum", named.get("max", high))):
        if end is not None:
            number = tape.add(op, [number, tape.spread(end, output.shape)], output.shape)
    return number


@_operation("clamp_min")
def _clamp_min(tape: Tape, output: Tensor, a: Tensor, low: float) -> int:
    return _clamp(tape, output, a, low)


@_operation("clamp_max")
def _clamp_max(tape: Tape, output: Tensor, a: Tensor, high: float) -> int:
    return _clamp(tape, output, a, None, high)


@_operation("square")
def _square(tape: Tape, output: Tensor, a: Tensor) -> int:
    return _both("mul", tape, output, a, a)


@_operation("softplus")
def _softplus(tape: Tape, output: Tensor, a: Tensor, beta: float = 1, threshold: float = 20) -> int:
    return tape.add("softplus", [tape.value(a)], output.shape, beta=beta, threshold=threshold)


@_operation("gelu")
def _gelu(tape: Tape, output: Tensor, a: Tensor, *, approximate: str = "none") -> int:
    return tape.add("gelu_tanh" if approximate == "tanh" else "gelu", [tape.value(a)], output.shape)


@_operation("elu")
def _elu(tape: Tape, output: Tensor, a: Tensor, alpha: float = 1, scale: float = 1, input_scale: float = 1) -> int:
    return tape.add("elu", [tape.value(a)], output.shape, alpha=alpha, scale=scale, inner=input_scale)


@_operation("leaky_relu")
def _leaky_relu(tape: Tape, output: Tensor, a: Tensor, slope: float = 0.01) -> int:
    return tape.add("elu", [tape.value(a)], output.shape, alpha=0, scale=1, inner=0, slope=slope)


@_operation("_to_copy")
def _to_copy(tape: Tape, output: Tensor, a: Tensor, **how: Any) -> int:
    if a.is_floating_point() and not output.is_floating_point():
        return tape.add("unknown", [], output.shape, name="conversion to whole numbers")
    return tape.value(a)


@_operation("mm", "bmm")
def _mm(tape: Tape, output: Tensor, a: Tensor, b: Tensor) -> int:
    return tape.add("mm", [tape.value(a), tape.value(b)], output.shape, inner=a.shape[-1])


@_operation("mv", "dot")
def _mv(tape: Tape, output: Tensor, a: Tensor, b: Tensor) -> int:
    return tape.add("mm", [tape.value(a), tape.value(b)], [*output.shape, 1], inner=a.shape[-1])


@_operation("addmm", "baddbmm")
def _addmm(tape: Tape, output: Tensor, c: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1) -> int:
    product = _scaled(tape, _mm(tape, output, a, b), alpha, output.shape)
    offset = _scaled(tape, tape.spread(c, output.shape), beta, output.shape)
    return tape.add("add", [product, offset], output.shape)


@_operation("linear")
def _linear(tape: Tape, output: Tensor, a: Tensor, weight: Tensor, bias: Tensor | None = None) -> int:
    product = tape.add("mm", [tape.value(a), tape.value(weight.t())], output.shape, inner=a.shape[-1])
    return product if bias is None else tape.add("add", [product, tape.spread(bias, output.shape)], output.shape)


@_operation("convolution")
def _convolution(
    tape: Tape,
    output: Tensor,
    a: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    transposed: bool,
    output_padding: list[int],
    groups: int,
) -> int:
    if a.dim() != 4 or groups != 1:
        return tape.add("unknown", [], output.shape, name="convolution in groups or not of images")
    how = {"stride": list(stride), "padding": list(padding), "dilation": list(dilation), "transposed": transposed}
    sizes = {"input": list(a.shape), "kernel": list(weight.shape[2:])}
    number = tape.add("convolution", [tape.value(a), tape.value(weight)], output.shape, **how, **sizes)
    if bias is None:
        return number
    return tape.add("add", [number, tape.value(bias.reshape(1, -1, 1, 1).expand(output.shape))], output.shape)


@_operation("native_layer_norm")
def _layer_norm(
    tape: Tape, output: Tensor, a: Tensor, shape: list[int], weight: Tensor | None, bias: Tensor | None, eps: float
) -> int:
    number = tape.add("normalize", [tape.value(a)], output.shape, width=torch.Size(shape).numel(), eps=eps)
    for op, each in (("mul", weight), ("add", bias)):
        if each is not None:
            number = tape.add(op, [number, tape.spread(each, output.shape)], output.shape)
    return number


def _dims(a: Tensor, dim: Any) -> list[int]:
    asked = range(a.dim()) if dim is None or dim == [] else [dim] if isinstance(dim, int) else dim
    return [d % a.dim() for d in asked]


def _reduced(op: str, tape: Tape, output: Tensor, a: Tensor, dim: Any = None, keepdim: bool = False, **how: Any) -> int:
    dims = _dims(a, dim)
    order = [d for d in range(a.dim()) if d not in dims] + dims
    last = tape.taken(a, lambda places: places.permute(order))
    return tape.add(op, [last], output.shape, width=max(1, a.numel() // max(1, output.numel())))


for _name, _op in {"sum": "sum", "mean": "mean", "amax": "max", "logsumexp": "logsumexp"}.items():
    OPERATIONS[_name] = partial(_reduced, _op)


def _softmax(op: str, tape: Tape, output: Tensor, a: Tensor, dim: int, half: bool = False) -> int:
    number = tape.taken(a, lambda places: places.transpose(dim, -1))
    shape = a.transpose(dim, -1).shape
    found = tape.add(op, [number], shape, width=a.shape[dim])
    places = torch.arange(a.numel(), dtype=torch.float64).reshape(shape).transpose(dim, -1)
    return tape.placed([found], places)


OPERATIONS["_softmax"] = partial(_softmax, "softmax")
OPERATIONS["_log_softmax"] = partial(_softmax, "log_softmax")


@_operation("cat")
def _cat(tape: Tape, output: Tensor, tensors: list[Tensor], dim: int = 0) -> int:
    blocks, start = [], 0
    for tensor in tensors:
        places = torch.arange(start, start + tensor.numel(), dtype=torch.float64)
        blocks.append(places.reshape(tensor.shape))
        start += tensor.numel()
    return tape.placed([tape.value(tensor) for tensor in tensors], torch.cat(blocks, dim))


@_operation("stack")
def _stack(tape: Tape, output: Tensor, tensors: list[Tensor], dim: int = 0) -> int:
    return _cat(tape, output, [tensor.unsqueeze(dim) for tensor in tensors], dim)


@_operation("embedding")
def _embedding(tape: Tape, output: Tensor, weight: Tensor, index: Tensor, *rest: Any) -> int:
    return tape.add("rows", [tape.value(weight), tape.value(index)], output.shape, width=weight[0].numel())


@_operation("index")
def _index(tape: Tape, output: Tensor, a: Tensor, indices: list[Tensor | None]) -> int:
    if len(indices) == 1 and indices[0] is not None and not indices[0].is_floating_point():
        return _embedding(tape, output, a, indices[0])
    return tape.add("unknown", [], output.shape, name="indexing of several dimensions")
