"""p(x, z) = p(z) p(x | z)

    z ~ p(z)            latent
    x ~ p(x | z)        features

Auto-Encoding Variational Bayes (Kingma & Welling, 2013), arXiv 1312.6114.
"""

import pyro
from pyro.nn import PyroModule
from torch import Tensor, nn


class LatentModel(PyroModule):
    """``z -> x``: one latent vector per datum.

    Args:
        prior: ``() -> p(z)``, event shape ``(latent,)``.
        decoder: ``z -> p(x | z)``, event shape ``(features,)``.
    """

    def __init__(self, prior: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.prior = prior
        self.decoder = decoder

    def forward(self, x: Tensor) -> Tensor:
        """Return the drawn or observed ``x``: ``(..., batch, features)``."""
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", self.prior())
            return pyro.sample("x", self.decoder(z), obs=x)
