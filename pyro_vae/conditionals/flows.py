"""Flows: a standard normal pushed through invertible transforms, as a head for encoders and as the
transforms of a prior.

    e ~ N(0, I)
    z = loc + scale * f_n(... f_1(e))           each f may depend on a context vector

loc, scale and the context come from the net. The transforms act before loc and scale, where
everything is of the size of 1: their boxes and clamps then mean the same for every datum, and at
the start, when each is near the identity, the flow is the diagonal Gaussian.

*Variational Inference with Normalizing Flows (Rezende & Mohamed, 2015)*, arXiv 1505.05770;
*Improving Variational Inference with Inverse Autoregressive Flow (Kingma et al., 2016)*, arXiv
1606.04934; *Density estimation using Real NVP (Dinh et al., 2016)*, arXiv 1605.08803.
"""

from collections.abc import Sequence
from typing import Annotated, Literal, get_args

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from pyro.distributions.conditional import ConditionalTransformModule
from pyro.distributions.transforms import (
    ConditionalAffineCoupling,
    ConditionalPlanar,
    Permute,
)
from pyro.nn import ConditionalAutoRegressiveNN, ConditionalDenseNN, DenseNN
from torch import Tensor, nn
from torch.distributions import AffineTransform, Transform

from pyro_vae.conditionals.head import Head, initial_std
from pyro_vae.conditionals.scales import from_scale, to_scale
from pyro_vae.distributions import (
    ConditionalAffineAutoregressive,
    ConditionalSplineAutoregressive,
    ConditionalSplineCoupling,
)
from pyro_vae.options import Count, Whole, Within, checked

__all__ = ["KINDS", "Flow", "Kind", "flow_layers"]

Kind = Literal["planar", "autoregressive", "coupling", "spline_autoregressive", "spline_coupling"]
KINDS = get_args(Kind)


class ConditionalReverse(ConditionalTransformModule):
    """Reverses the coordinates, so that the next coupling moves those that the last one kept."""

    order: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("order", torch.arange(features).flip(0))

    def condition(self, context: Tensor) -> Transform:
        """Return the permutation; the context does not matter."""
        return Permute(self.order, cache_size=1)


@checked()
def flow_layers(
    kind: Kind,
    features: Count,
    context: Whole,
    layers: Count = 4,
    hidden: Sequence[Count] = (64,),
    bins: Annotated[int, Within(2)] = 8,
) -> nn.ModuleList:
    """Return the conditional transforms of a flow, each near the identity.

    Args:
        kind: ``"planar"``: one bump per layer, so that it needs many; its inverse is not known, so
            only its own draws have a density. ``"autoregressive"`` (inverse autoregressive flow):
            draws and their densities cost one pass, other values ``features`` passes.
            ``"coupling"``: one pass for both. ``"spline_autoregressive"``, ``"spline_coupling"``:
            the same with splines in place of affine maps.
        features: size of the event, at least 2 unless planar.
        context: size of the context vector; 0 for none.
        layers: how many transforms.
        hidden: widths of the hidden layers of each transform's net.
        bins: of the splines.

    Raises:
        ValueError: there is no such kind, or it cannot act on so few features.
    """
    if features < 2 and kind != "planar":
        raise ValueError(
            f"a flow of kind {kind!r} moves one coordinate given another and needs 2 or more, "
            f"not {features}: use 'planar'."
        )
    if kind == "planar" and context == 0:
        raise ValueError("a planar flow has no known inverse and so cannot be a prior: use 'coupling'.")
    transforms: list[nn.Module] = []
    for layer in range(layers):
        if "coupling" in kind and layer:
            transforms.append(ConditionalReverse(features))
        transforms.append(_layer(kind, features, context, list(hidden), bins, reverse=layer % 2 == 1))
    return nn.ModuleList(transforms)


