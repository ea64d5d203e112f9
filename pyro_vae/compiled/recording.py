"""Run a callable that runs Pyro programs once, and replay the tensor operations that it did, without Python.

`record(fn, *args)` runs `fn` under `make_fx`: what remains is a flat graph of ATen operations with every Pyro
handler gone. Whatever tensors `fn` uses but was not given (parameters, buffers, a schedule's beta) become
inputs of the graph, found by identity, and are read anew at each call. Draws stay draws, in the same order
from the same random state as Pyro's.

A recording is never trusted before it is checked: it is made twice and both must agree (a Python counter or
NumPy's noise differ), nothing in it may depend on a value that Python read, and it must give what `fn` gives
on other data and other draws. What fails raises `RecordingError` with one sentence that names the reason and
the line. docs/compiled.md tells the rest.
"""

from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from dataclasses import is_dataclass
from enum import Enum
from functools import partial
from pathlib import PurePath
from types import BuiltinFunctionType, FunctionType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.fx import GraphModule

from pyro_vae.compiled._torch import private, tree_leaves
from pyro_vae.compiled.capture import Constants, Reads, trace
from pyro_vae.compiled.inductor import Code
from pyro_vae.compiled.observe import Observe
from pyro_vae.compiled.questions import Questions
from pyro_vae.compiled.state import RecordingError, put_back, undisturbed
from pyro_vae.compiled.verify import OTHER_DRAWS, differences, furthest, in_short, outcome, resampled

_SPARSE = "sparse tensor, whose number of entries is part of its shape; make it dense"
_PLAIN = (int, float, complex, str, bytes, type(None), type(...), torch.dtype, torch.device, torch.Size, Enum, PurePath)
LARGEST_ARRAY = 2**16  # bytes of a NumPy array that is compared by value
_TENSOR = object()  # where a tensor stands among the outputs
_UNSTEADY = "so it depends on something that changes from call to call outside torch, such as a Python counter"


def signature(args: Any, kwargs: Any) -> tuple[tuple[Any, ...], list[Tensor]]:
    """Return what must be equal for one recording to serve two calls, and the tensors among the arguments in
    order.

    Raises:
        RecordingError: an argument is an object that cannot be compared by value.
    """
    key: list[Any] = []
    tensors: list[Tensor] = []
    _describe(args, key, tensors)
    if kwargs:
        _describe(kwargs, key, tensors)
    return tuple(key), tensors


def _describe(value: Any, key: list[Any], tensors: list[Tensor]) -> None:
    if isinstance(value, Tensor):
        if value.layout is not torch.strided:
            raise RecordingError(f"an argument is a {_SPARSE}")
        tensors.append(value)
        key += (value.shape, value.stride(), value.dtype, value.device, value.is_conj(), value.requires_grad)
        return
    key.append(type(value))
    if isinstance(value, _PLAIN):
        key.append(value if value == value and value else repr(value))  # NaN is NaN, and -0.0 is not 0.0
    elif isinstance(value, np.generic | np.ndarray) and not value.dtype.hasobject and value.nbytes <= LARGEST_ARRAY:
        key += (value.shape, value.dtype, value.tobytes())
    elif isinstance(value, set | frozenset):
        key.append(frozenset(map(_plain, value)))
    elif isinstance(value, slice | range):
        _describe((value.start, value.stop, value.step), key, tensors)
    elif isinstance(value, partial):
        _describe((value.func, value.args, value.keywords), key, tensors)
    elif isinstance(value, FunctionType | BuiltinFunctionType | type):
        key.append(value)  # what it reads is followed, as what the programs read
    elif isinstance(value, dict):
        key.append(tuple(value))
        for item in value.values():
            _describe(item, key, tensors)
    elif isinstance(value, tuple | list):
        key.append(len(value))
        for item in value:
            _describe(item, key, tensors)
    elif not _by_value(value):
        raise RecordingError(
            f"an argument is a {type(value).__name__}, which may change without notice; pass tensors, numbers and strings"
        )
    if not isinstance(value, FunctionType | type) and vars_of(value):
        _describe(vars_of(value), key, tensors)


def _plain(value: Any) -> Any:
    if not isinstance(value, _PLAIN):
        raise RecordingError(f"an argument is a set with a {type(value).__name__}; pass a list")
    return value


def _by_value(value: Any) -> bool:
    return isinstance(value, Namespace | SimpleNamespace) or (is_dataclass(value) and hasattr(value, "__dict__"))


def vars_of(value: Any) -> dict[str, Any]:
    """Return the attributes of an object that is compared by value."""
    return {} if isinstance(value, (*_PLAIN, np.generic)) else getattr(value, "__dict__", {})


def call_with(fn: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any], tensors: Sequence[Tensor]) -> Any:
    """Call a function with other tensors in place of those among its arguments, in containers of their own."""
    rest = iter(tensors)
    return fn(*_rebuilt(list(args), rest), **_rebuilt(kwargs, rest))


