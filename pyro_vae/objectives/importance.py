"""Bounds on log p(x) from the K log-weights of each datum."""

import math
from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from pyro.distributions.util import scale_and_mask
from torch import Tensor

from pyro_vae.objectives.objective import IMPORTANCE_WEIGHTED, Objective, Site
from pyro_vae.options import Count, checked
from pyro_vae.program import (
    Figure,
)


class LogWeightBound(Objective):
    """A bound on log p(x) from the K log-weights of each datum; subclasses define ``bound``.

    Draws that carry no gradient (discrete sites) get the score-function gradient with, for K > 1,
    the leave-one-out baseline of *Variational Inference for Monte Carlo Objectives (Mnih & Rezende,
    2016)*, arXiv 1602.06725.
    """

    per_datum = True

    @abstractmethod
    def bound(self, log_w: Tensor) -> Tensor:
        """Return the bound, ``(..., batch)``, from log-weights ``(particles, ..., batch)``."""

    def differentiable_loss(self, model: Callable, guide: Callable, *args: Any, **kwargs: Any) -> Tensor:
        """Return minus the bound, summed over the data as the programs scale them."""
        runs = self._traces(model, guide, args, kwargs)
        weight = self._weight(runs[0][0])
        log_w = torch.cat([self._log_prob(p, weight) - self._log_prob(q, weight) for p, q in runs])
        bound = self.bound(log_w)
        jumps = [name for name, site in self._sites(runs[0][1]) if not site["fn"].has_rsample]
        for name in jumps:
            score = torch.cat([self._score(name, q.nodes[name]) for _, q in runs])
            surrogate = (self._signal(log_w.detach()) * score).sum(0)
            bound = bound + surrogate - surrogate.detach()
        return -(weight * bound).sum()

    def _score(self, name: str, site: Site) -> Tensor:
        return self._per_datum(scale_and_mask(self._density(name, site), mask=site["mask"]), name, site)

    def _signal(self, log_w: Tensor) -> Tensor:
        """Return what each draw adds to the bound: ``(particles, batch)``."""
        k = len(log_w)
        if k == 1:
            return self.bound(log_w).unsqueeze(0)
        others = (log_w.sum(0) - log_w) / (k - 1)
        own = torch.eye(k, dtype=torch.bool, device=log_w.device).unsqueeze(-1)  # (draw, draw left out, 1)
        without = torch.where(own, others.unsqueeze(1), log_w.unsqueeze(1))
        return self.bound(log_w) - self.bound(without)


class ImportanceWeighted(LogWeightBound):
    """log mean_k w_k: tighter than the ELBO, and log p(x) as K grows.

    *Importance Weighted Autoencoders (Burda, Grosse & Salakhutdinov, 2015)*, arXiv 1509.00519, eq.
    8.
    """

    figure = IMPORTANCE_WEIGHTED

    def bound(self, log_w: Tensor) -> Tensor:
        """Return ``(..., batch)`` from ``(particles, ..., batch)``."""
        return log_w.logsumexp(0) - math.log(len(log_w))


class Renyi(LogWeightBound):
    """log mean_k w_k^(1 - alpha) / (1 - alpha), per datum.

    For 0 <= alpha < 1 its expectation is below log p(x): at alpha = 0 it is the importance-weighted
    bound and near 1 the ELBO. For alpha < 0 it estimates an upper bound, from below; for alpha > 1
    a lower one, from above.

    *Renyi Divergence Variational Inference (Li & Turner, 2016)*, arXiv 1602.02311, eq. 10.
    ``pyro.infer.RenyiELBO`` scales before it takes the logarithm, so under subsampling it bounds
    nothing, and it is not a module.
    """

    figure = Figure("Renyi bound", "bound")

    @checked()
    def __init__(self, num_particles: Count = 5, *, alpha: float = 0.5, data_plate: str = "data") -> None:
        if alpha == 1:
            raise ValueError("the Renyi bound of order alpha = 1 is the ELBO; use the objective elbo")
        super().__init__(num_particles, data_plate=data_plate)
        self.alpha = alpha

    def bound(self, log_w: Tensor) -> Tensor:
        """Return ``(..., batch)`` from ``(particles, ..., batch)``."""
        power = 1 - self.alpha
        return ((power * log_w).logsumexp(0) - math.log(len(log_w))) / power
