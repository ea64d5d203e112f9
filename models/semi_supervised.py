"""p(x, y, z) = p(y) p(z) p(x | z, y)

    y ~ Categorical(probs)      one-hot, classes
    z ~ p(z)                    latent
    x ~ p(x | z, y)             features

Semi-supervised Learning with Deep Generative Models (Kingma, Rezende, Mohamed & Welling, 2014),
arXiv 1406.5298: their M2.
"""

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn


class SemiSupervisedModel(PyroModule):
    """``y, z -> x``: what class a datum is of, and everything else about it.

    Args:
        classes: number of classes, equally likely.
        prior: ``() -> p(z)``, event shape ``(latent,)``.
        decoder: ``z, y -> p(x | z, y)``, event shape ``(features,)``.
    """

    def __init__(self, classes: int, prior: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.register_buffer("logits", torch.zeros(classes))
        self.prior = prior
        self.decoder = decoder

    def forward(self, x: Tensor) -> Tensor:
        """Return the drawn or observed ``x``: ``(..., batch, features)``."""
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.OneHotCategorical(logits=self.logits))
            z = pyro.sample("z", self.prior())
            return pyro.sample("x", self.decoder(z, y), obs=x)
