"""Tables of probabilities: what a variable of a few values does, given others of a few values.

A `Table` owns its parameters: expectation maximisation has its M step (see `pyro_vae.training.expectation_maximization`).
"""

import math
from collections.abc import Sequence

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from pyro_vae.distributions import IMPOSSIBLE, Copies

__all__ = ["Seen", "Table", "log_share"]

SLACK = 1e-4  # by which a row may miss 1, of rounding


class Table(nn.Module):
    """P(v | parents), a row of probabilities for every combination of the parents' values.

    Probabilities of 0 stay 0 in training. Rows are numbered with the last parent's value changing
    first.

    Args:
        probs: ``(parents' values ..., values)``; every row sums to 1.
        smoothing: added to every expected count in the M step, per datum: 0 is maximum likelihood,
            a / N the posterior mode under a Dirichlet(a + 1) prior for N data.

    Raises:
        ValueError: a row holds what is no probability, or does not sum to 1.
    """

    def __init__(self, probs: Tensor, *, smoothing: float = 0.0) -> None:
        super().__init__()
        rows = probs.detach().reshape(-1, probs.shape[-1]).double()
        for number, total in enumerate(rows.sum(-1).tolist()):
            if not (rows[number] >= 0).all() or not abs(total - 1) < SLACK:
                raise ValueError(
                    f"row {number} of the table is {[round(p, 4) for p in rows[number].tolist()]}, which sums to "
                    f"{total:g}: give probabilities, from 0 to 1, that sum to 1"
                )
        self.shape, self.smoothing = tuple(probs.shape), smoothing
        self.logits = nn.Parameter(log_share(probs.reshape(-1, probs.shape[-1])))

    def forward(self, *parents: Tensor) -> TorchDistribution:
        """Return P(v | parents); their values are whole numbers from 0, of shapes that broadcast."""
        return dist.Categorical(logits=torch.log_softmax(self.logits, -1)[self._row(parents)])

    def _row(self, parents: Sequence[Tensor]) -> Tensor:
        row = torch.zeros((), dtype=torch.long, device=self.logits.device)
        for size, value in zip(self.shape, parents, strict=False):
            row = row * size + value.long()
        return row

    @property
    def probs(self) -> Tensor:
        """The table, ``(parents' values ..., values)``."""
        return torch.softmax(self.logits.detach(), -1).reshape(self.shape)

    def natural(self) -> dict[str, Tensor]:
        """Return log P, ``(rows, values)``: what expected counts are multiplied with."""
        return {"count": torch.log_softmax(self.logits, -1)}

    def statistic(self, eta: dict[str, Tensor], value: Tensor, *parents: Tensor) -> Tensor:
        """Return the entry of ``eta`` that this value counts for."""
        return eta["count"].reshape(-1)[self._row(parents) * self.shape[-1] + value.long()]

    def maximize(self, expected: dict[str, Tensor]) -> None:
        """Set the table to the expected counts' shares; a row that nothing counts for stays."""
        counts = expected["count"] + self.smoothing
        used = counts.sum(-1, keepdim=True) > 0
        self.logits.copy_(torch.where(used, log_share(counts), self.logits))


def log_share(counts: Tensor) -> Tensor:
    """Return the logarithm of each row's shares, ``IMPOSSIBLE`` for a share of 0."""
    share = counts / counts.sum(-1, keepdim=True)
    return torch.where(
        share > 0, share.clamp_min(math.exp(-700) if share.dtype == torch.float64 else 1e-38).log(), IMPOSSIBLE
    )


class Seen(nn.Module):
    """p(x | variables): a copy of every variable that is seen."""

    def forward(self, values: Sequence[Tensor], seen: Tensor | None = None) -> TorchDistribution:
        """Return p(x | values), event shape ``(variables,)``; ``seen`` is bool ``(..., variables)``."""
        return Copies(values, seen)
