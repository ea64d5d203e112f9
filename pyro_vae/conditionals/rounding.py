"""Grey levels by a density: a prior over cells, a decoder that rounds, and q(z | x) within a cell.

    z ~ p(z)                a flow, pushed into (0, levels)
    x = floor(z)            in units of levels
    z ~ q(z | x)            within the cell of x: dequantization

The ELBO then is a bound on log P(x), a probability, and as good as any discrete likelihood's;
importance weighting closes the gap. With a flow for q this is variational dequantization: *Flow++
(Ho, Chen, Srinivas, Duan & Abbeel, 2019)*, arXiv 1902.00275.
"""

import math
from typing import Annotated

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from pyro_vae.distributions import Cells, Levels, Rescaled, Rounded
from pyro_vae.options import Count, Within, checked

__all__ = ["CellsPrior", "Dequantize", "Rounding", "Stretched"]

Many = Annotated[int, Within(2)]
NARROWEST, WIDEST = 0.1, 2.0  # deviations of e, within which Phi tells levels apart


class Stretched(nn.Module):
    """p(loc + scale e) of another density's e: a flow of data, in their units. Neither is learned.

    Args:
        density: ``() -> p(e)``, real vectors: a `FlowPrior`, or any prior.
        loc: what 0 becomes, ``(features,)``.
        scale: what 1 becomes beside it, ``(features,)``, positive.
    """

    loc: Tensor
    scale: Tensor

    def __init__(self, density: nn.Module, loc: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.density = density
        self.register_buffer("loc", loc.detach().clone())
        self.register_buffer("scale", scale.detach().clone())

    def forward(self) -> TorchDistribution:
        """Return the density, event shape ``(features,)``."""
        return Rescaled(self.density(), self.loc, self.scale)


class CellsPrior(nn.Module):
    """p(z) on the cells of all levels, (0, levels) for each feature: e, a real vector, through Phi.

    Where e is standard normal, z is uniform.

    Args:
        density: ``() -> p(e)``: a `FlowPrior`, or any prior.
        levels: how many.
    """

    @checked()
    def __init__(self, density: nn.Module, levels: Many) -> None:
        super().__init__()
        self.density, self.levels = density, levels

    @classmethod
    def around(cls, density: nn.Module, levels: int, mean: Tensor, std: Tensor) -> "CellsPrior":
        """Return a prior that begins near the data: e at their mean, and as wide as they spread
        there.

        Args:
            density: as for the class; near N(0, I) at first.
            levels: as for the class.
            mean: of x, from 0 to 1, ``(features,)``.
            std: of x, ``(features,)``.
        """
        middle = (mean * (levels - 1) + 0.5) / levels
        spread = ((std * (levels - 1)).square() + 1 / 12).sqrt() / levels
        loc = torch.special.ndtri(middle)
        slope = torch.exp(-loc.square() / 2) / math.sqrt(2 * math.pi)
        return cls(Stretched(density, loc, (spread / slope).clamp(NARROWEST, WIDEST)), levels)

    def forward(self) -> TorchDistribution:
        """Return p(z)."""
        base = self.density()
        like: Tensor = next(iter([*self.parameters(), *self.buffers()]), torch.zeros(()))
        return Cells(base, like.new_zeros(base.event_shape), float(self.levels))


class Rounding(nn.Module):
    """p(x | z): all its mass on the level whose cell z lies in.

    Args:
        features: of x and z alike.
        levels: that each takes: 256 for 8-bit images, 17 for scikit-learn's digits, 2 for binary x.
    """

    @checked()
    def __init__(self, features: Count, levels: Many) -> None:
        super().__init__()
        self.features, self.levels = features, levels

    def forward(self, z: Tensor) -> TorchDistribution:
        """Return the distribution over ``(..., features)`` given ``z``, ``(..., features)``.

        Raises:
            ValueError: z is of another size than x.
        """
        if z.shape[-1:] != (self.features,):
            raise ValueError(
                f"rounding keeps the size of a vector: x has {self.features} features and z has shape "
                f"{tuple(z.shape)}: build the prior with {self.features}."
            )
        return Rounded(z, self.levels)

    def extra_repr(self) -> str:
        """Return what the printed module shows in parentheses."""
        return f"{self.features}, {self.levels} levels"


class Dequantize(nn.Module):
    """q(z | x) within the cell of x: uniform, or a learned density there.

    Args:
        levels: how many.
        inner: ``x -> q(e | x)``, real vectors that Phi takes to where in the cell z is; None is
            uniform. A `Flow` that begins at the standard normal begins as uniform.
    """

    @checked()
    def __init__(self, levels: Many, inner: nn.Module | None = None) -> None:
        super().__init__()
        self.levels, self.inner = levels, inner

    def forward(self, x: Tensor) -> TorchDistribution:
        """Return the distribution over ``(..., features)`` for levels ``x``, ``(..., features)``
        from 0 to 1.
        """
        low = Levels(self.levels).index(x)
        if self.inner is not None:
            return Cells(self.inner(x), low)
        return Cells(dist.Normal(torch.zeros_like(low), torch.ones_like(low)).to_event(1), low)
