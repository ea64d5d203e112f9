"""Distributions over equally spaced levels. All are univariate; heads make them events."""

from math import pi
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor
from torch.nn import functional as F

STD_OF_LOGISTIC = pi / 3**0.5
"""The standard deviation of a logistic variable of scale 1."""


class Levels(constraints.Constraint):
    """The ``levels`` equally spaced numbers from 0 to ``highest``.

    A hundredth of the spacing is forgiven: in float32, 16-bit pixels divided by 65535 need that
    much.
    """

    is_discrete = True
    event_dim = 0

    def __init__(self, levels: int, highest: float = 1.0) -> None:
        self.levels, self.highest = levels, highest

    def index(self, value: Tensor) -> Tensor:
        """Return which level each number is nearest to, 0 to ``levels - 1``, as floats."""
        return torch.round(value * ((self.levels - 1) / self.highest)).clamp(0, self.levels - 1)

    def check(self, value: Tensor) -> Tensor:
        """Return whether each number is one of the levels, boolean."""
        return (value * ((self.levels - 1) / self.highest) - self.index(value)).abs() < 0.01

    def __repr__(self) -> str:
        return f"Levels({self.levels} values from 0 to {self.highest:g})"


def _check_levels(levels: int) -> None:
    if levels < 2:
        raise ValueError(f"a distribution over levels needs at least 2 of them and got {levels}.")


