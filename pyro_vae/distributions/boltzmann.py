"""Restricted Boltzmann machines: p(x) = exp(-F(x)) / Z with binary x and binary hidden units h.

    -E(x, h) = a'x + b'h + x'W h,    -F(x) = log sum over h of exp(-E) = a'x + sum softplus(b + W'x)

Z is a sum over all states of the smaller side, or is estimated by annealed importance sampling: On
the Quantitative Analysis of Deep Belief Networks (Salakhutdinov & Murray, 2008). Between the two
sides there are no other connections, so each is drawn at once given the other.
"""

import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor
from torch.nn.functional import softplus

TIGHT = 0.5  # nats between the two sides of log Z up to which the estimate is believed
MOST_UNITS = 14  # on the smaller side, over whose states a sum is taken: 16,384


class Energy(NamedTuple):
    """The parameters of a restricted Boltzmann machine."""

    weights: Tensor  # W, (visible, hidden)
    visible: Tensor  # a, (visible,)
    hidden: Tensor  # b, (hidden,)

    def free(self, x: Tensor) -> Tensor:
        """Return the free energy F(x), ``(...)``, of ``x``, ``(..., visible)``."""
        return -(x @ self.visible) - softplus(self.hidden + x @ self.weights).sum(-1)

    def gibbs(self, x: Tensor, steps: int) -> Tensor:
        """Return ``x``, ``(..., visible)``, after so many draws of h given x and of x given h."""
        for _ in range(steps):
            x = self.visible_given(torch.bernoulli(self.hidden_given(x)))
        return x

    def hidden_given(self, x: Tensor) -> Tensor:
        """Return p(h = 1 | x), ``(..., hidden)``, for ``x``, ``(..., visible)``: the units are
        independent.
        """
        return torch.sigmoid(self.hidden + x @ self.weights)

    def visible_given(self, h: Tensor) -> Tensor:
        """Return a draw of x given ``h``, ``(..., hidden)``."""
        return torch.bernoulli(torch.sigmoid(self.visible + h @ self.weights.T))

    @property
    def _turned(self) -> bool:
        """Whether x is the smaller side, over whose states sums are taken."""
        return len(self.visible) < len(self.hidden)

    def _log_masses(self, states: Tensor) -> Tensor:
        """Return log of the sum of exp(-E) over the larger side, for each state of the smaller."""
        return -(self if self._turned else Energy(self.weights.T, self.hidden, self.visible)).free(states)

    def log_z(self, states: Tensor) -> Tensor:
        """Return log Z exactly, from all states of the smaller side: see ``states_of``."""
        return self._log_masses(states).logsumexp(0)

    def exact(self, states: Tensor, shape: Any) -> Tensor:
        """Return exact draws of x, ``shape + (visible,)``."""
        masses = self._log_masses(states)
        count = math.prod(shape)
        drawn = (
            states[torch.multinomial((masses - masses.max()).exp(), count, replacement=True)] if count else states[:0]
        )
        return (drawn if self._turned else self.visible_given(drawn)).reshape(*shape, -1)


def states_of(units: int) -> Tensor:
    """Return all states of binary units, ``(2^units, units)``, the last unit changing first."""
    numbers = torch.arange(2**units).unsqueeze(-1)
    return (numbers >> torch.arange(units - 1, -1, -1) & 1).to(torch.get_default_dtype())


