"""A function of tensors as a list of operations on arrays, for a page that has no torch.

`record` runs the function once and keeps what its result depends on. What does not depend on the
inputs is a constant, views are rows of indices, and the rest is the few operations that
``forward.js`` knows. Shapes are fixed.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from pyro_vae.explorer.operations import OPERATIONS, VIEWS
from pyro_vae.program import PairError

Step = dict[str, Any]


@dataclass
class Recording:
    """Operations in the order in which they run, and the numbers that they need.

    Step i makes value i. ``op`` names the operation, ``of`` the values that it reads, ``shape`` its
    result. A constant is ``size`` numbers from ``at`` on of ``constants``.
    """

    steps: list[Step]
    constants: list[Tensor] = field(repr=False)
    result: int


def record(fn: Callable[[dict[str, Tensor]], Tensor], inputs: Mapping[str, Tensor], place: int = 0) -> Recording:
    """Return what ``fn`` does with its inputs.

    Args:
        fn: inputs by name to one tensor; it must not depend on values in Python.
        inputs: tensors of the shapes that it will be given.
        place: where the first constant will lie.

    Raises:
        PairError: the result needs an operation that pages do not know.
    """
    tape = Tape(place)
    with torch.no_grad(), torch.autocast("cpu", enabled=False), OneHot(), tape:
        given = {name: tape.input(name, value) for name, value in inputs.items()}
        result = fn(given)
        last = tape.value(result)
    return tape.cleared(last)


class OneHot(TorchFunctionMode):
    """``one_hot`` as rows of the unit matrix: torch's own looks at its numbers in Python."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run a function."""
        kwargs = kwargs or {}
        if func is torch.nn.functional.one_hot:
            tensor, classes = [*args, *kwargs.values(), -1][:2]
            if classes > 0:
                return torch.eye(classes, dtype=torch.long, device=tensor.device)[tensor]
        return func(*args, **kwargs)


