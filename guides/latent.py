"""q(z | x)

z ~ q(z | x)        latent
"""

import pyro
from pyro.nn import PyroModule
from torch import Tensor, nn


class LatentGuide(PyroModule):
    """``x -> z``: amortized inference, one encoder for every datum.

    Args:
        encoder: ``x -> q(z | x)``, event shape ``(latent,)``.
    """

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, x: Tensor) -> Tensor:
        """Return the drawn ``z``: ``(..., batch, latent)``."""
        with pyro.plate("data", len(x)):
            return pyro.sample("z", self.encoder(x))
