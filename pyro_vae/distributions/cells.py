"""Levels as cells of the real line: level k is the cell [k, k + 1], and floor(z) says which z is in.

A density of z then says P(x): the mass of its cell. Cells are closed, so that an end, which single
precision rounds some draws to, belongs to both its cells: it has probability 0.

*A note on the evaluation of generative models (Theis, van den Oord & Bethge, 2016)*, arXiv
1511.01844; *Flow++ (Ho, Chen, Srinivas, Duan & Abbeel, 2019)*, arXiv 1902.00275.
"""

import math
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor
from torch.distributions import AffineTransform, Transform

from pyro_vae.distributions.copies import IMPOSSIBLE
from pyro_vae.distributions.levels import Levels

HALF_LOG_TWO_PI = 0.5 * math.log(2 * math.pi)


class NormalCDF(Transform):
    """e -> Phi(e), each feature by itself: a standard normal becomes uniform on (0, 1).

    The inverse takes 0 and 1 for the nearest numbers that it has a finite value for.
    """

    domain = constraints.independent(constraints.real, 1)
    codomain = constraints.independent(constraints.unit_interval, 1)
    bijective = True

    def __eq__(self, other: object) -> bool:
        return isinstance(other, NormalCDF)

    def __hash__(self) -> int:
        return hash(NormalCDF)

    def _call(self, x: Tensor) -> Tensor:
        return torch.special.ndtr(x)

    def _inverse(self, y: Tensor) -> Tensor:
        nearest = torch.finfo(y.dtype).eps
        return torch.special.ndtri(y.clamp(nearest, 1 - nearest))

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the log density of N(0, I) at ``x``: ``(...)``."""
        return (-x.square() / 2 - HALF_LOG_TWO_PI).sum(-1)


class Cells(dist.TransformedDistribution):
    """e from ``base`` pushed through Phi into the cell of a level, or into several side by side.

    Where e is a standard normal, z is uniform.

    Args:
        base: of e, real vectors, event shape ``(features,)``, of a density that is known at any
            value.
        low: where the cell begins, ``(..., features)``.
        width: how many cells it is wide.
    """

    def __init__(self, base: TorchDistribution, low: Tensor, width: float = 1.0) -> None:
        self.low, self.width = low, width
        # without caches: at the ends of a cell what z was made of is no longer what its rounded value is made of
        super().__init__(base, [NormalCDF(), AffineTransform(low, width, event_dim=1)], validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "Cells":
        """Return the same distribution with a larger batch shape."""
        return Cells(self.base_dist.expand(torch.Size(batch_shape)), self.low, self.width)

    @constraints.dependent_property(is_discrete=False, event_dim=1)
    def support(self) -> constraints.Constraint:
        """From the beginning of the cell to its end."""
        return constraints.independent(constraints.interval(self.low, self.low + self.width), 1)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log density at ``value``, in nats; -inf outside."""
        inside = ((value >= self.low) & (value <= self.low + self.width)).all(-1)
        return torch.where(inside, super().log_prob(value), -math.inf)


class Rounded(TorchDistribution):
    """x given z: the level whose cell z lies in, floor(z), from 0 to 1; no chance is left.

    What lies below the first cell or above the last counts to these. log p is 0 where all features
    agree, and `IMPOSSIBLE` for each that does not.

    Args:
        z: real, in cells, ``(..., features)``.
        levels: how many.
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012 (torch's own attribute)
    has_rsample = False

    def __init__(self, z: Tensor, levels: int) -> None:
        self.z, self.levels = z, levels
        super().__init__(z.shape[:-1], z.shape[-1:], validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "Rounded":
        """Return the same distribution with a larger batch shape."""
        return Rounded(self.z.expand(*batch_shape, -1), self.levels)

    @constraints.dependent_property(is_discrete=True, event_dim=1)
    def support(self) -> constraints.Constraint:
        """The levels from 0 to 1."""
        return constraints.independent(Levels(self.levels), 1)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return 0 where ``value`` is what z is rounded to, and far below elsewhere."""
        level = Levels(self.levels).index(value)
        below = (self.z < level) & (level > 0)
        above = (self.z > level + 1) & (level < self.levels - 1)
        wrong = below | above | ~Levels(self.levels).check(value)
        return IMPOSSIBLE * wrong.to(self.z.dtype).sum(-1)

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008 (torch's own default)
        """Return the levels, ``sample_shape + batch_shape + event_shape``."""
        return self.mean.expand(*sample_shape, *self.z.shape)

    @property
    def mean(self) -> Tensor:
        """The levels, ``batch_shape + event_shape``."""
        return self.z.detach().floor().clamp(0, self.levels - 1) / (self.levels - 1)

    @property
    def variance(self) -> Tensor:
        """Zeros, ``batch_shape + event_shape``: nothing is left to chance."""
        return torch.zeros_like(self.z)