def _rebuilt(value: Any, tensors: Iterator[Tensor]) -> Any:
    if isinstance(value, Tensor):
        return next(tensors)
    if isinstance(value, partial):
        func, args, keywords = _rebuilt((value.func, value.args, value.keywords), tensors)
        return partial(func, *args, **keywords)
    new: Any
    if isinstance(value, dict):
        new = copy(value)
        for name, item in value.items():
            new[name] = _rebuilt(item, tensors)
    elif isinstance(value, tuple):
        items = [_rebuilt(item, tensors) for item in value]
        new = type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    elif isinstance(value, list):
        new = copy(value)
        new[:] = [_rebuilt(item, tensors) for item in value]
    elif _by_value(value) or isinstance(value, set):
        new = copy(value)
    else:
        return value
    for name, item in vars_of(value).items():
        vars(new)[name] = _rebuilt(item, tensors)
    return new


class Recording:
    """A recorded call: `recording(*args)` returns what `fn(*args)` would, by replaying its tensor operations.

    Attributes:
        graph: the operations; its inputs are `outside`, then the tensors among the arguments.
        outside: the tensors that the call used without being given them, by identity.
        written: those that it writes in place, like running statistics.
        present: for each leaf of what `fn` returned whether it is a tensor; if not, it is a constant.
        checks: whether the last output of `graph` says that torch and Pyro would take all values for valid.
        questions: what it reads of its inputs; it serves where the answers are the same.
        all_valid: that output of the last run.
        code: inductor's code, which runs in place of the graph, or None.
    """

    def __init__(
        self,
        graph: GraphModule,
        outside: list[Tensor],
        written: list[Tensor],
        rest: tuple[Any, Any, bool, list[str]],
        tensors: Sequence[Tensor],
    ) -> None:
        self.all_valid = torch.tensor(True)
        self.outside, self.written = outside, written
        self._held = [t.detach() for t in outside]
        self._leaves, self._spec, self.checks, lines = rest
        self.questions = Questions(graph, lines, [*self._held, *tensors])
        self.graph = graph
        self.present = [leaf is _TENSOR for leaf in self._leaves]
        self.code: Code | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Return the outputs for other data, which must have the recorded signature."""
        _, tensors = signature(args, kwargs)
        return self.assemble(self.run(*tensors))

    def valid(self) -> bool:
        """Return whether the outside tensors are where they were in memory (`module.to(device)` moves them)."""
        return all(map(Tensor.is_set_to, self._held, self.outside))

    def ask(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Return what the call would read of its inputs, given the tensors among the arguments."""
        return self.questions.ask([*self._held, *tensors])

    def run(self, *tensors: Tensor) -> Sequence[Tensor]:
        """Return the tensors among the outputs, given the tensors among the arguments."""
        return self.recorded(*tensors) if self.code is None else self._without_check(self.code(tensors))

    def recorded(self, *tensors: Tensor) -> Sequence[Tensor]:
        """Return what `run` returns, by the recorded graph also when it is compiled."""
        with torch.no_grad():
            return self._without_check(self.graph.forward(*self._held, *tensors))

    def _without_check(self, out: Sequence[Tensor]) -> Sequence[Tensor]:
        if self.checks:
            *out, self.all_valid = out
        return out

    def assemble(self, outputs: Sequence[Tensor]) -> Any:
        """Return the outputs in the structure that `fn` returned."""
        values = iter(outputs)
        return private("tree_unflatten")(
            [next(values) if leaf is _TENSOR else leaf for leaf in self._leaves], self._spec
        )

    def compile(self, *tensors: Tensor) -> str | None:
        """Replace the recorded graph by inductor's code for it, made for arguments like `tensors`; return why not."""
        try:
            self.code = Code(self.graph, self._held, self.written, tensors)
            why_not = self.code.disagreement(tensors)
        except Exception as error:  # whatever goes wrong in a compiler, the recorded graph is there
            why_not = in_short(error)
        if why_not is not None:
            self.code = None
        return why_not


