"""Inductor's code for a recorded graph, compared with the graph before it is used."""

import functools
import logging
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, cast

import torch
from torch import Tensor
from torch.fx import GraphModule

from pyro_vae.compiled import cuda_graphs
from pyro_vae.compiled._torch import TALKATIVE, private
from pyro_vae.compiled.state import undisturbed
from pyro_vae.compiled.verify import OTHER_DRAWS, TOLERANCE, furthest, in_short, outcome, resampled

_aten = torch.ops.aten
SETTINGS = {
    # Shapes are part of our signature, so the code need not look at each tensor's again: 7 us of the smallest steps' 100.
    **dict.fromkeys(["size_asserts", "alignment_asserts", "scalar_asserts"], False),
    # ... and so are layouts: channels last, to which it would turn convolutions, takes longer on some processors.
    "layout_optimization": False,
    "fallback_random": True,
}
ON_A_DEVICE = {
    "cpp_wrapper": False,
    # Draws depend on nothing, so it would swap two of them, and each would get the other's numbers.
    **dict.fromkeys(["reorder_for_peak_memory", "reorder_for_locality"], False),
}


# Inductor fuses and reorders sums, so it is further from the recorded graph than that is from eager Pyro ...
SLACK = 100.0
# ... and where half precision is inside, it rounds in other places: by so many times that precision.
HALF_SLACK = 3.0
_HALF = (torch.bfloat16, torch.float16)


class Code:
    """Inductor's code for a graph.

    Args:
        graph: what it does.
        held: the graph's first inputs, the same tensors at every call.
        written: those of them that it writes in place.
        tensors: its other inputs, like those that it will be called with.
        compared: chooses what must agree, from what it returns followed by what it leaves in `written`.
    """

    def __init__(
        self,
        graph: GraphModule,
        held: Sequence[Tensor],
        written: Sequence[Tensor],
        tensors: Sequence[Tensor],
        compared: Callable[[list[Tensor]], list[Tensor]] = list,
    ) -> None:
        self._graph, self._held, self._written, self._compared = graph, held, written, compared
        self._run = self._code = compile_graph(graph, [*held, *tensors])

    def __call__(self, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
        """Return what the graph returns."""
        grad = torch.is_grad_enabled()
        set_grad_enabled = private("set_grad_enabled")  # torch.no_grad() itself takes 17 us here
        set_grad_enabled(False)
        try:
            return self._run(*self._held, *tensors)
        finally:
            set_grad_enabled(grad)

    def move(self, held: Sequence[Tensor], written: Sequence[Tensor], tensors: Sequence[Tensor]) -> None:
        """Use other tensors from now on."""
        self._held, self._written = held, written
        if self._run is not self._code:
            self.capture(tensors)

    def capture(self, tensors: Sequence[Tensor]) -> str | None:
        """Replay it as one CUDA graph from now on, if all is on one GPU and that does the same; return why it does not."""
        inputs = [*self._held, *tensors]
        if not cuda_graphs.capturable(inputs):
            return None
        try:
            self._run = cuda_graphs.captured(self._code, inputs, len(self._held), self._written)
            # other data and draws than those of the capture, which would be right if everything stood still
            why_not = self.disagreement(resampled(tensors), OTHER_DRAWS + 1)
        except Exception as error:  # the code itself is there
            why_not = in_short(error)
        if why_not is not None:
            self._run = self._code
        return why_not

    def disagreement(self, tensors: Sequence[Tensor], seed: int | None = None) -> str | None:
        """Say that it does not do what its graph does; None if it does, for one of two draws, the first of which are the seed's.

        Where an activation lies within rounding of a ReLU's kink, its gradient is there or not. Of 291 draws for a
        convolutional net 5 differed by more than rounding explains; with softplus in place of ReLU, of 304 none by a
        thousandth of that. Wrong code is wrong for both draws.
        """
        far = self.distance(tensors, seed)
        far = far if far <= 1 else min(far, self.distance(tensors, OTHER_DRAWS))
        return (
            f"its code differs from the recorded graph by {far:.0e} times what rounding explains" if far > 1 else None
        )

    def distance(self, tensors: Sequence[Tensor], seed: int | None = None) -> float:
        """Return how far it is from its graph, up to 1 is rounding; leave no trace."""
        inputs, runs = [*self._held, *tensors], (self._graph, self._run)
        with torch.no_grad():
            wanted, got = (self._compared(outcome(run, inputs, self._written, seed)) for run in runs)
        if any(getattr(node.meta.get("val"), "dtype", None) in _HALF for node in self._graph.graph.nodes):
            return furthest(wanted, got, TOLERANCE[torch.bfloat16]) / HALF_SLACK
        return furthest(wanted, got) / SLACK


def compile_graph(graph: GraphModule, inputs: Sequence[Tensor]) -> Callable[..., Sequence[Tensor]]:
    """Return inductor's code for a recorded graph; its draws are the graph's."""
    on_cpu = all(t.device.type == "cpu" for t in inputs)
    settings = SETTINGS | ({"cpp_wrapper": True} if on_cpu else ON_A_DEVICE)
    known = private("inductor_config").get_config_copy()  # another torch may not have them all
    settings = {name: value for name, value in settings.items() if name in known}
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(undisturbed())
        for logger in map(logging.getLogger, TALKATIVE):
            stack.callback(logger.setLevel, logger.level)
            logger.setLevel(logging.ERROR)
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")  # of torch about torch, and about TF32, which would round otherwise
        # inductor's public `compile` would do but for the decompositions, which it does not take
        code = private("compile_fx")(graph, list(inputs), config_patches=settings, decompositions=decompositions())
    _keep_freed_memory()
    return cast(Callable[..., Sequence[Tensor]], code)


def decompositions() -> dict[Any, Callable[..., Any]]:
    """Return inductor's own decompositions, with ours of three operations."""
    table = dict(private("inductor_decompositions")())
    table[_aten.cat.default] = functools.partial(_cat, table[_aten.cat.default])
    table[_aten.bernoulli.default] = functools.partial(_bernoulli, table[_aten.bernoulli.default])
    # Checks of values ask it. Inductor has no code for it: what it is of would be written to memory, a third of a small step.
    table[_aten._is_all_true.default] = torch.all
    return table


def _bernoulli(theirs: Callable[..., Any], p: Tensor, **options: Any) -> Any:
    """Draw in float64 as torch does: inductor's form draws in float32, and so other values."""
    if p.dtype == torch.float64 and p.device.type == "cpu" and not options.get("generator"):
        return (torch.rand_like(p) < p).to(p.dtype)
    return theirs(p, **options)


def _cat(theirs: Callable[..., Any], tensors: Sequence[Tensor], dim: int = 0) -> Any:
    """Lay out one tensor alone as torch does: inductor's form keeps its strides, and a view of it may be impossible."""
    if len(tensors) == 1:
        return tensors[0].clone(memory_format=private("suggest_memory_format")(tensors[0]))
    return theirs(tensors, dim)


def _keep_freed_memory() -> None:
    """Have the C library keep what a step frees for the next one, up to 64 MB.

    glibc gives large blocks back to the system, which fills them with zeros page by page when they are taken again: a fifth of a
    convolutional step. It learns from the largest block below 32 MB that was freed, so one is freed; its pages are never touched.
    """
    torch.empty(2**25 - 2**13, dtype=torch.uint8, device="cpu")
