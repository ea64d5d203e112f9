"""Exact posteriors p(z | x) of Markov chains: encoders without parameters of their own.

Messages go from the last step to the first; a draw goes from the first to the last, each state
given the one before and all that is seen from there on.
"""

from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from pyro_vae.conditionals.paths import LinearEmission, LinearMove, TableMove
from pyro_vae.distributions import Path

__all__ = ["LinearSmoother", "TableSmoother"]


class LinearSmoother(nn.Module):
    """p(z | x) of a linear-Gaussian chain: the smoother of Rauch, Tung & Striebel (1965), in its
    information form.

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
        transition, _ = self.parts
        pull, covariance = self._messages(x, there)
        tril = torch.linalg.cholesky(covariance)
        gate = covariance @ (transition.matrix / transition.scale.square()[:, None])

        def step(previous: Tensor, where: slice) -> TorchDistribution:
            moved = (gate[:, where] @ previous.unsqueeze(-1)).squeeze(-1)
            return dist.MultivariateNormal(moved + pull[:, where], scale_tril=tril[:, where])

        begin = dist.MultivariateNormal(pull[:, 0], scale_tril=tril[:, 0])
        return Path(begin, step, there, transition.idle())

    def _messages(self, x: Tensor, there: Tensor) -> tuple[Tensor, Tensor]:
        """Return loc at z_(t-1) = 0, ``(batch, steps, latent)``, and covariance of every q(z_t |
        z_(t-1), x_t ... x_T).
        """
        transition, emission = self.parts
        weight, loc, noise = emission.in_data_units()
        matrix, first = transition.matrix, transition.first().base_dist
        inverse, begin = torch.diag(transition.scale.pow(-2)), torch.diag(first.scale.pow(-2))
        seen = there.to(x.dtype)[..., None]
        said = seen * ((x - loc) / noise.square() @ weight)  # of x_t alone: loc / variance, and 1 / variance
        sharp = seen[..., None] * ((weight.T / noise.square()) @ weight)
        later, ahead = torch.zeros_like(sharp[:, 0]), torch.zeros_like(said[:, 0])
        pulls: list[Tensor] = []
        covariances: list[Tensor] = []
        for t in range(x.shape[1] - 1, -1, -1):
            known, precision = ahead + said[:, t], later + sharp[:, t]
            if t == 0:
                known = known + first.loc / first.scale.square()
            covariance = torch.cholesky_inverse(torch.linalg.cholesky(precision + (inverse if t else begin)))
            pulls.append((covariance @ known.unsqueeze(-1)).squeeze(-1))
            covariances.append(covariance)
            carried = matrix.T @ inverse @ covariance
            later = seen[:, t, :, None] * (matrix.T @ inverse @ matrix - carried @ inverse @ matrix)
            ahead = seen[:, t] * (carried @ known.unsqueeze(-1)).squeeze(-1)
        return torch.stack(pulls[::-1], 1), torch.stack(covariances[::-1], 1)


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
