"""Densities of the data themselves, and a head whose features are drawn one after the other."""

from typing import cast

from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from pyro_vae import distributions
from pyro_vae.conditionals.head import Head

__all__ = ["Autoregressive", "Density"]


class Autoregressive(Head):
    """x one feature after the other: to the parameters of each, a masked net adds what the features
    before it say.

    The parameters are those of ``head``. Given none but a bias, see `Density`, this is MADE or
    PixelCNN; given z, PixelVAE (Gulrajani et al., 2016), arXiv 1611.05013.

    Args:
        head: of one feature given the others: `Bernoulli`, `Categorical`, a logistic mixture,
            `Normal`, ...
        net: masked, ``(..., features) -> (..., head.size)``: `pyro_vae.nets.MaskedMLP` or
            `pyro_vae.nets.PixelCNN`.

    Raises:
        ValueError: the net does not fit the head, or the head has no `Head.part`.
    """

    def __init__(self, head: Head, net: nn.Module) -> None:
        super().__init__(head.features, head.size)
        try:
            head.part([0])
        except NotImplementedError as error:
            raise ValueError(
                f"the head {type(head).__name__} has no autoregressive form, since its features cannot be drawn one "
                f"after the other ({error}): use one whose features are independent given the parameters."
            ) from None
        sizes = (getattr(net, "inputs", None), getattr(net, "outputs", None))
        if sizes != (head.features, head.size):
            raise ValueError(
                f"the net {type(net).__name__} makes {sizes[1]} numbers of {sizes[0]}, and the head "
                f"{type(head).__name__} of {head.features} features needs {head.size}: build the net for it."
            )
        self.head, self.net = head, net

    def forward(self, parameters: Tensor) -> TorchDistribution:
        """Return the distribution over ``(..., features)`` for ``parameters``, ``(..., size)``."""
        self.check_size(parameters)
        return distributions.Autoregressive(cast(distributions.MaskedNet, self.net), self.head, parameters)

    def start(self, mean: Tensor, std: Tensor | None = None) -> Tensor:
        """Return the parameters, ``(size,)``, of independent features with this mean and std."""
        return self.head.start(mean, std)

    def in_units(self, scale: Tensor) -> Head:
        """Return this head for data divided by ``scale``, ``(features,)``."""
        return Autoregressive(self.head.in_units(scale), self.net)

    def extra_repr(self) -> str:
        """Return nothing: the parts say it."""
        return ""


class Density(nn.Module):
    """p(x): a head whose parameters are learned as they are, given nothing.

    Args:
        head: of x.
        mean: of the data, ``(features,)``: where it begins.
        std: of the data, ``(features,)``.
    """

    def __init__(self, head: Head, mean: Tensor, std: Tensor | None = None) -> None:
        super().__init__()
        self.head = head
        self.bias = nn.Parameter(head.start(mean, std).detach().clone())

    def forward(self) -> TorchDistribution:
        """Return p(x), event shape ``(features,)``."""
        return self.head(self.bias)
