"""q of nothing: for a model without latent variables, or one whose own are all summed over."""

from pyro.nn import PyroModule
from torch import Tensor


class Nothing(PyroModule):
    """Draws nothing."""

    def forward(self, x: Tensor) -> None:
        """Do nothing with ``x``."""
