"""The base of heads: the outputs of a net, as a distribution.

A head says how many numbers per datum it needs (``size``), turns ``(..., size)`` into a
distribution over ``(..., features)`` with event_dim 1, and knows where to begin:
``start(mean, std)`` returns the ``size`` numbers at which the distribution has that mean (and,
where its scale is free, that standard deviation). The numbers are laid out in kinds: all features'
locations, then all features' scales, and so on, so that a convolutional decoder's channels come
out as kinds.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from pyro_vae.options import Count, checked

__all__ = ["Head"]


class Head(nn.Module, ABC):
    """The base of heads: set ``features`` and ``size``, define ``forward`` and ``start``.

    Args:
        features: size of the event, the last dimension of a value.
        size: how many numbers per datum the head needs from the net.
    """

    @checked()
    def __init__(self, features: Count, size: Count) -> None:
        super().__init__()
        self.features, self.size = features, size

    @abstractmethod
    def forward(self, parameters: Tensor) -> TorchDistribution:
        """Return the distribution over ``(..., features)`` for ``parameters``, ``(..., size)``."""

    @abstractmethod
    def start(self, mean: Tensor, std: Tensor | None = None) -> Tensor:
        """Return initial parameters, ``(size,)``, for data of this mean and std, ``(features,)``."""

    def in_units(self, scale: Tensor) -> "Head":
        """Return this head for data divided by ``scale``, ``(features,)``.

        It is itself where `start` sets its scale.
        """
        return self

    def part(self, keep: Sequence[int]) -> "Head":
        """Return this head for some of its features, which share nothing, as it is now: for draws
        of one feature after the other.

        Raises:
            NotImplementedError: the head does not say what it is for a part of its features.
        """
        raise NotImplementedError(f"{type(self).__name__} has no part(keep), the head for some of its features")

    def kinds(self, parameters: Tensor) -> Tensor:
        """Return ``parameters``, ``(..., size)``, as ``(..., size // features, features)``."""
        self.check_size(parameters)
        return parameters.unflatten(-1, (-1, self.features))

    def check_size(self, parameters: Tensor) -> None:
        """Refuse parameters of another width than ``size``.

        Raises:
            ValueError: the net does not give ``size`` numbers per datum.
        """
        if parameters.shape[-1:] != (self.size,):
            raise ValueError(
                f"the head {type(self).__name__}({self.extra_repr()}) needs {self.size} numbers per datum "
                f"and the net gives a tensor of shape {tuple(parameters.shape)}: "
                "build the net with outputs=head.size."
            )

    def extra_repr(self) -> str:
        """Return what the printed head shows in parentheses."""
        return str(self.features)


# how near to 0 or 1 a likelihood on [0, 1] begins: a pixel that is 0 in all training data may be 1 in other
# data, and at 1e-3 four hundred such pixels cost .4 nats at the start
EDGE = 1e-3


def inside(mean: Tensor) -> Tensor:
    """Return means within ``EDGE`` of neither end of [0, 1], in float64 on the CPU."""
    # starts are solved for on the CPU in float64, which some accelerators lack
    return mean.detach().cpu().double().clamp(EDGE, 1 - EDGE)


def initial_std(std: Tensor | None, mean: Tensor, default: float | Tensor) -> Tensor:
    """Return standard deviations to begin with: those given, none below a hundredth of the largest."""
    usual = torch.as_tensor(default, dtype=torch.float64).detach().cpu().expand(mean.shape)
    if std is None:
        return usual
    std = std.detach().cpu().double()
    return torch.where(std.max() > 0, std.maximum(0.01 * std.max()), usual)