class Boltzmann(TorchDistribution):
    """p(x) of a restricted Boltzmann machine, event shape ``(visible,)``.

    Args:
        energy: its parameters.
        log_z: x, ``(..., visible)`` -> log Z, or what stands for it, of a shape that broadcasts with
            ``(...)``.
        draw: shape -> draws, ``shape + (visible,)``.
        passes: how many passes a draw costs.
        moved: how many steps the chains have taken that draws begin at; None where draws are exact.
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012 (torch's own attribute)
    support = constraints.independent(constraints.boolean, 1)
    has_rsample = False

    def __init__(
        self,
        energy: Energy,
        log_z: Callable[[Tensor], Tensor],
        draw: Callable[[torch.Size], Tensor],
        *,
        passes: int = 1,
        moved: Tensor | None = None,
        batch_shape: Any = torch.Size(),  # noqa: B008 (torch's own default)
    ) -> None:
        self.energy, self.log_z, self.draw, self.passes, self.moved = energy, log_z, draw, passes, moved
        super().__init__(torch.Size(batch_shape), energy.visible.shape, validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "Boltzmann":
        """Return the same distribution with a larger batch shape."""
        return Boltzmann(
            self.energy, self.log_z, self.draw, passes=self.passes, moved=self.moved, batch_shape=batch_shape
        )

    @property
    def refusal(self) -> str | None:
        """Why draws are none of this distribution, in one sentence; else None."""
        if self.moved is None or self.moved:
            return None
        return (
            "the chains of this Boltzmann machine have taken no step of training, so they hold no draws from it: train "
            "the pair first, or use --gradient exact, which draws exactly"
        )

    def log_prob(self, value: Tensor) -> Tensor:
        """Return -F(x) - log Z, in nats."""
        shape = torch.broadcast_shapes(value.shape[:-1], self.batch_shape)
        return (-self.energy.free(value) - self.log_z(value)).expand(shape)

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008 (torch's own default)
        """Return draws, ``sample_shape + batch_shape + (visible,)``."""
        with torch.no_grad():
            return self.draw(torch.Size(sample_shape) + self.batch_shape)


class LogZ(NamedTuple):
    """log Z by annealed importance sampling, nats; the weights are float64, one a chain.

    Forward weights estimate Z without bias, so that their logarithm errs low on average; weights of
    the way back, from draws of the machine to the base, estimate 1 / Z, so that theirs errs high.
    """

    forward: Tensor  # log-weights from the base to the machine
    reverse: Tensor | None  # of the way back, as estimates of log Z; None without draws to start from
    temperatures: int
    exact: bool  # whether the way back began at exact draws; else at chains, and bounds only if they have mixed

    @property
    def lower(self) -> float:
        """The estimate: log of the mean forward weight, at most log Z in expectation."""
        return (self.forward.logsumexp(0) - math.log(len(self.forward))).item()

    @property
    def upper(self) -> float | None:
        """The estimate of the way back, at least log Z in expectation."""
        if self.reverse is None:
            return None
        return (math.log(len(self.reverse)) - (-self.reverse).logsumexp(0)).item()

    @property
    def agrees(self) -> bool:
        """Whether the two sides are known and at most `TIGHT` nats apart."""
        return self.upper is not None and self.upper - self.lower <= TIGHT

    @property
    def ess(self) -> float:
        """Effective number of forward chains."""
        return (2 * self.forward.logsumexp(0) - (2 * self.forward).logsumexp(0)).exp().item()

    @property
    def stderr(self) -> float:
        """Standard error of ``lower`` (delta method)."""
        return max(0.0, 1 / self.ess - 1 / len(self.forward)) ** 0.5

    def to_dict(self) -> dict[str, float | int | bool | None]:
        """Return what JSON can hold of it."""
        return {
            "lower": self.lower,
            "upper": self.upper,
            "stderr": self.stderr,
            "ess": self.ess,
            "chains": len(self.forward),
            "temperatures": self.temperatures,
            "exact_draws": self.exact,
        }


@torch.no_grad()
def anneal_energy(
    energy: Energy, base: Tensor, *, temperatures: int = 1000, chains: int = 100, start: Tensor | None = None
) -> LogZ:
    """Estimate log Z between independent pixels with log-odds ``base`` and the machine.

    Args:
        temperatures: linear steps of the inverse temperature from 0 to 1.
        chains: independent ones, forward.
        start: draws from the machine, ``(chains, visible)``, from which to go back.

    Raises:
        ValueError: there are no temperatures or no chains.
    """
    for name, value in (("temperatures", temperatures), ("chains", chains)):
        if value < 1:
            raise ValueError(f"annealing needs at least one of {name}, got {value}: set {name} to 1,000, say")
    betas = torch.linspace(0, 1, temperatures + 1, dtype=torch.float64).tolist()
    hidden = len(energy.hidden)
    log_base = softplus(base).double().sum() + hidden * math.log(2)
    x = torch.bernoulli(torch.sigmoid(base).expand(chains, -1))
    forward = log_base + _walk(energy, base, x, betas, move_first=False)
    reverse = None if start is None else log_base - _walk(energy, base, start, betas[::-1], move_first=True)
    return LogZ(forward.cpu(), None if reverse is None else reverse.cpu(), temperatures, exact=False)


def _walk(energy: Energy, base: Tensor, x: Tensor, betas: list[float], *, move_first: bool) -> Tensor:
    """Return the log-weights, ``(chains,)``, of a walk through the temperatures.

    A move at a temperature follows the step to it, or on the way back precedes the step from it.
    """
    total = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    for before, after in itertools.pairwise(betas):
        if move_first:
            x = _move(energy, base, x, before)
        field, linear = energy.hidden + x @ energy.weights, x @ (energy.visible - base)
        total += ((after - before) * linear + (softplus(after * field) - softplus(before * field)).sum(-1)).double()
        if not move_first:
            x = _move(energy, base, x, after)
    return total


def _move(energy: Energy, base: Tensor, x: Tensor, beta: float) -> Tensor:
    """Return ``x`` after a draw of h and of x at an inverse temperature."""
    h = torch.bernoulli(torch.sigmoid(beta * (energy.hidden + x @ energy.weights)))
    return torch.bernoulli(torch.sigmoid((1 - beta) * base + beta * (energy.visible + h @ energy.weights.T)))
