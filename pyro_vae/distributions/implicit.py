"""Distributions that are known by their draws alone."""

from collections.abc import Callable
from typing import Any

import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor

from pyro_vae.distributions.levels import Levels

NO_DENSITY = "x is made of noise by a net, which gives draws and no probability of a given x"


class Implicit(TorchDistribution):
    """What a net makes of noise, as a distribution: it can be drawn from, and gradients pass through
    its draws; a given value has no log-probability.

    Args:
        outputs: of the net, ``(..., features)``.
        values: turns outputs into x, of the same shape.
        support: of x.
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012 (torch's own attribute)
    has_rsample = True

    def __init__(
        self,
        outputs: Tensor,
        values: Callable[[Tensor], Tensor] = torch.clone,
        support: constraints.Constraint = constraints.real_vector,
    ) -> None:
        self.outputs, self.values, self._support = outputs, values, support
        super().__init__(outputs.shape[:-1], outputs.shape[-1:], validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "Implicit":
        """Return the same distribution with a larger batch shape."""
        return Implicit(self.outputs.expand(*batch_shape, -1), self.values, self._support)

    @constraints.dependent_property(event_dim=1)
    def support(self) -> constraints.Constraint:
        """Where draws lie."""
        return self._support

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008 (torch's own default)
        """Return draws, ``sample_shape + batch_shape + event_shape``, that gradients pass through."""
        return self.values(self.outputs.expand(*sample_shape, *self.outputs.shape))

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008 (torch's own default)
        """Return draws, ``sample_shape + batch_shape + event_shape``."""
        with torch.no_grad():
            return self.rsample(sample_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """Refuse: there is no density.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError(NO_DENSITY)


def bits(logits: Tensor) -> Tensor:
    """Draw 0 or 1 with probabilities of these ``logits``.

    The gradient is that of the probability (straight through): it points where the mean should go,
    and is not the gradient of the draws' distribution.
    """
    p = torch.sigmoid(logits)
    return torch.bernoulli(p.detach()) + (p - p.detach())  # the second term is exactly 0


def on_levels(logits: Tensor, levels: int) -> Tensor:
    """Return the nearest of equally spaced levels from 0 to 1; the gradient is that without rounding
    (straight through).
    """
    p = torch.sigmoid(logits)
    return torch.round(p.detach() * (levels - 1)) / (levels - 1) + (p - p.detach())


BITS = constraints.independent(constraints.boolean, 1)
"""Where `bits` lie."""


def levels_of(levels: int) -> constraints.Constraint:
    """Return where the values of `on_levels` lie."""
    return constraints.independent(Levels(levels), 1)
