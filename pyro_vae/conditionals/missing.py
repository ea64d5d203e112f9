"""Conditionals of data with missing entries: a decoder that skips them, an encoder that knows which."""

from typing import Any

import torch
from pyro.distributions import Independent, OneHotCategorical, TorchDistribution
from torch import Tensor, nn

from pyro_vae.conditionals.conditional import Conditional
from pyro_vae.distributions import Beside, Rescaled

__all__ = ["Filled", "OfSeen"]


class OfSeen(nn.Module):
    """p(x | ...) of the entries that are seen: the others count for nothing, whatever they hold.

    Args:
        conditional: p(x | ...) of all, its features independent given the contexts.
    """

    def __init__(self, conditional: Conditional) -> None:
        super().__init__()
        self.conditional = conditional

    def forward(self, z: Tensor, seen: Tensor | None = None) -> TorchDistribution:
        """Return the distribution over ``(..., features)``; ``seen`` is bool ``(..., features)``, or
        None for all.

        Raises:
            TypeError: features depend on each other.
        """
        fn = self.conditional(z)
        return fn if seen is None else _of_seen(fn, seen)


def _of_seen(fn: Any, seen: Tensor) -> TorchDistribution:
    """Return the distribution of which only what is seen counts; of a category, all or nothing."""
    if isinstance(fn, Beside):
        return Beside([_of_seen(part, one) for part, one in zip(fn.parts, seen.split(fn.sizes, -1), strict=True)])
    if isinstance(fn, OneHotCategorical):
        return OneHotCategorical(logits=fn.logits, validate_args=False).mask(seen.all(-1))
    return _each(fn).mask(seen).to_event(1)


def _each(fn: TorchDistribution) -> TorchDistribution:
    """Return the distributions of single features, batch shape ``(..., features)``."""
    inner = fn.base_dist if isinstance(fn, Rescaled) else fn
    if not isinstance(inner, Independent):
        raise TypeError(
            f"entries of {type(inner).__name__} depend on each other, so that none can be left out: use a likelihood "
            "whose features are independent given z"
        )
    one = inner.base_dist
    return Rescaled(one, fn.loc, fn.scale) if isinstance(fn, Rescaled) else one


class Filled(nn.Module):
    """q(. | x, seen): an encoder of x, in which ``fill`` stands where nothing is seen, and of which
    entries are.

    Args:
        encoder: ``x, seen as numbers -> q``.
        fill: ``(features,)``, such as the data's mean.
    """

    fill: Tensor

    def __init__(self, encoder: Conditional, fill: Tensor) -> None:
        super().__init__()
        self.encoder = encoder
        self.register_buffer("fill", fill.detach().clone())

    def forward(self, x: Tensor, seen: Tensor | None = None) -> TorchDistribution:
        """Return the distribution given x, ``(..., features)``, and which of it is seen, bool."""
        if seen is None:
            return self.encoder(x, torch.ones_like(x))
        return self.encoder(torch.where(seen, x, self.fill), seen.to(x))
