"""Bounds whose guide learns through its draws alone. `pyro_vae.objectives` lists all objectives."""

import math
from abc import abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple

import pyro.poutine as poutine
import torch
from pyro.poutine import Trace
from torch import Tensor

from pyro_vae.objectives.objective import IMPORTANCE_WEIGHTED, Objective
from pyro_vae.program import PairError, trace_of


class _AtLeaves(NamedTuple):
    """One run: the traces at the draws as leaves, and the draws as the guide's parameters made
    them.
    """

    model: Trace
    guide: Trace
    paths: dict[str, Tensor]
    leaves: dict[str, Tensor]


class PathDerivative(Objective):
    """A bound whose guide learns only through its draws: d log w / dz dz / dphi, without q's score.

    The score's mean is 0. The gradient at an exact guide is then 0 at every draw, not only in mean.
    Every latent site must be reparameterised, and q must have a density at given values (no planar
    flow).
    """

    per_datum = True

    @abstractmethod
    def weigh(self, log_w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the bound, ``(batch,)``, and draws' weights, ``(particles, batch)``, for p and q's
        path.
        """

    def differentiable_loss(self, model: Callable, guide: Callable, *args: Any, **kwargs: Any) -> Tensor:
        """Return minus the bound, summed over the data as the programs scale them."""
        runs = [self._at_leaves(*programs, args, kwargs) for programs in self._programs(model, guide, args, kwargs)]
        with torch.enable_grad():  # the path's derivative is part of the loss
            weight = self._weight(runs[0].model)
            log_p = torch.cat([self._log_prob(run.model, weight) for run in runs])
            log_w = log_p - torch.cat([self._log_prob(run.guide, weight) for run in runs])
            bound, for_model, for_path = self.weigh(log_w.detach())
            leaves = [leaf for run in runs for leaf in run.leaves.values()]
            slopes = iter(torch.autograd.grad((for_path * log_w).sum(), leaves, retain_graph=True))
        surrogate = (for_model * log_p).sum(0)
        for run in runs:
            for name, path in run.paths.items():
                site = run.guide.nodes[name]
                event = len(site["fn"].event_shape)
                slope = next(slopes)
                moved = (slope * path).flatten(path.dim() - event).sum(-1) if event else slope * path
                surrogate = surrogate + self._per_datum(moved, name, site).sum(0)
        return -(weight * (bound + surrogate - surrogate.detach())).sum()

    def _at_leaves(self, model: Callable, guide: Callable, args: Any, kwargs: Any) -> "_AtLeaves":
        """Draw, and run both programs at the draws as leaves of the graph."""
        drawn = trace_of(guide, *args, **kwargs)
        paths = {name: site["value"] for name, site in self._sites(drawn)}
        self._refuse_jumps(drawn)
        with torch.enable_grad():
            leaves = {name: value.detach().requires_grad_() for name, value in paths.items()}
            for name, leaf in leaves.items():
                drawn.nodes[name]["value"] = leaf
            guide_trace = trace_of(poutine.replay(guide, trace=drawn), *args, **kwargs)
            model_trace = trace_of(poutine.replay(model, trace=drawn), *args, **kwargs)
        return _AtLeaves(model_trace, guide_trace, paths, leaves)

    def _refuse_jumps(self, trace: Trace) -> None:
        for name, site in self._sites(trace):
            if not site["fn"].has_rsample:
                raise PairError(
                    f"{type(self).__name__} follows the draws' derivatives, and those of site {name!r} "
                    f"({type(site['fn']).__name__}) have none; use the objective elbo or iwae"
                )


class StickingTheLanding(PathDerivative):
    """The ELBO with the path-derivative gradient, whose noise vanishes as q nears the posterior.

    *Sticking the Landing (Roeder, Wu & Duvenaud, 2017)*, arXiv 1703.09194.
    """

    def weigh(self, log_w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the mean log-weight and equal weights."""
        equal = torch.full_like(log_w, 1 / len(log_w))
        return log_w.mean(0), equal, equal


class DoublyReparameterized(PathDerivative):
    """log mean_k w_k, with a gradient for q whose signal does not drown in noise as K grows.

    *Doubly Reparameterized Gradient Estimators for Monte Carlo Objectives (Tucker, Lawson, Gu &
    Maddison, 2018)*, arXiv 1810.04152, eq. 8: weights w~ for p and w~^2 for q's path.
    """

    figure = IMPORTANCE_WEIGHTED

    def weigh(self, log_w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the importance-weighted bound, and w~ and its square."""
        normalized = log_w.softmax(0)
        return log_w.logsumexp(0) - math.log(len(log_w)), normalized, normalized.square()
