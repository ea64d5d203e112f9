"""Units of data: real values are modelled as multiples of their own deviation, and densities stay
those of the data.

A net begins with outputs of order 1 and moves by a few hundredths per step; scales are bounded (see
`pyro_vae.conditionals.scales`). So x is read as u = (x - loc) / scale, with loc and scale of the
training data, and log p(x) = log p(u) - sum log scale. ELBO + features log s then does not depend
on the unit s that x happens to be given in.

Binary data and levels have a natural unit and are read as they are. Images have one scale for all
pixels; in a table every feature has its own.
"""

from typing import Any, Literal

import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor, nn

from pyro_vae.conditionals import Head
from pyro_vae.data import Spec
from pyro_vae.distributions import Rescaled

Scaling = Literal["feature", "common"]
ROUNDING = 2.0**-24  # of float32, relative: what varies less than this does not vary


class Units(nn.Module):
    """``u -> loc + scale u``, and back. Nothing in it is learned.

    Args:
        loc: what 0 stands for, ``(features,)``.
        scale: what 1 is, ``(features,)``, positive.

    Raises:
        ValueError: a scale is not positive.
    """

    loc: Tensor
    scale: Tensor

    def __init__(self, loc: Tensor, scale: Tensor) -> None:
        super().__init__()
        if not bool((scale > 0).all()):
            raise ValueError(
                f"units are positive, and the smallest here is {float(scale.min()):g}: give a deviation above 0."
            )
        self.register_buffer("loc", loc.detach().clone())
        self.register_buffer("scale", scale.detach().clone())

    def forward(self, u: Tensor) -> Tensor:
        """Return x, ``(..., features)``."""
        return self.loc + self.scale * u

    def inverse(self, x: Tensor) -> Tensor:
        """Return u, ``(..., features)``."""
        return (x - self.loc) / self.scale

    @classmethod
    def of(cls, spec: Spec, scaling: Scaling = "feature") -> "Units | None":
        """Return the units of x; None where it has a natural one.

        A feature that does not vary has the median unit of those that do; one-hot categories have
        their natural one.

        Args:
            spec: describes x.
            scaling: in a table, a scale per feature or one for all; images have one for all.
        """
        if spec.support in ("binary", "levels"):
            return None
        if spec.categorical:
            return cls._of_columns(spec, scaling)
        mean, std = spec.mean.double(), spec.std.double()
        varies = std > ROUNDING * mean.abs()
        if not bool(varies.any()):
            return cls(spec.mean, torch.ones_like(spec.std))
        if spec.image is not None or scaling == "common":
            return cls(spec.mean, std.square().mean().sqrt().expand_as(std).float())
        return cls(spec.mean, torch.where(varies, std, std[varies].median()).float())

    @classmethod
    def _of_columns(cls, spec: Spec, scaling: Scaling) -> "Units | None":
        inner = None if spec.numbers is None else cls.of(spec.numbers, scaling)
        if inner is None:
            return None
        rest = torch.zeros(spec.features - len(inner.loc))
        return cls(torch.cat([inner.loc, rest]), torch.cat([inner.scale, rest + 1]))


class InUnits(Head):
    """A head of real values, in units of the data: its parameters are of order 1 whatever the
    data's units.

    Args:
        head: over real values, of as many features; a fixed `Normal` scale is in units of the data
            and stays what it is.
        units: of the data.
    """

    def __init__(self, head: Head, units: Units) -> None:
        super().__init__(head.features, head.size)
        self.head, self.units = head.in_units(units.scale), units

    def forward(self, parameters: Tensor) -> TorchDistribution:
        """Return the distribution of x over ``(..., features)`` for ``parameters``, ``(...,
        size)``.
        """
        return Rescaled(self.head(parameters), self.units.loc, self.units.scale)

    def start(self, mean: Tensor, std: Tensor | None = None) -> Tensor:
        """Return the parameters, ``(size,)``, of the data's ``mean`` and ``std``."""
        return self.head.start(self.units.inverse(mean), None if std is None else std / self.units.scale)

    def extra_repr(self) -> str:
        """Return nothing: the parts say it."""
        return ""


def over_reals(head: Head) -> bool:
    """Return whether a head's values can be any real numbers."""
    like = next(iter(head.parameters()), torch.zeros(()))
    with torch.no_grad():
        support: Any = head(like.new_zeros(head.size)).support
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    return support is constraints.real
