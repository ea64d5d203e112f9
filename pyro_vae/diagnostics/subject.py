"""What `diagnose` examines, and what its checks say."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import torch

from pyro_vae.data import Data
from pyro_vae.evidence import FEW, Meaning, meaning_of, undreamable
from pyro_vae.posterior import distribution_of_x
from pyro_vae.program import MANY_PASSES, Batch, Pair, passes_of, size_of

Level = Literal["good", "fair", "bad", "note", "left out"]

FAIR_GAP = 0.2  # of the KL; more is bad
RARE = 0.01  # a p-value below it is evidence against


@dataclass(frozen=True)
class Verdict:
    """One line of the table."""

    check: str
    value: float | None  # the figure that was judged; None where the check was left out
    verdict: Level
    advice: str  # what the figure means and what to do about it

    def to_json(self) -> dict[str, Any]:
        """Return the line as the command line prints it."""
        return {"check": self.check, "value": self.value, "verdict": self.verdict, "advice": self.advice}


@dataclass(frozen=True)
class Budget:
    """How much to compute; counts of data and draws."""

    data: int  # test data whose evidence is estimated
    draws: int  # importance samples per datum
    refined: int  # data whose guide is refined
    steps: int  # of refinement
    simulated: int  # data for calibration
    samples: int  # drawn from the model for its criticism
    temperatures: int = 0  # of annealing; 0: none
    annealed: int = 0
    nuts: int = 0  # data sampled by NUTS
    refit: int = 0  # epochs of training the guide alone


@dataclass
class Subject:
    """What is examined, and what the checks have found so far."""

    pair: Pair
    data: Data | None
    split: str
    test: Batch  # ``budget.data`` of the split
    train: Batch | None  # as many data of the training split
    budget: Budget
    seed: int
    positions: list[int]  # of the test data in the split
    found: dict[str, Any] = field(default_factory=dict)  # results by check, for later checks and for the report
    x: str = "x"  # the field that pictures and samples are about
    dream: float | None = None  # the weight of dreams in its training; None where that is not known

    @property
    def device(self) -> torch.device:
        """Where the data are: with the pair's parameters."""
        return next(iter(self.test.values())).device

    @cached_property
    def meaning(self) -> Meaning:
        """What the figures of the pair are of."""
        return meaning_of(self.pair, self.part(2))

    @cached_property
    def dreams(self) -> bool:
        """Whether the guide could learn from the model's draws, and has not yet."""
        return not self.dream and undreamable(self.pair, self.meaning) is None

    @cached_property
    def passes(self) -> int:
        """How many passes of a net a draw of x from the model costs."""
        fn, _ = distribution_of_x(self.pair, self.part(2))
        return 1 if fn is None else passes_of(fn)

    @cached_property
    def steps(self) -> float | None:
        """Mean number of steps of the test data, without padding; None for other data."""
        if self.data is None or self.data.spec.sequence is None:
            return None
        return self.test["mask"].sum().item() / size_of(self.test)

    def per_step(self, nats: float) -> str:
        """Return nats per datum as nats per step, in words; nothing where there are no steps."""
        return "" if self.steps is None else f" ({nats / self.steps:.3f} per step)"

    def affordable(self, count: int, *, least: int) -> int:
        """Return how many draws from the model to make in place of ``count``: fewer where each
        costs many passes.
        """
        return min(count, max(least, count * MANY_PASSES // self.passes))

    def part(self, count: int) -> dict[str, torch.Tensor]:
        """Return some of the test data, from all over them."""
        return evenly(self.test, count)


def evenly(batch: Batch, count: int) -> dict[str, torch.Tensor]:
    """Return ``count`` data of a batch, at even distances."""
    size = size_of(batch)
    index = torch.arange(min(count, size)) * size // min(count, size)
    return {name: tensor[index] for name, tensor in batch.items()}


Check = Callable[[Subject], Iterable[Verdict]]


class LeftOut(Exception):
    """A check that does not apply; the message says why and what would make it apply."""


def require_weights(subject: Subject) -> None:
    """Leave out a check that rests on importance weights, where draws of the guide have none.

    Raises:
        LeftOut: this pair's draws have no weights.
    """
    if subject.meaning.unweighable:
        raise LeftOut(subject.meaning.unweighable)


def few_levels(check: "Check") -> "Check":
    """Return the check, left out where it would treat a long chain's hundred vectors one by one."""

    def checked(subject: Subject) -> Iterable[Verdict]:
        if (sites := len(subject.meaning.latent)) > FEW:
            raise LeftOut(f"made for up to {FEW} latent sites, and this pair has {sites}, steps of a chain")
        yield from check(subject)

    return checked


def pvalue_words(pvalue: float) -> str:
    """Return a p-value as it is printed."""
    return f"p = {pvalue:.2g}" if pvalue > 1e-6 else "p < 0.000001"


def percent(share: float) -> str:
    """Return a share as a percentage, or "?" where it is not known."""
    return f"{100 * share:.0f} %" if not math.isnan(share) else "?"
