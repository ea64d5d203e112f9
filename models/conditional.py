"""p(x, z | y) = p(z | y) p(x | z, y)

    z ~ p(z | y)        latent
    x ~ p(x | z, y)     features

Semi-supervised Learning with Deep Generative Models (Kingma, Rezende, Mohamed & Welling, 2014),
arXiv 1406.5298, given y; Learning Structured Output Representation using Deep Conditional
Generative Models (Sohn, Lee & Yan, 2015).
"""

import pyro
from pyro.nn import PyroModule
from torch import Tensor, nn


class ConditionalModel(PyroModule):
    """``z, y -> x``: one latent vector per datum, and what is known about the datum.

    Args:
        embed: ``y`` as the vector that the conditionals take: ``OneHot`` for classes,
            ``nn.Identity`` for attributes.
        prior: ``y -> p(z | y)``, event shape ``(latent,)``.
        decoder: ``z, y -> p(x | z, y)``, event shape ``(features,)``.
    """

    def __init__(self, embed: nn.Module, prior: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.embed = embed
        self.prior = prior
        self.decoder = decoder

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the drawn or observed ``x``: ``(..., batch, features)``."""
        y = self.embed(y)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", self.prior(y))
            return pyro.sample("x", self.decoder(z, y), obs=x)
