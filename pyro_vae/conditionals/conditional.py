"""A net and a head: a distribution given contexts."""

from typing import Self

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from pyro_vae.nets import start_at

__all__ = ["Conditional", "join"]


def join(*contexts: Tensor) -> Tensor:
    """Return the contexts side by side in the last dimension, their leading dimensions broadcast.

    Args:
        contexts: one or more tensors ``(..., width)``.

    Raises:
        TypeError: there is no context.
        ValueError: the leading dimensions do not broadcast.
    """
    if not contexts:
        raise TypeError("a conditional needs at least one context: for a distribution of nothing use a prior.")
    if len(contexts) == 1:
        return contexts[0]
    try:
        lead = torch.broadcast_shapes(*(context.shape[:-1] for context in contexts))
    except RuntimeError:
        shapes = " and ".join(str(tuple(context.shape)) for context in contexts)
        raise ValueError(
            f"contexts of shapes {shapes} cannot be joined: all but their last dimensions must broadcast."
        ) from None
    return torch.cat([context.expand(*lead, context.shape[-1]) for context in contexts], -1)


class Conditional(nn.Module):
    """p(. | contexts): the contexts joined, through a net, through a head.

    Args:
        net: ``(..., all contexts' widths) -> (..., head.size)``.
        head: a `Head`, or any module from ``(..., size)`` to a distribution with event_dim 1.

    Raises:
        ValueError: the net has another number of outputs than the head needs.
    """

    def __init__(self, net: nn.Module, head: nn.Module) -> None:
        super().__init__()
        outputs, size = getattr(net, "outputs", None), getattr(head, "size", None)
        if outputs is not None and size is not None and outputs != size:
            raise ValueError(
                f"the net {type(net).__name__} gives {outputs} numbers per datum and the head "
                f"{type(head).__name__} needs {size}: build the net with outputs=head.size."
            )
        self.net = net
        self.head = head

    def forward(self, *contexts: Tensor) -> TorchDistribution:
        """Return the distribution given ``contexts``, each ``(..., width)``; batch shape ``(...)``."""
        return self.head(self.net(join(*contexts)))

    def start_at(self, mean: Tensor, std: Tensor | None = None, *, shrink: float = 1.0) -> Self:
        """Begin, for every context, near a distribution with this mean and standard deviation.

        A decoder begins at the data's mean: 14 nats better after four epochs on 20,000 MNIST images
        than from random biases. An encoder whose ELBO rests where q(z | x) is the prior, as ReLU
        nets' may for some epochs, begins at mean 0 and std 0.1: its draws then say something about
        x before the KL term has silenced them.

        Args:
            mean: of the data, ``(features,)``.
            std: of the data, ``(features,)``; a feature that does not vary gets a hundredth of the
                largest.
            shrink: what the net's last weights are multiplied by, to begin closer: see
                `pyro_vae.nets.start_at`.

        Returns:
            this conditional, changed in place.
        """
        start_at(self.net, self.head.start(mean, std), shrink)  # type: ignore[operator]
        return self
