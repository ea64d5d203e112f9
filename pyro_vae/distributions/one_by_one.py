"""Autoregressive transforms backwards: one coordinate after another, each given those before it."""

from collections.abc import Callable
from functools import partial

import torch
from pyro.distributions.transforms import AffineAutoregressive
from pyro.distributions.transforms import ConditionalAffineAutoregressive as PyrosConditional
from pyro.distributions.transforms.utils import clamp_preserve_gradients
from pyro.nn import ConditionalAutoRegressiveNN
from torch import Tensor, nn
from torch.distributions import Transform
from torch.nn import functional as F


def invert(
    net: ConditionalAutoRegressiveNN,
    context: Tensor,
    y: Tensor,
    undo: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
) -> tuple[Tensor, Tensor]:
    """Return x, shaped like ``y``, and the logarithms of the transform's slopes there.

    In the net's order every coordinate takes the rows of the last layer that give its own numbers:
    a pass of the whole net for each would make all coordinates' numbers, and use one coordinate's.

    Args:
        net: what gives every coordinate its numbers, from the context and the coordinates before it.
        context: ``(..., context)``; expanded to y's batch shape.
        y: ``(..., features)``.
        undo: from ``(...)`` of y and its numbers, ``(..., numbers)``, to x there and the logarithm
            of the slope.
    """
    first, *inner, last = net.layers
    order, size = net.permutation, context.shape[-1]
    inputs = torch.cat([torch.arange(size, device=order.device), size + order])
    enter = _masked(first)[:, inputs]
    between = [(_masked(layer), layer.bias) for layer in inner]
    leave = _of_each(_masked(last), order)
    skip = net.skip_layer
    beside = None if skip is None else _of_each(_masked(skip)[:, inputs], order)
    known = context.expand(*y.shape[:-1], size)  # and then x, as far as it is found
    log_slopes = []
    for n, (one, bias) in enumerate(zip(y[..., order].unbind(-1), _of_each(last.bias, order), strict=True)):
        hidden = net.f(F.linear(known, enter[:, : size + n], first.bias))
        for weight, shift in between:
            hidden = net.f(F.linear(hidden, weight, shift))
        numbers = F.linear(hidden, leave[n], bias)
        if beside is not None:
            numbers = numbers + F.linear(known, beside[n][:, : size + n])
        found, log_slope = undo(one, numbers)
        known = torch.cat([known, found.unsqueeze(-1)], -1)
        log_slopes.append(log_slope)
    back = order.argsort()
    return known[..., size:][..., back], torch.stack(log_slopes, -1)[..., back]


def _masked(layer: nn.Module) -> Tensor:
    return layer.weight * layer.mask  # type: ignore[operator]


def _of_each(outputs: Tensor, order: Tensor) -> tuple[Tensor, ...]:
    """Return the rows of a net's last layer that give each coordinate's numbers, in ``order``."""
    return outputs.unflatten(0, (-1, len(order)))[:, order].unbind(1)


class AutoregressiveAffine(AffineAutoregressive):
    """Pyro's affine autoregressive transform at one context, with `invert` as its inverse."""

    def __init__(self, net: ConditionalAutoRegressiveNN, context: Tensor) -> None:
        super().__init__(partial(net, context=context))

    def _inverse(self, y: Tensor) -> Tensor:
        def undo(one: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
            loc, log_scale = numbers.unbind(-1)
            log_scale = clamp_preserve_gradients(log_scale, self.log_scale_min_clip, self.log_scale_max_clip)
            return (one - loc) * torch.exp(-log_scale), log_scale

        x, self._cached_log_scale = invert(self.arn.func, self.arn.keywords["context"], y, undo)
        return x


class ConditionalAffineAutoregressive(PyrosConditional):
    """Pyro's conditional transform of this name, with `invert` as the inverse.

    Args:
        net: ``(x, context=) -> loc, log_scale``, each ``(..., features)``.
    """

    nn: ConditionalAutoRegressiveNN

    def condition(self, context: Tensor) -> Transform:
        """Return the transform at ``context``, ``(..., context)``."""
        return AutoregressiveAffine(self.nn, context)
