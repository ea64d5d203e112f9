"""Heads for q(z | x) and p(z | y) beyond the diagonal `pyro_vae.conditionals.Normal`.

`LowRank` and `FullCovariance` are Gaussians with correlated latents, `PointMass` puts all its mass
on one point. For flows see `pyro_vae.conditionals.flows`.
"""

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.nn import functional as F

from pyro_vae.conditionals.head import Head, initial_std
from pyro_vae.conditionals.scales import bounded, from_scale, to_scale
from pyro_vae.options import Count, checked

__all__ = ["FullCovariance", "LowRank", "PointMass"]


class LowRank(Head):
    """A Gaussian with covariance ``S (N^-2 + W W') S``, S and N diagonal, W of ``rank`` columns:
    correlations along a few directions.

    N makes the bracket's diagonal 1, so that S holds the standard deviations, as everywhere. At the
    parameters 0 it is the standard normal.

    Args:
        features: size of the event.
        rank: columns of W.
    """

    @checked()
    def __init__(self, features: Count, rank: Count = 2) -> None:
        super().__init__(features, (2 + rank) * features)
        self.rank = rank

    def forward(self, parameters: Tensor) -> TorchDistribution:
        """Return the distribution over ``(..., features)`` for ``parameters``, ``(..., size)``."""
        loc, raw_scale, *columns = self.kinds(parameters).unbind(-2)
        factor = bounded(torch.stack(columns, -1))  # (..., features, rank)
        scale = to_scale(raw_scale) * torch.rsqrt(1 + factor.square().sum(-1))
        return dist.LowRankMultivariateNormal(loc, scale.unsqueeze(-1) * factor, scale.square())

    def start(self, mean: Tensor, std: Tensor | None = None) -> Tensor:
        """Return parameters, ``(size,)``, of ``mean``, ``std`` (default 1) and no correlation."""
        raw_scale = from_scale(initial_std(std, mean, 1.0)).to(mean)
        return torch.cat([mean.detach(), raw_scale, mean.new_zeros(self.rank * self.features)])

    def extra_repr(self) -> str:
        """Return what the printed head shows in parentheses."""
        return f"{self.features}, rank={self.rank}"


class FullCovariance(Head):
    """A Gaussian with any covariance: its Cholesky factor is ``S N^-1 (I + V)``, V strictly lower
    triangular.

    N makes the rows of N^-1 (I + V) of length 1, so that S holds the standard deviations. At the
    parameters 0 it is the standard normal.

    Args:
        features: size of the event.
    """

    _where: Tensor

    @checked()
    def __init__(self, features: Count) -> None:
        below = features * (features - 1) // 2
        super().__init__(features, 2 * features + below)
        where = torch.zeros(features, features, dtype=torch.long)
        row, column = torch.tril_indices(features, features, -1)
        where[row, column] = torch.arange(1, below + 1)
        # which of (0, v_1, v_2, ...) stands at each place of V; looked up, since writing into a matrix
        # would be slower to record
        self.register_buffer("_where", where)

    def forward(self, parameters: Tensor) -> TorchDistribution:
        """Return the distribution over ``(..., features)`` for ``parameters``, ``(..., size)``."""
        self.check_size(parameters)
        loc, raw_scale, below = parameters.split([self.features, self.features, self.size - 2 * self.features], -1)
        # a net's outputs are of the size of 1, and so many to a row would begin as strong correlations
        lower = F.pad(bounded(below / self.features**0.5), (1, 0))[..., self._where]  # (..., features, features)
        lower = lower + torch.eye(self.features, dtype=lower.dtype, device=lower.device)
        length = lower.square().sum(-1).sqrt()
        return dist.MultivariateNormal(loc, scale_tril=(to_scale(raw_scale) / length).unsqueeze(-1) * lower)

    def start(self, mean: Tensor, std: Tensor | None = None) -> Tensor:
        """Return parameters, ``(size,)``, of ``mean``, ``std`` (default 1) and no correlation."""
        raw_scale = from_scale(initial_std(std, mean, 1.0)).to(mean)
        return torch.cat([mean.detach(), raw_scale, mean.new_zeros(self.size - 2 * self.features)])


class PointMass(Head):
    """All mass on the net's output, for a deterministic autoencoder; the log density there is 0."""

    @checked()
    def __init__(self, features: Count) -> None:
        super().__init__(features, features)

    def forward(self, parameters: Tensor) -> TorchDistribution:
        """Return the distribution over ``(..., features)`` at ``parameters``, ``(..., features)``."""
        return dist.Delta(self.kinds(parameters).squeeze(-2), event_dim=1)

    def start(self, mean: Tensor, std: Tensor | None = None) -> Tensor:
        """Return ``mean``, ``(features,)``; ``std`` is not used."""
        return mean.detach().clone()
