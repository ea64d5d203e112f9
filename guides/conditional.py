"""q(z | x, y)

z ~ q(z | x, y)     latent
"""

import pyro
from pyro.nn import PyroModule
from torch import Tensor, nn


class ConditionalGuide(PyroModule):
    """``x, y -> z``.

    Args:
        embed: ``y`` as the vector that the encoder takes.
        encoder: ``x, y -> q(z | x, y)``, event shape ``(latent,)``.
    """

    def __init__(self, embed: nn.Module, encoder: nn.Module) -> None:
        super().__init__()
        self.embed = embed
        self.encoder = encoder

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the drawn ``z``: ``(..., batch, latent)``."""
        y = self.embed(y)
        with pyro.plate("data", len(x)):
            return pyro.sample("z", self.encoder(x, y))