class DiscretizedLogistic(TorchDistribution):
    """A logistic variable rounded to the nearest of the levels ``0, d, 2d, ..., 1``.

    The spacing is ``d = 1 / (levels - 1)``.

    P(x) = F(x + d/2) - F(x - d/2) with F the logistic distribution function; what falls below 0 or
    above 1 goes to the outermost levels, so the probabilities sum to one. *PixelCNN++ (Salimans,
    Karpathy, Chen, Kingma, 2017)*, arXiv 1701.05517, equation 2.

    Args:
        loc: centre of the logistic variable, in units of the data.
        scale: its scale s, in units of the data (its standard deviation is s pi / sqrt 3).
        levels: how many values the data take.
    """

    arg_constraints = {"loc": constraints.real, "scale": constraints.positive}  # noqa: RUF012 (torch's own attribute)
    has_rsample = False

    def __init__(self, loc: Tensor, scale: Tensor, levels: int = 256, validate_args: bool | None = None) -> None:
        _check_levels(levels)
        self.loc, self.scale = torch.broadcast_tensors(loc, scale)
        self.levels = levels
        super().__init__(self.loc.shape, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "DiscretizedLogistic":
        """Return the same distribution with a larger batch shape."""
        new = self._get_checked_instance(DiscretizedLogistic, _instance)
        new.loc, new.scale, new.levels = (
            self.loc.expand(batch_shape),
            self.scale.expand(batch_shape),
            self.levels,
        )
        super(DiscretizedLogistic, new).__init__(torch.Size(batch_shape), validate_args=False)
        new._validate_args = self._validate_args
        return new

    @constraints.dependent_property(is_discrete=True, event_dim=0)
    def support(self) -> constraints.Constraint:
        """The levels from 0 to 1."""
        return Levels(self.levels)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log P(value), in nats."""
        if self._validate_args:
            self._validate_sample(value)
        # With a, b the standardised ends of the interval, F(b) - F(a) = F(b) F(-a) (1 - exp(a - b)): three
        # factors whose logarithms are all exact, however far in a tail the interval lies, and b - a is
        # known without a subtraction.
        half = 0.5 / (self.levels - 1)
        index = self.support.index(value)
        centre = index / (self.levels - 1) - self.loc
        below = torch.where(index == self.levels - 1, 0.0, F.logsigmoid((centre + half) / self.scale))
        above = torch.where(index == 0, 0.0, F.logsigmoid((half - centre) / self.scale))
        width = torch.log(-torch.expm1(-2 * half / self.scale))
        return below + above + torch.where((index == 0) | (index == self.levels - 1), 0.0, width)

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008 (torch's own default)
        """Return draws of shape ``sample_shape + batch_shape``."""
        with torch.no_grad():
            uniform = torch.rand(self._extended_shape(sample_shape), dtype=self.loc.dtype, device=self.loc.device)
            index = self.support.index(self.loc + self.scale * torch.logit(uniform))
            return index.abs() / (self.levels - 1)  # no -0

    def _moment(self, power: int) -> Tensor:
        # E x^n = sum over levels k >= 1 of (k^n - (k-1)^n) d^n P(x >= k d)
        total = torch.zeros_like(self.loc)
        for k in range(1, self.levels):
            threshold = (k - 0.5) / (self.levels - 1)
            total = total + (k**power - (k - 1) ** power) * torch.sigmoid((self.loc - threshold) / self.scale)
        return total / (self.levels - 1) ** power

    @property
    def mean(self) -> Tensor:
        """The mean over the levels (not ``loc``: the outermost levels take in the tails); one pass
        per level.
        """
        return self._moment(1)

    @property
    def variance(self) -> Tensor:
        """The variance over the levels; two passes per level."""
        return (self._moment(2) - self._moment(1).square()).clamp(min=0)


class CategoricalLevels(TorchDistribution):
    """One of the ``levels`` equally spaced numbers from 0 to ``highest``, each with a probability
    of its own; values are floats.

    Pyro's Categorical gives long integers, which a net cannot take, and has no mean.

    Args:
        logits: unnormalised log-probabilities, ``(..., levels)``.
        highest: the largest value; ``levels - 1`` if not given, so that the values are 0, 1, 2, ...
    """

    arg_constraints = {"logits": constraints.real_vector}  # noqa: RUF012 (torch's own attribute)
    has_rsample = False

    def __init__(self, logits: Tensor, highest: float | None = None, validate_args: bool | None = None) -> None:
        self.levels = logits.shape[-1]
        _check_levels(self.levels)
        self.highest = float(self.levels - 1 if highest is None else highest)
        self.logits = torch.log_softmax(logits, -1)
        super().__init__(logits.shape[:-1], validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "CategoricalLevels":
        """Return the same distribution with a larger batch shape."""
        new = self._get_checked_instance(CategoricalLevels, _instance)
        new.levels, new.highest = self.levels, self.highest
        new.logits = self.logits.expand(*batch_shape, self.levels)
        super(CategoricalLevels, new).__init__(torch.Size(batch_shape), validate_args=False)
        new._validate_args = self._validate_args
        return new

    @constraints.dependent_property(is_discrete=True, event_dim=0)
    def support(self) -> constraints.Constraint:
        """The levels from 0 to ``highest``."""
        return Levels(self.levels, self.highest)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log P(value), in nats."""
        if self._validate_args:
            self._validate_sample(value)
        index = self.support.index(value).long().unsqueeze(-1)
        shape = torch.broadcast_shapes(index.shape[:-1], self.logits.shape[:-1])
        return self.logits.expand(*shape, self.levels).gather(-1, index.expand(*shape, 1)).squeeze(-1)

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008 (torch's own default)
        """Return draws of shape ``sample_shape + batch_shape``, floats."""
        with torch.no_grad():
            index = dist.Categorical(logits=self.logits, validate_args=False).sample(sample_shape)
            return index.to(self.logits) * (self.highest / (self.levels - 1))

    def _values(self) -> Tensor:
        return torch.arange(self.levels).to(self.logits) * (self.highest / (self.levels - 1))

    @property
    def mean(self) -> Tensor:
        """The mean of the values, ``(...)``."""
        return (self.logits.exp() * self._values()).sum(-1)

    @property
    def variance(self) -> Tensor:
        """The variance of the values, ``(...)``."""
        return (self.logits.exp() * (self._values() - self.mean.unsqueeze(-1)).square()).sum(-1)
