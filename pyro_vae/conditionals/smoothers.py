"""Exact posteriors p(z | x) of Markov chains: encoders without parameters of their own.

Messages go from the last step to the first; a draw goes from the first to the last, each state
given the one before and all that is seen from there on.
"""

from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from torch.nn import functional as F

from pyro_vae.conditionals.paths import LinearEmission, LinearMove, TableMove
from pyro_vae.distributions import LinearPath, Path

__all__ = ["LinearSmoother", "TableSmoother"]


class LinearSmoother(nn.Module):
    """p(z | x) of a linear-Gaussian chain: the smoother of Rauch, Tung & Striebel (1965), in its
    information form and by doubling, so that 160 steps are eight rounds of operations.

    Args:
        transition: the model's.
        emission: the model's.
    """

    parts: tuple[LinearMove, LinearEmission]

    def __init__(self, transition: LinearMove, emission: LinearEmission) -> None:
        super().__init__()
        self.__dict__["parts"] = (transition, emission)  # past registration: they are the model's

    def forward(self, x: Tensor, there: Tensor) -> TorchDistribution:
        """Return p(z | x) for ``x``, ``(batch, steps, features)``, and the steps ``there``."""
        transition, emission = self.parts
        weight, loc, noise = emission.in_data_units()
        first, seen = transition.first().base_dist, there.to(x.dtype)[..., None]
        said = seen * ((x - loc) / noise.square() @ weight)  # of x_t alone: loc / variance, and 1 / variance
        sharp = seen[..., None] * ((weight.T / noise.square()) @ weight)
        inverse, begin = (torch.diag(scale.pow(-2)) for scale in (transition.scale, first.scale))
        ahead, later = self._from_later_steps(said, sharp, inverse, seen)
        start = torch.zeros_like(said[:, :1]) + first.loc / first.scale.square()
        known = said + ahead + F.pad(start, (0, 0, 0, x.shape[1] - 1))
        before = torch.cat([begin.expand_as(sharp[:, :1]), inverse.expand_as(sharp[:, 1:])], 1)
        covariance = torch.cholesky_inverse(torch.linalg.cholesky(before + sharp + later))
        gate = covariance @ (inverse @ transition.matrix)
        loc = (covariance @ known.unsqueeze(-1)).squeeze(-1)
        return LinearPath(gate, loc, torch.linalg.cholesky(covariance), there, transition.idle())

    def _from_later_steps(self, said: Tensor, sharp: Tensor, inverse: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the steps after t say of z_t: loc / variance, ``(batch, steps, latent)``, and
        1 / variance, ``(batch, steps, latent, latent)``.

        By doubling: what a stretch of steps says of the state before it, and where it leads from
        there, follows from those of its halves; see `_joined`.
        """
        matrix = self.parts[0].matrix
        covariance = torch.cholesky_inverse(torch.linalg.cholesky(inverse + sharp))
        gate = covariance @ (inverse @ matrix)
        loc = (covariance @ said.unsqueeze(-1)).squeeze(-1)
        back = matrix.T @ inverse
        told = seen * (back @ loc.unsqueeze(-1)).squeeze(-1)
        precision = seen[..., None] * (back @ (matrix - gate))
        part: Stretch = (gate, loc, covariance, told, precision)
        steps, reach = said.shape[1], 1
        while reach < steps:
            joined = _joined(tuple(each[:, :-reach] for each in part), tuple(each[:, reach:] for each in part))
            part = tuple(torch.cat([new, old[:, -reach:]], 1) for new, old in zip(joined, part, strict=True))
            reach *= 2
        return F.pad(part[3][:, 1:], (0, 0, 0, 1)), F.pad(part[4][:, 1:], (0, 0, 0, 0, 0, 1))


Stretch = tuple[Tensor, ...]


def _joined(first: Stretch, second: Stretch) -> Stretch:
    """Return what two stretches of steps, one after the other, are together.

    A stretch is (gate, loc, covariance) of its last state given the state before it and what is
    seen in it, and (told, precision) of what is seen in it as a function of the state before.
    *Temporal Parallelization of Bayesian Smoothers (Särkkä & García-Fernández, 2021)*, arXiv
    1905.13002, lemma 8.
    """
    gate, loc, covariance, told, precision = first
    gate2, loc2, covariance2, told2, precision2 = second
    both = torch.eye(loc.shape[-1]).to(loc) + covariance @ precision2
    inverse = torch.linalg.inv(both)
    forward, back = gate2 @ inverse, gate.mT @ inverse.mT
    moved = loc + (covariance @ told2.unsqueeze(-1)).squeeze(-1)
    heard = told2 - (precision2 @ loc.unsqueeze(-1)).squeeze(-1)
    return (
        forward @ gate,
        (forward @ moved.unsqueeze(-1)).squeeze(-1) + loc2,
        forward @ covariance @ gate2.mT + covariance2,
        (back @ heard.unsqueeze(-1)).squeeze(-1) + told,
        back @ precision2 @ gate + precision,
    )


class TableSmoother(nn.Module):
    """p(z | x) of a hidden Markov model, by the backward recursion of Baum and others (1970).

    It takes no gradients: the weight of every draw is p(x) itself, so that the gradient of log p(x,
    z) at a draw is, on average, that of log p(x).

    Args:
        transition: the model's.
        emission: the model's ``z_t -> p(x_t | z_t)``.
    """

    parts: tuple[TableMove, nn.Module]

    def __init__(self, transition: TableMove, emission: nn.Module) -> None:
        super().__init__()
        self.__dict__["parts"] = (transition, emission)

    def forward(self, x: Tensor, there: Tensor) -> TorchDistribution:
        """Return p(z | x) for ``x``, ``(batch, steps, features)``, and the steps ``there``."""
        transition, emission = self.parts
        with torch.no_grad():
            table: Any = transition.log_table
            states = torch.eye(transition.latent).to(table)
            said = emission(states).log_prob(x.unsqueeze(-2))  # (batch, steps, states)
            said = torch.where(there.unsqueeze(-1), said, 0.0)
            later = [said[:, -1]]
            for t in range(x.shape[1] - 2, -1, -1):
                later.append(said[:, t] + (table + later[-1].unsqueeze(-2)).logsumexp(-1))
            after = torch.stack(later[::-1], 1)
            first = dist.OneHotCategorical(logits=torch.log_softmax(transition.first_logits, -1) + after[:, 0])

        def step(previous: Tensor, where: slice) -> TorchDistribution:
            return dist.OneHotCategorical(logits=previous @ table + after[:, where])

        return Path(first, step, there, transition.idle())
