"""Paths whose steps are linear and Gaussian, drawn in log2(steps) operations.

A loop over 160 steps would be recorded as 160 copies of its operations.
"""

from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.nn import functional as F

from pyro_vae.distributions.steps import NOTHING, Path

__all__ = ["LinearPath"]


class LinearPath(Path):
    """p(z): z_t = gate_t z_(t-1) + loc_t + tril_t noise, each step with matrices of its own.

    Args:
        gate: ``(batch, steps, size, size)``; that of the first step counts for nothing.
        loc: ``(batch, steps, size)``.
        tril: lower triangular, of the noise, ``(batch, steps, size, size)``.
        there: bool ``(batch, steps)``, True up to the length of each datum.
        idle: what padded steps are drawn from, event shape ``(size,)``.
    """

    has_rsample = True  # type: ignore[assignment]

    def __init__(self, gate: Tensor, loc: Tensor, tril: Tensor, there: Tensor, idle: Any) -> None:
        self.gate, self.loc, self.tril = gate, loc, tril
        super().__init__(dist.MultivariateNormal(loc[:, 0], scale_tril=tril[:, 0]), self._move, there, idle)

    def _move(self, previous: Tensor, where: slice) -> TorchDistribution:
        moved = (self.gate[:, where] @ previous.unsqueeze(-1)).squeeze(-1)
        return dist.MultivariateNormal(moved + self.loc[:, where], scale_tril=self.tril[:, where])

    def rsample(self, sample_shape: Any = NOTHING) -> Tensor:
        """Return draws, ``sample_shape + batch_shape + event_shape``, all steps at once: the moves
        of twice as many steps are composed in each round.
        """
        shape = torch.Size([*sample_shape, *self.batch_shape, self.steps])
        noise = self.loc.new_empty([*shape, self.size]).normal_()
        z, gate = self.loc + (self.tril @ noise.unsqueeze(-1)).squeeze(-1), self.gate
        reach = 1
        while reach < self.steps:
            earlier = F.pad(z[..., :-reach, :], (0, 0, reach, 0))
            z = z + (gate @ earlier.unsqueeze(-1)).squeeze(-1)
            gate = torch.cat([gate[:, :reach], gate[:, reach:] @ gate[:, :-reach]], 1)
            reach *= 2
        idle = self._draw(self.one, shape)
        return torch.where(self.there.unsqueeze(-1), z, idle).flatten(-2)
