"""p(x, z) = p(z) prod over t: p(x_t | z, x_1 ... x_(t-1))

    z ~ p(z)            latent, one for the whole sequence
    x ~ p(x | z)        steps * features, each step given z and those before it

Sequences of unequal length are padded; ``mask`` says which steps are there. Their lengths are given
and not modelled. *Generating Sentences from a Continuous Space (Bowman et al., 2016)*, arXiv
1511.06349; of drawings *A Neural Representation of Sketch Drawings (Ha & Eck, 2017)*, arXiv
1704.03477.
"""

import pyro
from pyro.nn import PyroModule
from torch import Tensor, nn


class SequenceModel(PyroModule):
    """``z -> x_1 -> x_2 -> ...``, and z to each of them.

    Args:
        features: size of x_t; ``x`` holds the steps side by side.
        prior: ``() -> p(z)``, event shape ``(latent,)``.
        decoder: ``z, mask -> p(x | z)``, event shape ``(steps * features,)``.
    """

    def __init__(self, features: int, prior: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.features, self.prior, self.decoder = features, prior, decoder

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the drawn or observed ``x``: ``(..., batch, steps * features)``."""
        there = x.new_ones(len(x), x.shape[-1] // self.features).bool() if mask is None else mask.bool()
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", self.prior())
            return pyro.sample("x", self.decoder(z, there), obs=x)
