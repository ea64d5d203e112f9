"""q(z | x)

z ~ q(z | x)        latent, given the steps that are there
"""

import pyro
from pyro.nn import PyroModule
from torch import Tensor, nn


class SequenceGuide(PyroModule):
    """``x -> z``: one vector for the whole sequence.

    Args:
        encoder: ``x, mask -> q(z | x)``, event shape ``(latent,)``; without a mask all steps are
            there.
    """

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the drawn ``z``: ``(..., batch, latent)``."""
        with pyro.plate("data", len(x)):
            return pyro.sample("z", self.encoder(x, mask if mask is None else mask.bool()))
