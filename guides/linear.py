"""q(z | x) = p(z | x), exactly

z ~ Normal(L^-1 W' S^-1 (x - loc), L^-1)        latent
"""

import pyro
from pyro.nn import PyroModule
from torch import Tensor

from pyro_vae.models.linear import LinearModel


class LinearGuide(PyroModule):
    """The linear model's own posterior, computed from its parameters; it has none of its own.

    Args:
        model: the partner.
    """

    def __init__(self, model: LinearModel) -> None:
        super().__init__()
        self.posterior = model.posterior

    def forward(self, x: Tensor) -> Tensor:
        """Return the drawn ``z``: ``(..., batch, latent)``."""
        with pyro.plate("data", len(x)):
            return pyro.sample("z", self.posterior(x))
