"""q(z | x)

z ~ q(z | x)        steps * latent, given the steps that are there
"""

import pyro
from pyro.nn import PyroModule
from torch import Tensor, nn


class MarkovGuide(PyroModule):
    """``x -> z``: the states of all steps at once. How much of x each sees is the encoder's.

    Args:
        features: size of x_t; ``x`` holds the steps side by side.
        encoder: ``x, mask -> q(z | x)``, x of shape ``(batch, steps, features)``, event shape
            ``(steps * latent,)``.
    """

    def __init__(self, features: int, encoder: nn.Module) -> None:
        super().__init__()
        self.features, self.encoder = features, encoder

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the drawn ``z``: ``(..., batch, steps * latent)``."""
        steps = x.unflatten(-1, (-1, self.features))
        there = x.new_ones(steps.shape[:-1]).bool() if mask is None else mask.bool()
        with pyro.plate("data", len(x)):
            return pyro.sample("z", self.encoder(steps, there))
