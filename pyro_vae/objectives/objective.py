"""The base of objectives: a Pyro ELBO that can weight each datum by itself."""

import math
from abc import abstractmethod
from collections.abc import Callable, Iterator
from typing import Any

import pyro.poutine as poutine
import torch
from pyro.distributions.util import scale_and_mask
from pyro.infer import ELBO
from pyro.poutine import Trace
from torch import Tensor

from pyro_vae.compiled import tree_leaves
from pyro_vae.options import Count, checked
from pyro_vae.program import (
    Declaration,
    Figure,
    PairError,
    evaluating,
    is_data,
    is_deterministic,
    is_enumerated,
    is_site,
    particles,
    program_name,
    stacking,
    trace_pair,
    unwrapped,
    warn_of_left,
    whole_plates,
)

Site = dict[str, Any]


IMPORTANCE_WEIGHTED = Figure("importance-weighted bound", "bound")


class Objective(ELBO):
    """The base of objectives; subclasses define ``differentiable_loss``.

    Args:
        num_particles: draws z_k per datum, in parallel in a plate on the left; one by one for
            programs whose values this would change.
        data_plate: the plate, at dim -1, that holds what belongs to one datum.

    Attributes:
        needs: see `pyro_vae.program.Declaration`, as for those that follow.
        figure: what minus the loss is.
        has_kl: whether there is a KL for beta to weight.
        per_datum: whether each datum is weighted by itself.
        whole_batch: whether the data of a batch are looked at together.
        validates: whether epochs are measured by its own figure.
        momentum: of Adam and its kin.
    """

    needs: frozenset[str] = Declaration.needs
    figure: Figure = Declaration.figure
    has_kl: bool = Declaration.has_kl
    per_datum: bool = Declaration.per_datum
    whole_batch: bool = Declaration.whole_batch
    validates: bool = Declaration.validates
    momentum: float = Declaration.momentum

    @checked()
    def __init__(self, num_particles: Count = 1, *, data_plate: str = "data") -> None:
        super().__init__(num_particles=num_particles, vectorize_particles=True)
        self.data_plate = data_plate
        self._stacks: dict[tuple[Any, ...], bool] = {}  # whether draws lie side by side, by programs and shapes

    @abstractmethod
    def differentiable_loss(self, model: Callable, guide: Callable, *args: Any, **kwargs: Any) -> Tensor:
        """Return the loss, a 0-dim tensor that carries the gradient."""

    def loss(self, model: Callable, guide: Callable, *args: Any, **kwargs: Any) -> float:
        """Return the loss as a number."""
        with torch.no_grad():
            return self.differentiable_loss(model, guide, *args, **kwargs).item()

    def loss_and_grads(self, model: Callable, guide: Callable, *args: Any, **kwargs: Any) -> Tensor:
        """Fill the parameters' ``grad`` and return the loss, a 0-dim tensor that can be recorded."""
        loss = self.differentiable_loss(model, guide, *args, **kwargs)
        if loss.requires_grad:
            loss.backward()
        return loss.detach()

    def _get_trace(self, model: Callable, guide: Callable, args: Any, kwargs: Any) -> tuple[Trace, Trace]:
        guide_trace, model_trace = trace_pair(guide, model, *args, **kwargs)
        return model_trace, guide_trace

    def _guess_max_plate_nesting(self, model: Callable, guide: Callable, args: Any, kwargs: Any) -> None:
        """Count the plates as Pyro does, without changing later draws and without printing."""
        bare = [unwrapped(program) for program in (guide, model)]
        with torch.no_grad(), torch.random.fork_rng(), poutine.block(), evaluating(bare):
            traces = self._get_trace(model, guide, args, kwargs)
        sites = [site for trace in traces for _, site in self._sites(trace)]
        dims = [-frame.dim for site in sites for frame in site["cond_indep_stack"] if frame.vectorized]
        self.max_plate_nesting = max(dims, default=0) + (self.num_particles > 1)

    def _programs(self, model: Callable, guide: Callable, args: Any, kwargs: Any) -> list[tuple[Callable, Callable]]:
        """Return model and guide for each run: one with all particles, or one per particle."""
        if self.max_plate_nesting == math.inf:
            self._guess_max_plate_nesting(model, guide, args, kwargs)
        if self.num_particles == 1 or not self._stack(model, guide, args, kwargs):
            return [(model, guide)] * self.num_particles
        return [(self._vectorized_num_particles(model), self._vectorized_num_particles(guide))]

    def _traces(self, model: Callable, guide: Callable, args: Any, kwargs: Any) -> list[tuple[Trace, Trace]]:
        """Return traces of model and guide, one pair per run."""
        return [self._get_trace(p, q, args, kwargs) for p, q in self._programs(model, guide, args, kwargs)]

    def _stack(self, model: Callable, guide: Callable, args: Any, kwargs: Any) -> bool:
        """Return whether particles on the left change nothing; checked once per data shape."""
        bare = tuple(unwrapped(program) for program in (guide, model))
        names = tuple(getattr(program, "name", None) or program_name(program) for program in bare)
        shapes = tuple(leaf.shape for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor))
        key = *names, *shapes
        if key not in self._stacks:
            nesting = int(self.max_plate_nesting) - 1

            def runs(n: int | None) -> tuple[Trace, Trace]:
                q, p = (particles(program, n, nesting) for program in bare)
                p_trace, q_trace = self._get_trace(p, q, args, kwargs)
                return q_trace, p_trace

            with torch.no_grad(), torch.random.fork_rng(), poutine.block(), whole_plates(), evaluating(bare):
                found = stacking(runs, nesting)
            if found.program is not None and not found.own_randomness:
                warn_of_left(bare[found.program], names[found.program])
            self._stacks[key] = found.sound
        return self._stacks[key]

    def _sites(self, trace: Trace) -> Iterator[tuple[str, Site]]:
        for name, site in trace.nodes.items():
            if is_site(site) and not is_deterministic(site):
                if is_enumerated(site) and not site["is_observed"]:
                    raise PairError(
                        f"{type(self).__name__} draws every latent site, and {name!r} is to be summed over; "
                        "use Pyro's TraceEnum_ELBO"
                    )
                yield name, site

    def _per_datum(self, value: Tensor, name: str, site: Site) -> Tensor:
        """Sum a site's value over plates other than data and particles: ``(particles, batch)``."""
        if all(frame.name != self.data_plate for frame in site["cond_indep_stack"]):
            raise PairError(
                f"{type(self).__name__} weights each datum by itself, and site {name!r} lies outside the plate "
                f"{self.data_plate!r}; move it inside, or use the objective elbo"
            )
        nesting = self.max_plate_nesting - (self.num_particles > 1)
        value = value.reshape((1,) * int(nesting + 1 - value.dim()) + value.shape)
        return value.flatten(1, -2).sum(1) if value.dim() > 2 else value

    def _weight(self, model_trace: Trace) -> Any:
        """Return what one datum counts: the scale of the observed sites, factors left out."""
        sites = (site for _, site in self._sites(model_trace))
        return next(site["scale"] for site in sites if is_data(site))

    def _log_prob(self, trace: Trace, weight: Any, keep: Callable[[Site], bool] = lambda site: True) -> Tensor:
        """Sum log-probabilities, each relative to the datum's weight: ``(particles, batch)``."""
        total = torch.zeros(())
        for name, site in self._sites(trace):
            if keep(site):
                log_prob = scale_and_mask(self._density(name, site), site["scale"] / weight, site["mask"])
                total = total + self._per_datum(log_prob, name, site)
        return total

    def _density(self, name: str, site: Site) -> Tensor:
        try:
            return site["fn"].log_prob(site["value"], *site["args"], **site["kwargs"])
        except KeyError:  # what torch raises for a transform without an inverse
            raise PairError(
                f"{type(self).__name__} needs the density of site {name!r} at given values, and a transform of its "
                "distribution has no inverse; use another flow, or the objective elbo"
            ) from None
