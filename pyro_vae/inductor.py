"""Inductor's code for a recorded graph."""

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, cast

import torch
from torch import Tensor
from torch.fx import GraphModule

from pyro_vae.decompositions import decompositions
from pyro_vae.recording import undisturbed


def inductor(graph: GraphModule, inputs: Sequence[Tensor]) -> Callable[..., Sequence[Tensor]]:
    """Return inductor's code for a recorded graph; its draws are the graph's."""
    import torch._inductor.config
    from torch._inductor.compile_fx import compile_fx

    # Shapes are part of our signature, so the code need not look at each tensor's again: 7 us of the smallest steps' 100.
    settings: dict[str, Any] = {"size_asserts": False, "alignment_asserts": False, "scalar_asserts": False}
    # ... and so are layouts: channels last, to which it would turn convolutions, takes longer on some processors.
    settings |= {"layout_optimization": False, "fallback_random": True}
    settings |= {"cpp_wrapper": all(t.device.type == "cpu" for t in inputs)}
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(undisturbed())
        stack.enter_context(torch._inductor.config.patch(settings))
        for name in ("torch.utils.cpp_extension", "torch._inductor.ir"):
            stack.enter_context(_silent(name))
        stack.enter_context(warnings.catch_warnings())
        for kind in (FutureWarning, DeprecationWarning):  # of torch about torch
            warnings.simplefilter("ignore", kind)
        code = compile_fx(graph, list(inputs), decompositions=decompositions())
    _keep_freed_memory()
    return cast(Callable[..., Sequence[Tensor]], code)


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
