"""q(v, w | x) = prod over groups g: q(v_g | items of g) prod over items i: q(w_gi | x_gi, v_g)

v ~ q(v | mean over the items of h(x_gi), their number)     group_latent
w ~ q(w | x_gi, v_g)                                        latent

The mean over items, with their number beside it, does not depend on their order (Deep Sets, Zaheer
et al., 2017, arXiv 1703.06114).
"""

import pyro
import pyro.poutine as poutine
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn


class GroupedGuide(PyroModule):
    """Items -> v, pooled; item, v -> w.

    Args:
        items: items per group, padding included; ``x`` holds them side by side.
        describe: an item -> its features h, a net.
        group_encoder: pooled h and the number of items, as a fraction of ``items`` -> q(v | group).
        encoder: ``x_i, v -> q(w | x_i, v)``.
    """

    def __init__(self, items: int, describe: nn.Module, group_encoder: nn.Module, encoder: nn.Module) -> None:
        super().__init__()
        self.items = items
        self.describe, self.group_encoder, self.encoder = describe, group_encoder, encoder

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the drawn ``v``: ``(..., groups, group_latent)``."""
        x = x.unflatten(-1, (self.items, -1)).transpose(0, 1)  # (items, groups, features of an item)
        there = x.new_ones(x.shape[:2]).bool() if mask is None else mask.bool().T
        count = there.sum(0).unsqueeze(-1)
        pooled = (self.describe(x) * there.unsqueeze(-1)).sum(0) / count
        with pyro.plate("data", x.shape[1], dim=-1):
            v = pyro.sample("v", self.group_encoder(torch.cat([pooled, count / self.items], -1)))
            with pyro.plate("items", self.items, dim=-2), poutine.mask(mask=there):
                pyro.sample("w", self.encoder(x, v))
        return v
