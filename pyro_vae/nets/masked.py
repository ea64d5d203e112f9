"""Masked perceptrons: what they say of a feature depends on the features before it alone."""

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pyro_vae.nets.layers import Activation, activation_named, check_width
from pyro_vae.options import Count, checked


class MaskedLinear(nn.Linear):
    """A linear layer some of whose weights are held at 0.

    Args:
        mask: whether an output reads an input, bool ``(outputs, inputs)``.
        std: of the first weights of an output that reads one input; of more, divided by the root
            of their number.
        bias: whether there is one; 0 at first.
    """

    mask: Tensor

    def __init__(self, mask: Tensor, std: float, *, bias: bool = True) -> None:
        super().__init__(mask.shape[1], mask.shape[0], bias)
        self.register_buffer("mask", mask.to(self.weight))
        with torch.no_grad():
            self.weight.normal_().mul_(self.mask * (std * self.mask.sum(1, keepdim=True).clamp(min=1) ** -0.5))
        if bias:
            nn.init.zeros_(self.bias)

    @property
    def masked(self) -> Tensor:
        """The weights that count, ``(outputs, inputs)``."""
        return self.weight * self.mask

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(..., outputs)``."""
        return F.linear(x, self.masked, self.bias)


def _mask(
    place: Tensor, distance: Tensor, targets: Tensor, sources: Tensor, radius: int | None, *, strict: bool
) -> Tensor:
    """Return who reads whom, by the features at whose places they stand."""
    after, before = place[targets].unsqueeze(-1), place[sources]
    near = radius is None or distance[targets][:, sources] <= radius
    return ((before < after) if strict else (before <= after)) & near


class MaskedMLP(nn.Module):
    """A perceptron that says of every feature what follows from those before it, in one pass.

    ``(..., features * width) -> (..., kinds * features)``, laid out as heads read it, without a bias. MADE
    (Germain et al., 2015), arXiv 1502.03509, with its direct connections: every hidden unit has a
    place in the order, reads nothing from later places, and is read by no earlier one. The places are
    spread evenly. The direct connections, 0 at first, let every feature read every one before it,
    however few units there are.

    Args:
        order: the features, first drawn first, long ``(features,)``.
        kinds: numbers per feature that the head needs.
        hidden: widths of the hidden layers; ``()`` leaves the direct connections, a logistic
            regression of every feature on those before it where x is binary.
        activation: a name in ``ACTIVATIONS``.
        width: numbers that a feature is given by, side by side.
        distance: between features, ``(features, features)``; in the order, if not given.
        field: how far a feature can see: none farther away than this says anything of it.

    Raises:
        ValueError: ``order`` is no permutation.
    """

    order: Tensor

    @checked()
    def __init__(
        self,
        order: Tensor,
        kinds: Count = 1,
        hidden: Sequence[Count] = (500,),
        activation: Activation = "relu",
        *,
        width: Count = 1,
        distance: Tensor | None = None,
        field: Count | None = None,
    ) -> None:
        super().__init__()
        check_order(order)
        features = len(order)
        self.inputs, self.outputs, self.kinds = features * width, kinds * features, kinds
        self.passes = 1  # whose work the steps do together
        self.register_buffer("order", order.clone())
        place = torch.empty_like(order)
        place[order] = torch.arange(features)
        radii = shares(field, len(hidden) + 1)
        if distance is None:
            distance = (place.unsqueeze(-1) - place).abs()
        mask = partial(_mask, place, distance)
        everything = torch.arange(features)
        given = everything.repeat_interleave(width)
        spread = [(torch.arange(units) * (features - 1) // units + 1).clamp(max=features - 1) for units in hidden]
        homes = [given, *(order[places] for places in spread)]
        self.activation = activation_named(activation)
        self.hidden = nn.ModuleList(
            MaskedLinear(mask(targets, sources, radii[i], strict=i == 0), 2**0.5)
            for i, (sources, targets) in enumerate(pairwise(homes))
        )
        reads = mask(everything, given, field, strict=True)
        self.direct = MaskedLinear(reads.repeat(kinds, 1), 0.0, bias=False)
        self.last: MaskedLinear | None = None
        if hidden:
            reads = mask(everything, homes[-1], radii[-1], strict=False)
            self.last = MaskedLinear(reads.repeat(kinds, 1), 0.1, bias=False)
        # units of a place stand side by side: those of place t are first[t] to first[t + 1]
        self._first = [torch.searchsorted(places, torch.arange(features + 1)).tolist() for places in spread]

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(..., outputs)``: of each feature, what those before it say."""
        check_width(self, x, self.inputs)
        said, h = self.direct(x), x
        for layer in self.hidden:
            h = self.activation(layer(h))
        return said if self.last is None else said + self.last(h)

    def steps(self, x: Tensor) -> Iterator[Tensor]:
        """Yield what is said of each feature, ``(..., kinds)``, in the order; the caller fills it in
        in ``x``, ``(..., features * width)``, before asking for the next.

        Together the steps do the work of about one pass: a unit is computed once, when the features
        that it reads are there.
        """
        hidden = [layer for layer in self.hidden if isinstance(layer, MaskedLinear)]
        weights = [layer.masked for layer in hidden]
        direct = self.direct.masked.unflatten(0, (self.kinds, -1))  # (kinds, features, inputs)
        last = None if self.last is None else self.last.masked.unflatten(0, (self.kinds, -1))
        layers = [x, *(x.new_zeros(*x.shape[:-1], len(weight)) for weight in weights)]
        for place, feature in enumerate(self.order.tolist()):
            for i, (weight, layer) in enumerate(zip(weights, hidden, strict=True)):
                units = slice(self._first[i][place], self._first[i][place + 1])
                if units.start < units.stop:
                    read = F.linear(layers[i], weight[units], layer.bias[units])
                    layers[i + 1][..., units] = self.activation(read)
            said = F.linear(x, direct[:, feature])
            yield said if last is None else said + F.linear(layers[-1], last[:, feature])


def check_order(order: Tensor) -> None:
    """Refuse an order that does not name every feature once.

    Raises:
        ValueError: it does not.
    """
    features = len(order)
    known = order[(order >= 0) & (order < features)].unique()
    if len(known) < features:
        missing = sorted(set(range(features)) - set(known.tolist()))
        raise ValueError(
            f"an order of {features} features names each from 0 to {features - 1} once, and this one lacks "
            f"{', '.join(map(str, missing[:5]))}{' and others' if len(missing) > 5 else ''}: give a permutation."
        )


def shares(field: int | None, layers: int) -> list[int | None]:
    """Return how far each of ``layers`` sees, so that together they see ``field`` far; the first
    ones see farthest."""
    if field is None:
        return [None] * layers
    return [field // layers + (i < field % layers) for i in range(layers)]


def raster(image: Sequence[int]) -> Tensor:
    """Return the features of an image ``(channels, height, width)``, row by row, the channels of a
    pixel one after the other."""
    channels, height, width = image
    return torch.arange(channels * height * width).reshape(channels, height, width).permute(1, 2, 0).flatten()


def pixel_distance(image: Sequence[int]) -> Tensor:
    """Return how far apart features lie in an image, ``(features, features)``: the larger of the
    distances down and across."""
    channels, height, width = image
    row = torch.arange(height).repeat_interleave(width).repeat(channels)
    column = torch.arange(width).repeat(height * channels)
    return torch.maximum((row.unsqueeze(-1) - row).abs(), (column.unsqueeze(-1) - column).abs())
