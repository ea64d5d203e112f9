"""Nothing: the guide of a model without latent variables, or one whose latent variables are all summed over."""

from pyro.nn import PyroModule
from torch import Tensor


class Nothing(PyroModule):
    """Draws nothing, so that the ELBO is log p(x) itself."""

    def forward(self, x: Tensor) -> None:
        """Return nothing."""