def _layer(kind: str, features: int, context: int, hidden: list[int], bins: int, *, reverse: bool) -> nn.Module:
    numbers = [3 * bins - 1] if kind.startswith("spline") else [1, 1]
    if kind == "planar":
        dense = DenseNN(context, hidden, [1, features, features])
        _start(dense)
        _start_planar(dense, features)
        return ConditionalPlanar(dense)
    if kind.endswith("autoregressive"):
        order = torch.arange(features).flip(0) if reverse else torch.arange(features)
        hidden = [max(width, features) for width in hidden]  # a masked net narrower than its input cannot see all of it
        net = ConditionalAutoRegressiveNN(features, context, hidden, numbers, permutation=order)
        _start(net)
        return ConditionalSplineAutoregressive(net) if len(numbers) == 1 else ConditionalAffineAutoregressive(net)
    kept = features // 2
    net = ConditionalDenseNN(kept, context, hidden, [(features - kept) * number for number in numbers])
    _start(net)
    return ConditionalSplineCoupling(kept, net) if len(numbers) == 1 else ConditionalAffineCoupling(kept, net)


def _last_of(net: nn.Module) -> nn.Linear:
    layers = net.layers
    assert isinstance(layers, nn.ModuleList)
    last = layers[-1]
    assert isinstance(last, nn.Linear)
    return last


def _start(net: nn.Module) -> None:
    """Make the net give nearly 0, which every kind but planar takes for the identity."""
    last = _last_of(net)
    with torch.no_grad():
        last.weight.mul_(0.1)
        last.bias.zero_()


def _start_planar(net: nn.Module, features: int) -> None:
    """Make the net give, as its bias, a planar transform that is the identity.

    Pyro uses u + (softplus(w'u) - 1 - w'u) w / |w|^2 in place of u, which vanishes at
    u = log(e - 1) w / |w|^2.
    """
    w = torch.randn(features)
    w = w / w.norm()
    with torch.no_grad():
        _last_of(net).bias.copy_(torch.cat([torch.zeros(1), 0.5413248546 * w, w]))


def condition_all(layers: nn.ModuleList, context: Tensor) -> list[Transform]:
    """Return new transforms at ``context``, ``(..., context)``, each with its own cache."""
    return [layer.condition(context) for layer in layers]  # type: ignore[operator]


class Flow(Head):
    """A Gaussian bent by a flow: a posterior whose draws, and the densities of its draws, are
    exact.

    Args:
        features: size of the event.
        kind: one of ``KINDS``, described at `flow_layers`; or a sequence of Pyro's conditional
            transform modules, made for this context.
        layers: how many transforms, for a named kind.
        context: size of the vector through which x reaches the transforms.
        hidden: widths of the hidden layers of each transform's net.
    """

    @checked()
    def __init__(
        self,
        features: Count,
        kind: Kind | Sequence[nn.Module] = "autoregressive",
        *,
        layers: Count = 4,
        context: Count = 32,
        hidden: Sequence[Count] = (64,),
    ) -> None:
        super().__init__(features, 2 * features + context)
        if isinstance(kind, str):
            self.layers = flow_layers(kind, features, context, layers, hidden)
        else:
            fixed = [type(layer).__name__ for layer in kind if not hasattr(layer, "condition")]
            if fixed:
                raise TypeError(
                    f"the flow's transforms {', '.join(fixed)} take no context, and their caches would be "
                    "shared between distributions: use Pyro's conditional ones, as conditional_spline."
                )
            self.layers = nn.ModuleList(kind)

    def forward(self, parameters: Tensor) -> TorchDistribution:
        """Return the distribution over ``(..., features)`` for ``parameters``, ``(..., size)``."""
        self.check_size(parameters)
        loc, raw_scale, context = parameters.split([self.features, self.features, self.size - 2 * self.features], -1)
        base = dist.Normal(torch.zeros_like(loc), torch.ones_like(loc)).to_event(1)
        stretch = AffineTransform(loc, to_scale(raw_scale), event_dim=1, cache_size=1)
        return dist.TransformedDistribution(base, [*condition_all(self.layers, context), stretch])

    def start(self, mean: Tensor, std: Tensor | None = None) -> Tensor:
        """Return the parameters, ``(size,)``, of ``mean`` and ``std`` (else 1) before any bending."""
        raw_scale = from_scale(initial_std(std, mean, 1.0)).to(mean)
        return torch.cat([mean.detach(), raw_scale, mean.new_zeros(self.size - 2 * self.features)])
