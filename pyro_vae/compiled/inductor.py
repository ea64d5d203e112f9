"""Inductor's code for a recorded graph."""

import functools
import logging
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, cast

import torch
from torch import Tensor
from torch.fx import GraphModule

from pyro_vae.compiled._torch import TALKATIVE, private
from pyro_vae.compiled.state import undisturbed

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
    """Return inductor's own decompositions, with ours of two operations."""
    table = dict(private("inductor_decompositions")())
    table[_aten.cat.default] = functools.partial(_cat, table[_aten.cat.default])
    table[_aten.bernoulli.default] = functools.partial(_bernoulli, table[_aten.bernoulli.default])
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
