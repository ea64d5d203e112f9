"""A masked perceptron over labels: whole numbers without an order, such as the codes of a codebook."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from pyro_vae.nets.layers import Activation
from pyro_vae.nets.masked import MaskedMLP
from pyro_vae.options import Count, checked


class MaskedLabels(nn.Module):
    """What the labels at earlier places say of each place: ``(..., places) -> (..., labels * places)``.

    A `MaskedMLP` of learned vectors, one for each label, the same at all places; the places follow
    each other as they stand. The outputs are laid out as heads read them, without a bias.

    Args:
        places: how many labels are given.
        labels: how many there are, numbered from 0.
        width: of their vectors.
        hidden: widths of the perceptron's hidden layers.
        activation: a name in ``ACTIVATIONS``.
    """

    @checked()
    def __init__(
        self,
        places: Count,
        labels: Count,
        *,
        width: Count = 16,
        hidden: Sequence[Count] = (500,),
        activation: Activation = "silu",
    ) -> None:
        super().__init__()
        self.vectors = nn.Parameter(torch.randn(labels, width))
        self.net = MaskedMLP(torch.arange(places), labels, hidden, activation, width=width)
        self.inputs, self.outputs, self.passes = places, self.net.outputs, self.net.passes

    @property
    def order(self) -> Tensor:
        """The places, first drawn first."""
        return self.net.order

    def forward(self, x: Tensor) -> Tensor:
        """Return what is said of each place, ``(..., labels * places)``, for labels ``(..., places)``."""
        return self.net(self._given(x).flatten(-2))

    def steps(self, x: Tensor) -> Iterator[Tensor]:
        """Yield what is said of each place, ``(..., labels)``; the caller fills its label in in ``x``,
        ``(..., places)``, before asking for the next."""
        given = self._given(x).flatten(-2)
        width = self.vectors.shape[1]
        for place, said in enumerate(self.net.steps(given)):
            yield said
            given[..., place * width : (place + 1) * width] = self._given(x[..., place])

    def _given(self, labels: Tensor) -> Tensor:
        """Return the vectors of labels, ``(..., width)``; a product, which can be recorded."""
        vectors = self.vectors
        return torch.eye(len(vectors), dtype=vectors.dtype, device=vectors.device)[labels.long()] @ vectors