class Tape(TorchDispatchMode):
    """The operations on what depends on inputs, as they happen.

    Args:
        place: where the first constant will lie.
    """

    def __init__(self, place: int) -> None:
        super().__init__()
        self.steps: list[Step] = []
        self.constants: list[Tensor] = []
        self.place, self._first = place, place
        self._numbers: dict[int, int] = {}  # of values that depend on inputs, by id of the tensor
        self._fixed: dict[int, int] = {}  # of constants
        self._kept: list[Tensor] = []  # so that no id is used twice

    def input(self, name: str, value: Tensor) -> Tensor:
        """Return an input as a tensor that is followed."""
        fresh = value.clone()
        self._keep(fresh, self._numbers, self.add("input", (), fresh.shape, name=name))
        return fresh

    def follows(self, tensor: Any) -> bool:
        """Return whether a tensor depends on an input."""
        return isinstance(tensor, Tensor) and id(tensor) in self._numbers

    def value(self, tensor: Tensor) -> int:
        """Return the number of a tensor's value, a constant's too."""
        if self.follows(tensor):
            return self._numbers[id(tensor)]
        if id(tensor) not in self._fixed:
            flat = tensor.detach().cpu().float().reshape(-1)
            number = self.add("const", (), tensor.shape, at=self.place, size=flat.numel())
            self.constants.append(flat)
            self.place += flat.numel()
            self._keep(tensor, self._fixed, number)
        return self._fixed[id(tensor)]

    def add(self, op: str, of: Sequence[int], shape: Sequence[int], **how: Any) -> int:
        """Append a step; return its number."""
        self.steps.append({"op": op, "of": list(of), "shape": list(shape), **how})
        return len(self.steps) - 1

    def spread(self, operand: Any, shape: torch.Size) -> int:
        """Return a number, or a tensor broadcast to a shape, as a value."""
        if not isinstance(operand, Tensor):
            return self.value(torch.tensor(float(operand)).expand(shape))
        if self.follows(operand):
            return self.taken(operand, lambda places: places.expand(shape))
        return self.value(operand.expand(shape))

    def taken(self, tensor: Tensor, view: Callable[[Tensor], Any], part: int | None = None) -> int:
        """Return the numbers of a tensor in the places where a view has them."""
        places = torch.arange(tensor.numel(), dtype=torch.float64).reshape(tensor.shape)
        found = view(places) if part is None else view(places)[part]
        return self.placed([self.value(tensor)], found)

    def placed(self, of: Sequence[int], places: Tensor) -> int:
        """Return a step that takes numbers from places of values that lie one after the other."""
        strides, offset = list(places.stride()), places.storage_offset()
        if _lies(places, strides, int(offset)):
            return self.add("take", of, places.shape, strides=strides, offset=int(offset))
        return self.add("take", of, places.shape, places=places.reshape(-1).long().tolist())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation; keep it if it reads what depends on an input."""
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if not any(map(self.follows, _tensors((args, kwargs)))):
            return result
        name = func._schema.name.removeprefix("aten::")
        if func._schema.is_mutable or name == "_local_scalar_dense":
            raise PairError(
                f"the explorer follows operations that return new tensors, and the model uses {name} on what "
                "depends on z; write it without changes in place and without reading numbers in Python"
            )
        outputs = [result] if isinstance(result, Tensor) else list(result)
        for part, output in enumerate(outputs):
            if isinstance(output, Tensor):
                number = self._step(name, args, kwargs, output, None if output is result else part)
                self._keep(output, self._numbers, number)
        return result

    def _step(self, name: str, args: Any, kwargs: Any, output: Tensor, part: int | None) -> int:
        if name in VIEWS:
            func = getattr(torch.ops.aten, name)
            return self.taken(args[0], lambda places: func(places, *args[1:]), part)
        if name in OPERATIONS and part in (None, 0):
            return OPERATIONS[name](self, output, *args, **kwargs)
        return self.add("unknown", [], output.shape, name=name)

    def _keep(self, tensor: Tensor, numbers: dict[int, int], number: int) -> None:
        numbers[id(tensor)] = number
        self._kept.append(tensor)

    def cleared(self, last: int) -> Recording:
        """Return what the last value needs, numbered anew.

        Raises:
            PairError: one of it is unknown.
        """
        needed, waiting = set(), [last]
        while waiting:
            number = waiting.pop()
            if number not in needed:
                needed.add(number)
                waiting += self.steps[number]["of"]
        kept = sorted(needed)
        unknown = sorted({self.steps[number]["name"] for number in kept if self.steps[number]["op"] == "unknown"})
        if unknown:
            raise PairError(
                f"the explorer's page has no operation {', '.join(unknown)}, which the mean of x needs; use a decoder "
                "of linear layers, convolutions and usual activations, or draw `traversal`"
            )
        numbers = {number: position for position, number in enumerate(kept)}
        steps = [{**self.steps[number], "of": [numbers[n] for n in self.steps[number]["of"]]} for number in kept]
        return Recording(steps, self._packed(steps), numbers[last])

    def _packed(self, steps: list[Step]) -> list[Tensor]:
        """Return the constants that steps read, and say in the steps where they lie."""
        whole, place = {}, self._first
        for tensor in self.constants:
            whole[place] = tensor
            place += tensor.numel()
        kept, place = [], self._first
        for step in steps:
            if step["op"] == "const":
                kept.append(whole[step["at"]])
                step["at"], place = place, place + step["size"]
        return kept


def _lies(places: Tensor, strides: Sequence[int], offset: int) -> bool:
    """Return whether the places are where strides and an offset say."""
    said = torch.full(places.shape, float(offset), dtype=torch.float64)
    for dim, (size, stride) in enumerate(zip(places.shape, strides, strict=True)):
        steps = torch.arange(size, dtype=torch.float64) * stride
        said = said + steps.reshape(*(-1 if d == dim else 1 for d in range(places.dim())))
    return torch.equal(said, places)


def _tensors(nested: Any) -> Iterator[Tensor]:
    if isinstance(nested, Tensor):
        yield nested
    elif isinstance(nested, Mapping):
        yield from _tensors(list(nested.values()))
    elif isinstance(nested, list | tuple):
        for each in nested:
            yield from _tensors(each)
