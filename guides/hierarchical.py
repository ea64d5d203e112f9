"""q(z1 ... zL | x) = q(zL | x) q(zL-1 | x, zL) ... q(z1 | x, z2), from the top down

h1 = f1(x), h2 = f2(h1), ..., hL = fL(hL-1)     one pass up, nothing drawn
zL ~ q(zL | hL)             latent[L]
zl ~ q(zl | hl, zl+1)       latent[l], from l = L - 1 down to 1

Ladder Variational Autoencoders (Sonderby, Raiko, Maaloe, Sonderby & Winther, 2016), arXiv
1602.02282, without their sharing of parameters with the model.
"""

from collections.abc import Sequence

import pyro
from pyro.nn import PyroModule
from torch import Tensor, nn


class HierarchicalGuide(PyroModule):
    """``x -> zL -> ... -> z1``: draws in the model's order, so it can be the posterior.

    Args:
        up: ``x -> h1``, ``h1 -> h2``, ..., nets.
        top: ``hL -> q(zL | hL)``.
        levels: ``hl, zl+1 -> q(zl | hl, zl+1)``, from the top down; L - 1 of them.
    """

    def __init__(self, up: Sequence[nn.Module], top: nn.Module, levels: Sequence[nn.Module]) -> None:
        super().__init__()
        self.up = nn.ModuleList(up)
        self.top = top
        self.levels = nn.ModuleList(levels)

    def forward(self, x: Tensor) -> Tensor:
        """Return the drawn ``z1``: ``(..., batch, latent[1])``."""
        hidden = [x]
        for net in self.up:
            hidden.append(net(hidden[-1]))
        with pyro.plate("data", len(x)):
            z = pyro.sample(f"z{len(self.up)}", self.top(hidden.pop()))
            for number, level in zip(range(len(self.levels), 0, -1), self.levels, strict=True):
                z = pyro.sample(f"z{number}", level(hidden.pop(), z))
            return z
