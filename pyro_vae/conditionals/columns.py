"""A head of tables whose columns are of different kinds: numbers, then categories, one-hot."""

from collections.abc import Sequence

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from pyro_vae.conditionals.head import EDGE, Head
from pyro_vae.distributions import Beside

__all__ = ["Columns"]


class Columns(Head):
    """x is numbers with a head of their own, and behind them one-hot vectors of categories: a
    categorical distribution for each column, all independent given the parameters.

    The layout and the likelihoods are those of *Handling incomplete heterogeneous data using VAEs*
    (Nazabal, Olmos, Ghahramani & Valera, 2020), arXiv 1807.03653.

    Args:
        numbers: of the first features; None where there are none.
        categories: how many each column of categories has.
    """

    def __init__(self, numbers: Head | None, categories: Sequence[int]) -> None:
        if not categories or min(categories) < 1:
            raise ValueError(f"columns of categories have at least one each, got {list(categories)}.")
        first = (0, 0) if numbers is None else (numbers.features, numbers.size)
        super().__init__(first[0] + sum(categories), first[1] + sum(categories))
        self.numbers, self.categories = numbers, list(categories)

    def forward(self, parameters: Tensor) -> TorchDistribution:
        """Return the distribution over ``(..., features)`` for ``parameters``, ``(..., size)``: those
        of the numbers, then the categories' logits.
        """
        self.check_size(parameters)
        before = [] if self.numbers is None else [self.numbers.size]
        parts = parameters.split([*before, *self.categories], -1)
        first = [] if self.numbers is None else [self.numbers(parts[0])]
        return Beside([*first, *(dist.OneHotCategorical(logits=logits) for logits in parts[len(first) :])])

    def start(self, mean: Tensor, std: Tensor | None = None) -> Tensor:
        """Return the parameters, ``(size,)``: the numbers' own, and the logarithm of the categories'
        shares, none below a thousandth.
        """
        count = self.features - sum(self.categories)
        logits = mean[count:].detach().clamp(min=EDGE).log()
        if self.numbers is None:
            return logits
        own = self.numbers.start(mean[:count], None if std is None else std[:count])
        return torch.cat([own.to(logits), logits])

    def extra_repr(self) -> str:
        """Return what the printed head shows in parentheses."""
        return f"{self.features}, categories={self.categories}"
