"""A distribution of real vectors in other units."""

from typing import Any

import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor


class Rescaled(TorchDistribution):
    """x = loc + scale u with u from ``base``, a distribution of real vectors; densities are those
    of x.

    The data are mapped to u before anything else, so that an offset of many deviations costs no
    precision.

    Args:
        base: of u, event shape ``(features,)``; or of single features, batch shape ``(...,
            features)``.
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
        volume = self.scale.log()
        inner = self.base_dist.log_prob((value - self.loc) / self.scale)
        return inner - (volume.sum() if self.event_shape else volume)

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008 (torch's own default)
        """Return draws, ``sample_shape + batch_shape + event_shape``, that gradients pass through."""
        return self.loc + self.scale * self.base_dist.rsample(sample_shape)

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008 (torch's own default)
        """Return draws, ``sample_shape + batch_shape + event_shape``."""
        with torch.no_grad():
            return self.loc + self.scale * self.base_dist.sample(sample_shape)

    def complete(self, value: Tensor, known: int) -> Tensor:
        """Return ``value`` with the rest drawn anew, where the base is `Autoregressive`: see there."""
        return self.loc + self.scale * self.base_dist.complete((value - self.loc) / self.scale, known)

    @property
    def mean(self) -> Tensor:
        """The mean, ``(..., features)``."""
        return self.loc + self.scale * self.base_dist.mean

    @property
    def variance(self) -> Tensor:
        """The variance, ``(..., features)``."""
        return self.scale.square() * self.base_dist.variance
