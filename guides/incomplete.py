"""q(z | what is seen of x)

z ~ q(z | x, seen)      latent
"""

import pyro
from pyro.nn import PyroModule
from torch import Tensor, nn


class IncompleteGuide(PyroModule):
    """``x, seen -> z``.

    Args:
        encoder: ``x, seen -> q(z | x, seen)``, event shape ``(latent,)``; entries not seen are not looked at.
    """

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, x: Tensor, seen: Tensor | None = None) -> Tensor:
        """Return ``z``: ``(..., batch, latent)``."""
        with pyro.plate("data", len(x)):
            return pyro.sample("z", self.encoder(x, seen))
