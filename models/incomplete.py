"""p(x, z) = p(z) p(x | z), of what is seen of x

    z ~ p(z)            latent
    x ~ p(x | z)        features; those not seen do not count

MIWAE: Deep Generative Modelling and Imputation of Incomplete Data Sets (Mattei & Frellsen, 2019),
arXiv 1812.02633.
"""

import pyro
from pyro.nn import PyroModule
from torch import Tensor, nn


class IncompleteModel(PyroModule):
    """``z -> x``: one latent vector per datum, of which some entries may be missing.

    Args:
        prior: ``() -> p(z)``, event shape ``(latent,)``.
        decoder: ``z, seen -> p(x | z)``, event shape ``(features,)``.
    """

    def __init__(self, prior: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.prior = prior
        self.decoder = decoder

    def forward(self, x: Tensor, seen: Tensor | None = None) -> Tensor:
        """Return the drawn or observed ``x``, ``(..., batch, features)``; ``seen`` is bool, of x's shape."""
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", self.prior())
            return pyro.sample("x", self.decoder(z, seen), obs=x)
