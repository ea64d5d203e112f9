"""Running the two programs of a pair."""

from collections.abc import Callable
from typing import Any

import pyro.poutine as poutine
import torch
from pyro.poutine import Trace


def trace_of(program: Callable, *args: Any, **kwargs: Any) -> Trace:
    """Return the trace of one run."""
    return poutine.trace(program).get_trace(*args, **kwargs)


def trace_without_gradients(program: Callable, *args: Any, **kwargs: Any) -> Trace:
    """Return the trace of one run that keeps nothing for gradients: a draw by many passes of a net
    would keep all of them.
    """
    with torch.no_grad():
        return trace_of(program, *args, **kwargs)


def trace_pair(guide: Callable, model: Callable, *args: Any, **kwargs: Any) -> tuple[Trace, Trace]:
    """Return the guide's trace, and the model's at the guide's draws."""
    drawn = trace_of(guide, *args, **kwargs)
    return drawn, trace_of(poutine.replay(model, trace=drawn), *args, **kwargs)
