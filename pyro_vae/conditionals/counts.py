"""Heads for counts 0, 1, 2, ...: `Poisson`, `NegativeBinomial`, and `ZeroInflated` of either.

The net gives log-means, near what it says up to e^10 and never beyond e^20.
"""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from pyro_vae import distributions
from pyro_vae.conditionals.head import EDGE, Head
from pyro_vae.conditionals.scales import bounded, from_scale, to_scale
from pyro_vae.options import Count, checked

__all__ = ["CountHead", "NegativeBinomial", "Poisson", "ZeroInflated"]

FARTHEST = 20.0  # of log-means from 0: e^20 is half a billion
RARE = 0.1  # the probability of an extra zero to begin with


class CountHead(Head):
    """A head whose features are counts, independent given the parameters."""

    @abstractmethod
    def each(self, parameters: Tensor) -> TorchDistribution:
        """Return the features' distributions, batch shape ``(..., features)``."""

    def forward(self, parameters: Tensor) -> TorchDistribution:
        """Return the distribution over ``(..., features)`` for ``parameters``, ``(..., size)``."""
        return self.each(parameters).to_event(1)


class Poisson(CountHead):
    """Counts with the variance of their mean; the net gives log-means."""

    @checked()
    def __init__(self, features: Count) -> None:
        super().__init__(features, features)

    def each(self, parameters: Tensor) -> TorchDistribution:
        """Return the features' distributions, batch shape ``(..., features)``."""
        return distributions.Poisson(self._mean(parameters))

    def _mean(self, parameters: Tensor) -> Tensor:
        return bounded(self.kinds(parameters).squeeze(-2), FARTHEST).exp()

    def part(self, keep: Sequence[int]) -> "Poisson":
        """Return this head for the features ``keep``."""
        return Poisson(len(keep))

    def start(self, mean: Tensor, std: Tensor | None = None) -> Tensor:
        """Return log-means, ``(features,)``, of ``mean``, of a thousandth where it is less; ``std`` is
        not used.
        """
        angle = mean.detach().cpu().double().clamp(min=EDGE).log() / FARTHEST
        return (FARTHEST * torch.tan(torch.asin(angle.clamp(-0.99, 0.99)))).to(mean)


class NegativeBinomial(Poisson):
    """Counts that vary more than a Poisson's: the net gives log-means, and one concentration per
    feature is learned. See `pyro_vae.distributions.NegativeBinomial`.
    """

    @checked()
    def __init__(self, features: Count) -> None:
        super().__init__(features)
        self.raw_concentration = nn.Parameter(torch.zeros(features))

    def each(self, parameters: Tensor) -> TorchDistribution:
        """Return the features' distributions, batch shape ``(..., features)``."""
        return distributions.NegativeBinomial(self._mean(parameters), to_scale(self.raw_concentration))

    def part(self, keep: Sequence[int]) -> "NegativeBinomial":
        """Return this head for the features ``keep``; their concentrations stay where they are."""
        part = NegativeBinomial(len(keep))
        del part.raw_concentration
        part.register_buffer("raw_concentration", self.raw_concentration.detach()[list(keep)])
        return part

    def start(self, mean: Tensor, std: Tensor | None = None) -> Tensor:
        """Return log-means, ``(features,)``, of ``mean``, and set the concentrations, in place, where
        the variance is that of ``std``, at 100 at most.
        """
        if std is not None:
            centre = mean.detach().cpu().double().clamp(min=EDGE)
            beyond = std.detach().cpu().double().square() - centre
            concentration = centre.square() / beyond.clamp(min=0.01 * centre.square())
            with torch.no_grad():
                self.raw_concentration.copy_(from_scale(concentration))
        return super().start(mean, std)


class ZeroInflated(CountHead):
    """Counts, or 0 whatever they would be, with a probability for which the net gives logits.

    Args:
        head: of the counts, `Poisson` or `NegativeBinomial`.
    """

    def __init__(self, head: CountHead) -> None:
        if not isinstance(head, CountHead):
            raise TypeError(f"zeros are added to a head of counts, such as Poisson, and got {type(head).__name__}")
        super().__init__(head.features, head.size + head.features)
        self.head = head

    def each(self, parameters: Tensor) -> TorchDistribution:
        """Return the features' distributions, batch shape ``(..., features)``."""
        self.check_size(parameters)
        counts, gate = parameters.split([self.head.size, self.features], -1)
        distribution: Any = dist.ZeroInflatedDistribution(self.head.each(counts), gate_logits=gate)
        return distribution

    def part(self, keep: Sequence[int]) -> "ZeroInflated":
        """Return this head for the features ``keep``."""
        part: Any = self.head.part(keep)
        return ZeroInflated(part)

    def start(self, mean: Tensor, std: Tensor | None = None) -> Tensor:
        """Return the parameters, ``(size,)``, of ``mean``; a tenth of the data are extra zeros."""
        rare = torch.full_like(mean.detach(), RARE)
        return torch.cat([self.head.start(mean / (1 - RARE), std), torch.logit(rare)])
