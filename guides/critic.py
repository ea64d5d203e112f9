"""c(x) = log p(x) / p_model(x), as far as a critic can tell data from draws of the model.

    nothing is sampled

The guide of an adversarial pair (Goodfellow et al., 2014), arXiv 1406.2661: it does not say where a
datum's latent values are, and takes no part in any bound on log p(x).
"""

from pyro.nn import PyroModule
from torch import Tensor, nn


class Critic(PyroModule):
    """``x -> c(x)``, the log of the ratio of two densities.

    Args:
        net: ``x -> c(x)``, ``(..., 1)``.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        """Return c(x), ``(..., batch)``: 0 where data and draws are equally likely."""
        return self.net(x).squeeze(-1)
