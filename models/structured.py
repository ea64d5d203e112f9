"""p(x_out, z | x_in) = p(z | x_in) p(x_out | x_in, z), x split in two by feature

    z     ~ p(z | x_in)             latent
    x_out ~ p(x_out | x_in, z)      features that are asked for

Learning Structured Output Representation using Deep Conditional Generative Models (Sohn, Lee & Yan,
2015).
"""

import pyro
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn


class StructuredModel(PyroModule):
    """``x_in -> z``, ``x_in, z -> x_out``: complete a datum of which some features are given.

    Args:
        given: which features are x_in, bool ``(features,)``.
        prior: ``x_in -> p(z | x_in)``, event shape ``(latent,)``.
        decoder: ``z, x_in -> p(x_out | x_in, z)``, event shape ``(features not given,)``.
    """

    def __init__(self, given: Tensor, prior: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.register_buffer("inside", given.nonzero().squeeze(-1))
        self.register_buffer("outside", (~given).nonzero().squeeze(-1))
        self.prior = prior
        self.decoder = decoder

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x``, its other features drawn or observed: ``(..., batch, features)``."""
        x_in, x_out = x.index_select(-1, self.inside), x.index_select(-1, self.outside)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", self.prior(x_in))
            x_out = pyro.sample("x_out", self.decoder(z, x_in), obs=x_out)
        columns = torch.cat([self.inside, self.outside]).argsort()
        return torch.cat([x_in.expand(*x_out.shape[:-1], -1), x_out], -1).index_select(-1, columns)
