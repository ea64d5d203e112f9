"""The ELBO with KL divergences in closed form."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from pyro.distributions.util import scale_and_mask
from pyro.infer.inspect import get_dependencies
from pyro.poutine import Trace
from torch import Tensor
from torch.distributions import kl_divergence

from pyro_vae.objectives.objective import Objective, Site
from pyro_vae.options import Count, checked
from pyro_vae.program import (
    PairError,
    is_latent,
)


class AnalyticKL(Objective):
    """The ELBO, each KL in closed form where torch or Pyro has one, at a draw of the sites above.

    KL(q(z) || p(z | u)) takes u as given, so it is right only if the guide does not draw u after,
    and given, z. That is checked: sites in the same order in both programs are sound, otherwise
    their dependencies are traced. ``pyro.infer.TraceMeanField_ELBO`` only warns, and only with
    validation on.
    """

    @checked()
    def __init__(self, num_particles: Count = 1, *, data_plate: str = "data") -> None:
        super().__init__(num_particles, data_plate=data_plate)
        self._sound: set[tuple[tuple[str, ...], tuple[str, ...]]] = set()

    def differentiable_loss(self, model: Callable, guide: Callable, *args: Any, **kwargs: Any) -> Tensor:
        """Return minus the ELBO.

        Raises:
            PairError: the KL of a site cannot be taken by itself, or a latent site is not
                reparameterised.
        """
        elbo = torch.zeros(())
        for model_trace, guide_trace in self._traces(model, guide, args, kwargs):
            self._check(model_trace, guide_trace, model, guide, args, kwargs)
            elbo = elbo + self._elbo(model_trace, guide_trace)
        return -elbo / self.num_particles

    def _elbo(self, model_trace: Trace, guide_trace: Trace) -> Tensor:
        """Return the ELBO, summed over the particles of a run."""
        elbo = torch.zeros(())
        for name, site in self._sites(model_trace):
            if site["is_observed"]:
                elbo = elbo + _weighted(site, self._density(name, site))
            else:
                elbo = elbo - _weighted(guide_trace.nodes[name], self._kl(name, guide_trace.nodes[name], site))
        for name, site in self._sites(guide_trace):
            if name not in model_trace.nodes:  # auxiliary
                elbo = elbo - _weighted(site, self._density(name, site))
        return elbo

    def _kl(self, name: str, q: Site, p: Site) -> Tensor:
        if not q["fn"].has_rsample:
            raise PairError(
                f"AnalyticKL follows the draws' derivatives, and those of site {name!r} "
                f"({type(q['fn']).__name__}) have none; "
                "use the objective elbo, or Pyro's TraceEnum_ELBO"
            )
        try:
            return kl_divergence(q["fn"], p["fn"])
        except NotImplementedError:
            return self._density(name, q) - self._density(name, p)

    def _check(self, model_trace: Trace, guide_trace: Trace, model: Any, guide: Any, args: Any, kwargs: Any) -> None:
        latent = [n for n, s in self._sites(model_trace) if not s["is_observed"]]
        drawn = [n for n, s in self._sites(guide_trace) if is_latent(s)]
        orders = (tuple(latent), tuple(drawn))
        if latent == drawn or orders in self._sound:
            return
        with torch.random.fork_rng():
            above = get_dependencies(model, args, kwargs)["prior_dependencies"]
            below = get_dependencies(guide, args, kwargs)["prior_dependencies"]
        for name in latent:
            for parent in above[name]:
                if parent != name and name in _ancestors(parent, below):
                    raise PairError(
                        f"AnalyticKL takes p({name} | {parent}) at a given {parent!r}, and the guide draws "
                        f"{parent!r} given {name!r}; "
                        "use the objective elbo, or a guide that draws in the model's order"
                    )
        self._sound.add(orders)


def _ancestors(name: str, parents: Mapping[str, Any]) -> set[str]:
    found: set[str] = set()
    todo = [name]
    while todo:
        for parent in parents.get(todo.pop(), ()):
            if parent not in found and parent != name:
                found.add(parent)
                todo.append(parent)
    return found


def _weighted(site: Site, value: Tensor) -> Tensor:
    return scale_and_mask(value, site["scale"], site["mask"]).sum()
