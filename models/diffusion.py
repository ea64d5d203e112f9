"""p(x, z1 ... zT) = p(zT) p(zT-1 | zT) ... p(z1 | z2) p(x | z1), its steps one function of the
level:

    zT ~ p(zT)              features
    zl ~ p(zl | zl+1)       features, from l = T - 1 down to 1
    x  ~ p(x | z1)          features

The program is the hierarchical model's. ``step`` makes it a chain: see `docs/design.md`.
Deep Unsupervised Learning using Nonequilibrium Thermodynamics (Sohl-Dickstein et al., 2015), arXiv
1503.03585.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from pyro_vae.models.hierarchical import HierarchicalModel


class DiffusionModel(HierarchicalModel):
    """``zT -> ... -> z1 -> x``: every level the data's size, one net for all steps.

    Args:
        prior: ``() -> p(zT)``.
        levels: ``zl+1 -> p(zl | zl+1)``, from the top down: ``step`` at one level each.
        decoder: ``z1 -> p(x | z1)``, event shape ``(features,)``.
        step: ``zl, l -> p(zl-1 | zl)`` for l = 2 ... T, an int or long ``(...)``; it holds the
            parameters.
    """

    def __init__(self, prior: nn.Module, levels: Sequence[nn.Module], decoder: nn.Module, step: nn.Module) -> None:
        super().__init__(prior, levels, decoder)
        self.step = step

    def forward(self, x: Tensor) -> Tensor:
        """Return the drawn or observed ``x``: ``(..., batch, features)``."""
        # Pyro learns of the parameters of a module that is asked for; the levels share this one's.
        _ = self.step
        return super().forward(x)
