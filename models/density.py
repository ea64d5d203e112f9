"""p(x)

    x ~ p(x)        features

No latent variable: log p(x) is exact. MADE: Masked Autoencoder for Distribution Estimation (Germain,
Gregor, Murray & Larochelle, 2015), arXiv 1502.03509, is one such density.
"""

import pyro
from pyro.nn import PyroModule
from torch import Tensor, nn


class DensityModel(PyroModule):
    """``x``: a density of the data themselves.

    Args:
        density: ``() -> p(x)``, event shape ``(features,)``.
    """

    def __init__(self, density: nn.Module) -> None:
        super().__init__()
        self.density = density

    def forward(self, x: Tensor) -> Tensor:
        """Return the drawn or observed ``x``: ``(..., batch, features)``."""
        with pyro.plate("data", len(x)):
            return pyro.sample("x", self.density(), obs=x)
