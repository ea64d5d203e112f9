"""p(x, k) = p(k) p(x | k)

    k ~ p(k)            one-hot, components
    x ~ p(x | k)        features; those not seen do not count

With one normal component for each k a Gaussian mixture, with Bernoulli ones latent class analysis.
"""

import pyro
from pyro.nn import PyroModule
from torch import Tensor, nn


class MixtureModel(PyroModule):
    """``k -> x``: which component a datum is of.

    Args:
        prior: ``() -> p(k)``, k one-hot, event shape ``(components,)``.
        decoder: ``k, seen -> p(x | k)``, event shape ``(features,)``.
    """

    def __init__(self, prior: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.prior = prior
        self.decoder = decoder

    def forward(self, x: Tensor, seen: Tensor | None = None) -> Tensor:
        """Return the drawn or observed ``x``: ``(..., batch, features)``."""
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", self.prior())
            return pyro.sample("x", self.decoder(k, seen), obs=x)
