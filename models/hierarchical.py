"""p(x, z1 ... zL) = p(zL) p(zL-1 | zL) ... p(z1 | z2) p(x | z1)

    zL ~ p(zL)              latent[L]
    zl ~ p(zl | zl+1)       latent[l], from l = L - 1 down to 1
    x  ~ p(x | z1)          features

Stochastic Backpropagation and Approximate Inference in Deep Generative Models (Rezende, Mohamed &
Wierstra, 2014), arXiv 1401.4082.
"""

from collections.abc import Sequence

import pyro
from pyro.nn import PyroModule
from torch import Tensor, nn


class HierarchicalModel(PyroModule):
    """``zL -> ... -> z1 -> x``: latent vectors in levels, each a distribution given the one above.

    Args:
        prior: ``() -> p(zL)``.
        levels: ``zl+1 -> p(zl | zl+1)``, from the top down; L - 1 of them.
        decoder: ``z1 -> p(x | z1)``, event shape ``(features,)``.
    """

    def __init__(self, prior: nn.Module, levels: Sequence[nn.Module], decoder: nn.Module) -> None:
        super().__init__()
        self.prior = prior
        self.levels = nn.ModuleList(levels)
        self.decoder = decoder

    def forward(self, x: Tensor) -> Tensor:
        """Return the drawn or observed ``x``: ``(..., batch, features)``."""
        below = len(self.levels)
        with pyro.plate("data", len(x)):
            z = pyro.sample(f"z{below + 1}", self.prior())
            for number, level in zip(range(below, 0, -1), self.levels, strict=True):
                z = pyro.sample(f"z{number}", level(z))
            return pyro.sample("x", self.decoder(z), obs=x)
