"""Inductor's code for a recorded graph, called with nothing in between that does nothing."""

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.graph import increment_version
from torch.fx import GraphModule

from pyro_vae import kernel_order
from pyro_vae.decompositions import decompositions
from pyro_vae.recording import undisturbed


class Code:
    """Inductor's code for a graph.

    Torch leads arguments and results through half a dozen Python functions, which takes 60 us of a step of 3 ms. The first call goes that
    way. If all that it came down to was handing over the very tensors that were given, after constants of the graph, and handing back
    the very tensors that came out, later calls go straight to the code.

    Args:
        wrapped: what torch's compiler returned.
        graphs: inductor's own, within; one, unless something was new to us.
    """

    def __init__(self, wrapped: Callable[..., Any], graphs: Sequence[Any]) -> None:
        self._wrapped, self._graphs = wrapped, graphs
        self._straight: Callable[[list[Tensor]], Sequence[Tensor]] | None = None
        self._constants: list[Tensor] = []
        self._written: list[int] = []
        self._first = len(graphs) == 1

    def __call__(self, *inputs: Tensor) -> Sequence[Tensor]:
        """Return the graph's outputs."""
        if self._straight is None:
            return self._look(inputs) if self._first else self._wrapped(*inputs)
        out = self._straight([*self._constants, *inputs])
        increment_version([inputs[i] for i in self._written])  # so that autograd sees what was written, as ever
        return out

    def _look(self, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        """Make the first call, and see what happens between here and the code."""
        (graph,) = self._graphs
        straight = graph.current_callable
        calls = []

        def seen(given: list[Tensor]) -> Sequence[Tensor]:
            held = list(given)  # the code empties the list
            calls.append((held, straight(given)))
            return calls[-1][1]

        versions = [None if t.is_inference() else t._version for t in inputs]
        graph.current_callable, self._first = seen, False
        try:
            out = self._wrapped(*inputs)
        finally:
            graph.current_callable = straight
        if len(calls) == 1:
            given, results = calls[0]
            constants, rest = given[: -len(inputs)], given[-len(inputs) :]
            if _the_same(rest, inputs) and _the_same(results, out):
                self._straight, self._constants = straight, constants
                self._written = [i for i, t in enumerate(inputs) if versions[i] not in (None, t._version)]
        return out


def inductor(graph: GraphModule, inputs: Sequence[Tensor]) -> Code:
    """Return inductor's code for a recorded graph; its draws are the graph's."""
    import torch._inductor.config
    from torch._inductor.compile_fx import compile_fx, compile_fx_inner

    on_cpu = all(t.device.type == "cpu" for t in inputs)
    # Shapes are part of our signature, so the code need not look at each tensor's again: 7 us of the smallest steps' 100.
    settings: dict[str, Any] = {"size_asserts": False, "alignment_asserts": False, "scalar_asserts": False}
    # ... and so are layouts: channels last, to which it would turn convolutions, takes longer on some processors.
    settings |= {"layout_optimization": False, "fallback_random": True, "cpp_wrapper": on_cpu}
    if on_cpu:
        known = torch._inductor.config.get_config_copy()  # another torch may not have them
        settings |= {name: value for name, value in kernel_order.settings().items() if name in known}
    graphs: list[Any] = []

    def inner(*args: Any, **kwargs: Any) -> Any:
        graphs.append(compile_fx_inner(*args, **kwargs))
        return graphs[-1]

    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(undisturbed())
        stack.enter_context(torch._inductor.config.patch(settings))
        for name in ("torch.utils.cpp_extension", "torch._inductor.ir"):
            stack.enter_context(_silent(name))
        stack.enter_context(warnings.catch_warnings())
        for kind in (FutureWarning, DeprecationWarning):  # of torch about torch
            warnings.simplefilter("ignore", kind)
        wrapped = compile_fx(graph, list(inputs), inner, decompositions=decompositions())
    _keep_freed_memory()
    return Code(cast(Callable[..., Any], wrapped), graphs)


def _the_same(some: Sequence[Any], others: Sequence[Any]) -> bool:
    return len(some) == len(others) and all(a is b for a, b in zip(some, others, strict=True))


def _keep_freed_memory() -> None:
    """Have the C library keep what a step frees for the next one, up to 64 MB.

    glibc gives large blocks back to the system, which fills them with zeros page by page when they are taken again: a fifth of a
    convolutional step. It learns from the largest block below 32 MB that was freed, so one is freed; its pages are never touched.
    """
    torch.empty(2**25 - 2**13, dtype=torch.uint8, device="cpu")


@contextmanager
def _silent(name: str) -> Iterator[None]:
    """Hold back a logger's warnings: that there is no GPU, and that some operations have no interface in C."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