def record(
    fn: Callable[..., Any],
    args: Sequence[Any] = (),
    kwargs: dict[str, Any] | None = None,
    *,
    reference: Callable[..., Any] | None = None,
    params: Sequence[Tensor] = (),
    may_ask: bool = False,
) -> Recording:
    """Return a checked recording of `fn(*args, **kwargs)`.

    Args:
        fn: returns any nest of tensors (and constants). It may run Pyro programs and call `backward`.
        args: data; tensors in any nest of lists, tuples and dicts, numbers and strings.
        kwargs: the same, by name.
        reference: what the recording is checked against, `fn` itself by default. It returns the same nest.
        params: tensors whose gradients `fn` collects through `backward`; `fn` is then called with the list of
            gradients, which `backward` fills, as its first argument.
        may_ask: whether it may read integers of its inputs; what calls the recording must then compare `ask` with
            `questions.answers`.

    Raises:
        RecordingError: with the reason and the line.
    """
    reference, kwargs = reference or fn, kwargs or {}
    _, given = signature(args, kwargs)
    leaves = [t.detach() for t in given]  # other objects, so that f(x, x) is not taken for a function of one argument
    outside, saved = _observed(reference, args, kwargs, leaves)
    written = [i for i, t in enumerate(outside) if any(t is w for w, _ in saved)]
    shapes: list[tuple[list[Any], Any, bool, list[str]]] = []

    def flat(*inputs: Tensor) -> list[Tensor]:
        constants = Constants(inputs if may_ask else ())
        reads = Reads(constants, params)
        call = partial(fn, reads.grads) if params else fn
        with constants, reads, torch.enable_grad() if params else torch.no_grad():
            before = [(inputs[i], inputs[i].detach().clone()) for i in written]
            out = call_with(call, args, kwargs, inputs[len(outside) :])
            found, spec = private("tree_flatten")(out)
            kept = [_TENSOR if isinstance(v, Tensor) else v for v in found]
            shapes.append((kept, spec, bool(reads.valid), [line for _, line in constants.asked]))
            valid = [torch.stack(reads.valid).all()] if reads.valid else []
            _take_back(before, valid)
            return [*(v.detach() for v in found if isinstance(v, Tensor)), *valid, *(t for t, _ in constants.asked)]

    graphs = []
    for _ in range(2):
        with undisturbed(saved):
            graphs.append(trace(flat, [*outside, *leaves]))
    difference = differences(*graphs)
    if difference or shapes[0] != shapes[1]:
        raise RecordingError(f"{difference or 'two recordings of one call return different constants'}, {_UNSTEADY}")
    recording = Recording(_pruned(graphs[0], outside), outside, [t for t, _ in saved], shapes[0], leaves)
    _check(recording, lambda *tensors: call_with(reference, args, kwargs, tensors), leaves)
    return recording


def _take_back(before: Sequence[tuple[Tensor, Tensor]], valid: Sequence[Tensor]) -> None:
    """Record that what was written is undone where the values are not valid, since Pyro then takes the call."""
    with torch.no_grad():
        for tensor, old in before if valid else ():
            tensor.copy_(torch.where(valid[0], tensor, old))


def _observed(
    reference: Callable[..., Any], args: Any, kwargs: dict[str, Any], leaves: list[Tensor]
) -> tuple[list[Tensor], list[tuple[Tensor, Tensor]]]:
    """Run eagerly; return the tensors from outside that the run uses, and copies of those that it writes."""
    watching = Observe(leaves)
    with undisturbed(), watching:
        call_with(reference, args, kwargs, leaves)
    put_back(watching.saved)
    refuse_written(watching)
    # gradients pile up on parameters that are not trained; that is no business of the recording
    piles = {id(t.grad) for t in watching.outside if t.is_leaf and t.grad is not None}
    outside = [t for t in watching.outside if not watching.made(t)]
    if any(t.layout is not torch.strided for t in outside):
        raise RecordingError(f"it uses a {_SPARSE}")
    return outside, [(t, copy) for t, copy in watching.saved if id(t) not in piles]


def refuse_written(watching: Observe) -> None:
    """Refuse a program that writes into what it was given."""
    if watching.given_written is not None:
        raise RecordingError(f"it writes into its own argument; let it write into a copy ({watching.given_written})")


def _pruned(graph: GraphModule, outside: list[Tensor]) -> GraphModule:
    """Drop, in place, the outside tensors that no operation uses."""
    holders = [node for node in graph.graph.nodes if node.op == "placeholder"][: len(outside)]
    for i in reversed(range(len(outside))):
        if not holders[i].users:
            graph.graph.erase_node(holders[i])
            del outside[i]
    graph.recompile()
    return graph


def _check(recording: Recording, eager: Callable[..., Any], leaves: Sequence[Tensor]) -> None:
    """Compare with eager runs on resampled data and other draws, in outputs and in what they write."""
    tensors = resampled(leaves)
    if not all(map(torch.equal, recording.ask(tensors), recording.questions.answers)):
        tensors = list(leaves)

    def flat(*tensors: Tensor) -> list[Tensor]:
        return [v.detach() for v in tree_leaves(eager(*tensors)) if isinstance(v, Tensor)]

    wanted, got = (outcome(run, tensors, recording.written, OTHER_DRAWS) for run in (flat, recording.run))
    distance = furthest(wanted, got)
    if distance > 1 or not recording.all_valid:
        raise RecordingError(
            "its recording differs from eager Pyro on other data and draws "
            f"by {distance:.0e} times what rounding explains"
        )
