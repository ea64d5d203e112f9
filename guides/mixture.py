"""q(k | x), summed over all k

k ~ q(k | x)        one-hot, components
"""

import pyro
from pyro.nn import PyroModule
from torch import Tensor, nn


class MixtureGuide(PyroModule):
    """``x -> k``, every k at once, weighted by its probability.

    Args:
        encoder: ``x, seen -> q(k | x)``, k one-hot, event shape ``(components,)``.
    """

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, x: Tensor, seen: Tensor | None = None) -> Tensor:
        """Return ``k``: ``(components, ..., batch, components)``, or a draw where none enumerates."""
        with pyro.plate("data", len(x)):
            return pyro.sample("k", self.encoder(x, seen), infer={"enumerate": "parallel"})
