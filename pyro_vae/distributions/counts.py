"""Distributions over counts, with log-probabilities that float32 holds. All are univariate; heads make
them events.

`lgamma` of a count or of a concentration of thousands is so large that differences of it lose
hundredths of a nat in float32. So they are written as deviances, *Fast and Accurate Computation of
Binomial Probabilities* (Loader, 2000):

    lgamma(a) = (a - 1/2) log a - a + 1/2 log 2 pi + r(a),    r(a) = 1/(12 a) - 1/(360 a^3) + ...
"""

import math
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor

_LARGE = 8.0  # from where the series of r has less than float64's rounding left, times a thousand


def _remainder(a: Tensor) -> Tensor:
    """Return r(a) for positive ``a``: what Stirling's formula leaves of lgamma."""
    far, near = a.clamp(min=_LARGE), a.clamp(max=_LARGE)
    square = far.square().reciprocal()
    series = (1 / 12 - square * (1 / 360 - square * (1 / 1260 - square * (1 / 1680 - square / 1188)))) / far
    exact = torch.lgamma(near) - (near - 0.5) * near.log() + near - 0.5 * math.log(2 * math.pi)
    return torch.where(a > _LARGE, series, exact)


def _log_ratio(a: Tensor, b: Tensor, difference: Tensor) -> Tensor:
    """Return log(a / b) of positive numbers, exact where they are close: from ``difference``, a - b."""
    relative = difference / b
    close = relative.abs() < 0.5
    return torch.where(close, torch.where(close, relative, 0.0).log1p(), a.log() - b.log())


def _log_point(x: Tensor) -> Tensor:
    """Return log(x^x e^-x / x!) of counts: the largest log-probability that a Poisson gives ``x``."""
    positive = x.clamp(min=1)
    return torch.where(x > 0, -0.5 * (2 * math.pi * positive).log() - _remainder(positive), 0.0)


class Poisson(dist.Poisson):
    """P(x) = rate^x e^-rate / x!, torch's own but for the rounding of large counts.

    Args:
        rate: positive; the mean and the variance.
    """

    def expand(self, batch_shape: Any, _instance: Any = None) -> "Poisson":
        """Return the same distribution with a larger batch shape."""
        return super().expand(batch_shape, self._get_checked_instance(Poisson, _instance))

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log P(value), in nats."""
        if self._validate_args:
            self._validate_sample(value)
        rate, value = torch.broadcast_tensors(self.rate, value)
        likely = value * _log_ratio(rate, value.clamp(min=1), rate - value) + (value - rate)
        return torch.where(value > 0, likely, -rate) + _log_point(value)


class NegativeBinomial(TorchDistribution):
    """A Poisson variable whose rate has a Gamma distribution: counts that vary more than a Poisson's.

    P(x) = Gamma(x + c) / (Gamma(c) x!) (c / (c + m))^c (m / (c + m))^x, with variance m + m^2 / c:
    the parameters of *Deep generative modeling for single-cell transcriptomics* (Lopez, Regier,
    Cole, Jordan & Yosef, 2018), c their inverse dispersion.

    Args:
        mean: m, positive.
        concentration: c, positive; infinite is a Poisson.
    """

    arg_constraints: dict[str, Any] = {"mean": constraints.positive, "concentration": constraints.positive}  # noqa: RUF012
    support = constraints.nonnegative_integer

    def __init__(self, mean: Tensor, concentration: Tensor, validate_args: bool | None = None) -> None:
        self._mean, self.concentration = torch.broadcast_tensors(mean, concentration)
        super().__init__(self._mean.shape, validate_args=validate_args)

    @property
    def mean(self) -> Tensor:
        """m, ``(...)``."""
        return self._mean

    @property
    def variance(self) -> Tensor:
        """m + m^2 / c, ``(...)``."""
        return self._mean + self._mean.square() / self.concentration

    def expand(self, batch_shape: Any, _instance: Any = None) -> "NegativeBinomial":
        """Return the same distribution with a larger batch shape."""
        shape = torch.Size(batch_shape)
        found = NegativeBinomial(self._mean.expand(shape), self.concentration.expand(shape), validate_args=False)
        found._validate_args = self._validate_args
        return found

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008 (torch's own default)
        """Return draws, ``sample_shape + batch_shape``."""
        shape = self._extended_shape(torch.Size(sample_shape))
        with torch.no_grad():
            gamma = torch._standard_gamma(self.concentration.expand(shape))
            return torch.poisson(gamma / self.concentration * self._mean)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log P(value), in nats."""
        if self._validate_args:
            self._validate_sample(value)
        mean, c, x = torch.broadcast_tensors(self._mean, self.concentration, value)
        # Stirling's formula for lgamma(x + c), lgamma(c) and lgamma(x + 1) leaves the deviance, in the form
        # whose terms are the smaller ones, and three remainders
        positive = x.clamp(min=1)
        moved = _log_ratio(c + x, c + mean, x - mean)
        like_poisson = (c + x) * moved + x * _log_ratio(mean, positive, mean - positive)
        like_gamma = c * moved + x * (torch.log1p(c / positive) - torch.log1p(c / mean))
        rest = _remainder(c + x) - _remainder(c) - 0.5 * torch.log1p(x / c)
        likely = torch.where(c < x, like_gamma, like_poisson) + rest
        return torch.where(x > 0, likely, -c * torch.log1p(mean / c)) + _log_point(x)
