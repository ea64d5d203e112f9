"""p(x, v, w) = prod over groups g: p(v_g) prod over items i: p(w_gi) p(x_gi | v_g, w_gi)

    v ~ p(v)                    group_latent, one per group: what its items share
    w ~ p(w)                    latent, one per item
    x ~ p(x | v, w)             features

A datum is a group, so that groups are independent and log p(x) is that of a whole group. Unequal
groups are padded; ``mask`` says which items are there.

The Multi-Entity Variational Autoencoder (Nash et al., 2017); Multi-Level Variational Autoencoder
(Bouchacourt, Tomioka & Nowozin, 2018), arXiv 1705.08841.
"""

import pyro
import pyro.poutine as poutine
from pyro.nn import PyroModule
from torch import Tensor, nn


class GroupedModel(PyroModule):
    """``v, w -> x`` for every item of a group.

    Args:
        items: items per group, padding included; ``x`` holds them side by side.
        group_prior: ``() -> p(v)``, event shape ``(group_latent,)``.
        prior: ``() -> p(w)``, event shape ``(latent,)``.
        decoder: ``v, w -> p(x | v, w)``, event shape ``(features of an item,)``.
    """

    def __init__(self, items: int, group_prior: nn.Module, prior: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.items = items
        self.group_prior, self.prior, self.decoder = group_prior, prior, decoder

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the drawn or observed items: ``(..., items, groups, features of an item)``."""
        x = x.unflatten(-1, (self.items, -1)).transpose(0, 1)  # (items, groups, features of an item)
        there = x.new_ones(x.shape[:2]).bool() if mask is None else mask.bool().T
        with pyro.plate("data", x.shape[1], dim=-1):
            v = pyro.sample("v", self.group_prior())
            with pyro.plate("items", self.items, dim=-2), poutine.mask(mask=there):
                w = pyro.sample("w", self.prior())
                return pyro.sample("x", self.decoder(v, w), obs=x)
