"""p(x, z) = p(z_1) prod over t: p(z_t | z_(t-1)) prod over t: p(x_t | z_t)

    z ~ p(z)            steps * latent, a path of a Markov chain
    x ~ p(x | z)        steps * features, each step from its own state

Sequences of unequal length are padded; ``mask`` says which steps are there. With a net for a
transition a deep Markov model (Krishnan, Shalit & Sontag, 2017), arXiv 1609.09869; with a matrix a
linear-Gaussian state space; with a table a hidden Markov model.
"""

import pyro
from pyro.nn import PyroModule
from torch import Tensor, nn


class MarkovModel(PyroModule):
    """``z_(t-1) -> z_t -> x_t``, all states in one site.

    Args:
        features: size of x_t; ``x`` holds the steps side by side.
        prior: ``mask -> p(z)``, event shape ``(steps * latent,)``.
        emission: ``z, mask -> p(x | z)``, event shape ``(steps * features,)``.
    """

    def __init__(self, features: int, prior: nn.Module, emission: nn.Module) -> None:
        super().__init__()
        self.features, self.prior, self.emission = features, prior, emission

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the drawn or observed ``x``: ``(..., batch, steps * features)``."""
        there = x.new_ones(len(x), x.shape[-1] // self.features).bool() if mask is None else mask.bool()
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", self.prior(there))
            return pyro.sample("x", self.emission(z, there), obs=x)
