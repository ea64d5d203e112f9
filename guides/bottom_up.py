"""q(z1 ... zL | x) = q(z1 | x) q(z2 | z1) ... q(zL | zL-1), from the bottom up: for the
hierarchical model

z1 ~ q(z1 | x)              latent[1]
zl ~ q(zl | zl-1)           latent[l], from l = 2 up to L

Here z1 is drawn without knowing z2, so that its prior p(z1 | z2) cannot correct it: upper levels
often fall idle.
"""

from collections.abc import Sequence

import pyro
from pyro.nn import PyroModule
from torch import Tensor, nn


class BottomUpGuide(PyroModule):
    """``x -> z1 -> ... -> zL``.

    Args:
        levels: ``x -> q(z1 | x)``, ``z1 -> q(z2 | z1)``, ..., from the bottom up.
    """

    def __init__(self, levels: Sequence[nn.Module]) -> None:
        super().__init__()
        self.levels = nn.ModuleList(levels)

    def forward(self, x: Tensor) -> Tensor:
        """Return the drawn ``zL``: ``(..., batch, latent[L])``."""
        z = x
        with pyro.plate("data", len(x)):
            for number, level in enumerate(self.levels, start=1):
                z = pyro.sample(f"z{number}", level(z))
            return z
