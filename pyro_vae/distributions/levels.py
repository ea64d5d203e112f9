"""Distributions that Pyro lacks, or has but wrong at the ends. All are univariate; heads make them events."""

from math import pi
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor
from torch.nn import functional as F


class Levels(constraints.Constraint):
    """The ``levels`` equally spaced numbers from 0 to ``highest``.

    A hundredth of the spacing is forgiven: in float32, 16-bit pixels divided by 65535 need that much.
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
    """A logistic variable rounded to the nearest of the levels ``0, d, 2d, ..., 1`` with ``d = 1 / (levels
    - 1)``.

    P(x) = F(x + d/2) - F(x - d/2) with F the logistic distribution function; what falls below 0 or above 1
    goes to the outermost levels, so the probabilities sum to one. *PixelCNN++ (Salimans, Karpathy, Chen,
    Kingma, 2017)*, arXiv 1701.05517, equation 2.

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
        """The mean over the levels (not ``loc``: the outermost levels take in the tails); a pass a level."""
        return self._moment(1)

    @property
    def variance(self) -> Tensor:
        """The variance over the levels; two passes per level."""
        return (self._moment(2) - self._moment(1).square()).clamp(min=0)


class CategoricalLevels(TorchDistribution):
    """One of the ``levels`` equally spaced numbers from 0 to ``highest``, each with a probability of its
    own; values are floats.

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


class ContinuousBernoulli(TorchDistribution):
    """Density ``exp(l x) l / (exp(l) - 1)`` on [0, 1], with ``l`` the logits: a Bernoulli's likelihood,
    normalised for grey values.

    *The continuous Bernoulli (Loaiza-Ganem & Cunningham, 2019)*, arXiv 1907.06845. torch's class of this name keeps its
    probability within [eps, 1 - eps], so its density integrates to less than one at the ends: in float32 to .80 at
    logits of 20 and .40 at 40 (measured), where the pixels of a good model are. Written in h = l / 2,
    log p = l (x - 1/2) - log(sinh(h) / h), and every quantity has a series where h is near 0.

    Args:
        logits: ``l``, any real numbers.
    """

    arg_constraints = {"logits": constraints.real}  # noqa: RUF012 (torch's own attribute)
    support = constraints.unit_interval
    has_rsample = True

    # |h| below which the series are used: they err by less than 1e-13 there, and the closed forms'
    # gradients by eps / 0.1 above
    _NEAR = 0.1

    def __init__(self, logits: Tensor, validate_args: bool | None = None) -> None:
        self.logits = logits
        super().__init__(logits.shape, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "ContinuousBernoulli":
        """Return the same distribution with a larger batch shape."""
        new = self._get_checked_instance(ContinuousBernoulli, _instance)
        new.logits = self.logits.expand(batch_shape)
        super(ContinuousBernoulli, new).__init__(torch.Size(batch_shape), validate_args=False)
        new._validate_args = self._validate_args
        return new

    def _half(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return whether h is near 0, h where it is (else 0), and h where it is not (else 1)."""
        h = self.logits / 2
        near = h.abs() < self._NEAR
        return near, torch.where(near, h, 0.0), torch.where(near, 1.0, h)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log density at ``value``, in nats."""
        if self._validate_args:
            self._validate_sample(value)
        near, small, h = self._half()
        s, h = small.square(), h.abs()
        series = s * (1 / 6 - s * (1 / 180 - s * (1 / 2835 - s / 37800)))
        log_sinhc = torch.where(near, series, h + torch.log(-torch.expm1(-2 * h) / (2 * h)))
        return self.logits * (value - 0.5) - log_sinhc

    @property
    def mean(self) -> Tensor:
        """``1/2 + (coth(h) - 1/h) / 2``."""
        near, small, h = self._half()
        s = small.square()
        series = small * (1 / 3 - s * (1 / 45 - s * (2 / 945 - s / 4725)))
        return 0.5 + 0.5 * torch.where(near, series, 1 / torch.tanh(h) - 1 / h)

    @property
    def variance(self) -> Tensor:
        """``(1/h^2 - 1/sinh(h)^2) / 4``."""
        near, small, h = self._half()
        s = small.square()
        series = 1 / 3 - s * (1 / 15 - s * (2 / 189 - s / 675))
        return 0.25 * torch.where(near, series, h**-2 - torch.sinh(h) ** -2)

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008 (torch's own default)
        """Return draws, ``sample_shape + batch_shape``, by the inverse of the distribution function."""
        u = torch.rand(self._extended_shape(sample_shape), dtype=self.logits.dtype, device=self.logits.device)
        # log(1 + u (e^l - 1)) / l; for |l| < .02 by its series, the cumulants of a Bernoulli(u), to 1e-10
        near = self.logits.abs() < 0.02
        small = torch.where(near, self.logits, 0.0)
        spread = u * (1 - u)
        series = u + spread * small * (1 / 2 + small * ((1 - 2 * u) / 6 + small * (1 - 6 * spread) / 24))
        minus = -torch.where(near, 1.0, self.logits.abs())
        from_edge = torch.log1p(u * torch.expm1(minus)) / minus  # distance from the edge that has most of the mass
        far = torch.where(self.logits > 0, 1 - from_edge, from_edge)
        return torch.where(near, series, far).clamp(0, 1)


class Rescaled(TorchDistribution):
    """x = loc + scale u with u from ``base``, a distribution of real vectors: the change of variables is counted.

    The data are brought to u before anything else, so that an offset of many deviations costs no precision.

    Args:
        base: of u, event shape ``(features,)``.
        loc: ``(features,)``.
        scale: positive, ``(features,)``.
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012 (torch's own attribute)

    def __init__(self, base: TorchDistribution, loc: Tensor, scale: Tensor) -> None:
        self.base_dist, self.loc, self.scale = base, loc, scale
        self.has_rsample = base.has_rsample
        super().__init__(base.batch_shape, base.event_shape, validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "Rescaled":
        """Return the same distribution with a larger batch shape."""
        return Rescaled(self.base_dist.expand(torch.Size(batch_shape)), self.loc, self.scale)

    @constraints.dependent_property(is_discrete=False, event_dim=1)
    def support(self) -> constraints.Constraint:
        """All real vectors."""
        return self.base_dist.support

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log density at ``value``, in nats."""
        return self.base_dist.log_prob((value - self.loc) / self.scale) - self.scale.log().sum()

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008 (torch's own default)
        """Return draws, ``sample_shape + batch_shape + event_shape``, that gradients pass through."""
        return self.loc + self.scale * self.base_dist.rsample(sample_shape)

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008 (torch's own default)
        """Return draws, ``sample_shape + batch_shape + event_shape``."""
        with torch.no_grad():
            return self.loc + self.scale * self.base_dist.sample(sample_shape)

    @property
    def mean(self) -> Tensor:
        """The mean, ``(..., features)``."""
        return self.loc + self.scale * self.base_dist.mean

    @property
    def variance(self) -> Tensor:
        """The variance, ``(..., features)``."""
        return self.scale.square() * self.base_dist.variance


STD_OF_LOGISTIC = pi / 3**0.5
"""The standard deviation of a logistic variable of scale 1."""
