"""What the checks of a pair look at, and the problems that they report."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import pyro
from pyro.poutine import Trace

from pyro_vae.program.pair import Batch, Pair, size_of
from pyro_vae.program.tracing import trace_pair, trace_without_gradients
from pyro_vae.runs import seeded


class Problem(NamedTuple):
    """One mistake: where, what is wrong with both facts, and what to change."""

    site: str
    problem: str
    change: str

    def __str__(self) -> str:
        return f"{self.problem}. {self.change}."


class Look:
    """A pair, a batch, and traces of the programs on it, run when a check first asks for them.

    Attributes:
        ran: the modules that were called when the programs first ran, by their id.
    """

    def __init__(self, pair: Pair, batch: Batch) -> None:
        self.pair = pair
        self.batch = batch
        self.size = size_of(batch)
        self.guide_name = pair.bound_guide.name
        self.model_name = pair.bound_model.name
        self.ran: set[int] = set()

    def apart(self, seed: int = 0, model: Callable | None = None) -> tuple[Trace, Trace]:
        """Return traces of guide and model, or of what is given in the model's place, each run by
        itself, as one's draws may not suit the other.
        """
        with seeded(seed), pyro.validation_enabled(False):
            guide = trace_without_gradients(self.pair.bound_guide, self.batch)
            return guide, trace_without_gradients(model or self.pair.bound_model, self.batch)

    @functools.cached_property
    def structure(self) -> tuple[Trace, Trace]:
        """``apart``, of one run for all checks."""
        return self.apart()

    def traces(self, *, validate: bool = False) -> tuple[Trace, Trace]:
        """Return traces of the guide, and of the model at its draws; run anew, for flows' caches."""
        with seeded(0), pyro.validation_enabled(validate):
            return trace_pair(self.pair.bound_guide, self.pair.bound_model, self.batch)


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, or its type."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
