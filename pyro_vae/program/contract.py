"""What checks of a pair look at, and what they say."""

import functools
from typing import NamedTuple

import pyro
import pyro.poutine as poutine
from pyro.poutine import Trace

from pyro_vae.program.handlers import is_deterministic, is_factor, is_site
from pyro_vae.program.pair import Batch, Pair
from pyro_vae.runs import seeded


class Problem(NamedTuple):
    """One mistake: where, what is wrong with both facts, and what to change."""

    site: str
    problem: str
    change: str

    def __str__(self) -> str:
        return f"{self.problem}. {self.change}."


class Look:
    """A pair, a batch, and what the programs do on it; each is run when a check first asks for it.

    Attributes:
        ran: the modules that were called when the programs first ran, by their id.
    """

    def __init__(self, pair: Pair, batch: Batch) -> None:
        self.pair = pair
        self.batch = batch
        self.size = len(next(iter(batch.values())))
        self.guide_name = pair.bound_guide.name
        self.model_name = pair.bound_model.name
        self.ran: set[int] = set()

    def apart(self, seed: int = 0) -> tuple[Trace, Trace]:
        """Guide and model each by itself: their structure, when the draws of one may not suit the other."""
        with seeded(seed), pyro.validation_enabled(False):
            guide = poutine.trace(self.pair.bound_guide).get_trace(self.batch)
            return guide, poutine.trace(self.pair.bound_model).get_trace(self.batch)

    @functools.cached_property
    def structure(self) -> tuple[Trace, Trace]:
        """``apart``, of one run for all checks."""
        return self.apart()

    def traces(self, *, validate: bool = False) -> tuple[Trace, Trace]:
        """Guide, and model at the guide's draws; run anew, as some flows know the density of their last draw only."""
        with seeded(0), pyro.validation_enabled(validate):
            guide = poutine.trace(self.pair.bound_guide).get_trace(self.batch)
            model = poutine.trace(poutine.replay(self.pair.bound_model, trace=guide)).get_trace(self.batch)
        return guide, model


def samples(trace: Trace) -> dict[str, dict]:
    """Random variables proper: no plates' subsampling, no factors, no recorded values."""
    sites = {n: s for n, s in trace.nodes.items() if is_site(s)}
    return {n: s for n, s in sites.items() if not is_factor(s) and not is_deterministic(s)}


def first_line(error: Exception) -> str:
    """Return what an error says first, or its name."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
