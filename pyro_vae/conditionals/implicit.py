"""Heads that make draws and no density: the generators of adversarial pairs.

`Draws` (real x), `LevelDraws` (equally spaced levels) and `BinaryDraws` (0 or 1) end a net whose
input is noise. What they make lies where data do: a critic could else tell an almost black pixel
from a black one, and no draw would ever pass.
"""

from functools import partial
from typing import Annotated

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from pyro_vae.conditionals.head import Head, inside
from pyro_vae.distributions import BITS, Implicit, bits, levels_of, on_levels
from pyro_vae.options import Count, Within, checked

__all__ = ["BinaryDraws", "Draws", "LevelDraws"]


class Draws(Head):
    """x real: the net's outputs themselves. See `pyro_vae.distributions.Implicit`."""

    @checked()
    def __init__(self, features: Count) -> None:
        super().__init__(features, features)

    def forward(self, parameters: Tensor) -> TorchDistribution:
        """Return the distribution over ``(..., features)`` for outputs ``(..., features)``."""
        self.check_size(parameters)
        return Implicit(parameters)

    def start(self, mean: Tensor, std: Tensor | None = None) -> Tensor:
        """Return ``mean``, ``(features,)``; ``std`` is the noise's to give."""
        return mean


class BinaryDraws(Draws):
    """x in {0, 1}: a draw for each feature, with the gradient of its probability (straight
    through); the net gives logits.
    """

    def forward(self, parameters: Tensor) -> TorchDistribution:
        """Return the distribution over ``(..., features)`` for logits ``(..., features)``."""
        self.check_size(parameters)
        return Implicit(parameters, bits, BITS)

    def start(self, mean: Tensor, std: Tensor | None = None) -> Tensor:
        """Return logits, ``(features,)``, of ``mean`` brought inside (0, 1)."""
        return torch.logit(inside(mean)).to(mean)


class LevelDraws(BinaryDraws):
    """x in {0, 1/(levels - 1), ..., 1}: rounded, with the gradient of what is rounded (straight
    through); the net gives logits.

    Args:
        features: pixels times channels.
        levels: values that a feature takes.
    """

    @checked()
    def __init__(self, features: Count, levels: Annotated[int, Within(2)] = 256) -> None:
        super().__init__(features)
        self.levels = levels

    def forward(self, parameters: Tensor) -> TorchDistribution:
        """Return the distribution over ``(..., features)`` for logits ``(..., features)``."""
        self.check_size(parameters)
        return Implicit(parameters, partial(on_levels, levels=self.levels), levels_of(self.levels))
