"""Bounds on log p(x) as Pyro ELBOs: weights formed datum by datum, and KLs by formula. `pyro_vae.objectives` lists them all."""

import math
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pyro.poutine as poutine
import torch
from pyro.distributions.util import scale_and_mask
from pyro.infer import ELBO
from pyro.infer.inspect import get_dependencies
from pyro.poutine import Trace
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import kl_divergence
from torch.utils._pytree import tree_leaves

from pyro_vae.options import Count, checked
from pyro_vae.program import (
    Declaration,
    Figure,
    PairError,
    evaluating,
    is_data,
    is_deterministic,
    is_enumerated,
    is_latent,
    is_site,
    particles,
    program_name,
    stacking,
    uncondition,
    unwrapped,
    warn_of_left,
    whole_plates,
)

Site = dict[str, Any]

IMPORTANCE_WEIGHTED = Figure("importance-weighted bound", "bound")


class Objective(ELBO):
    """What every objective here is. To write one: define ``differentiable_loss``.

    Args:
        num_particles: draws z_k a datum, side by side in a plate on the left; one by one for programs that come out otherwise so.
        data_plate: the plate, at dim -1, that holds what belongs to one datum.

    Attributes:
        needs: see `pyro_vae.program.Declaration`, as for the three that follow.
        figure: what minus the loss is.
        has_kl: whether there is a KL for beta to weight.
        per_datum: whether each datum is weighted by itself.
    """

    needs: frozenset[str] = Declaration.needs
    figure: Figure = Declaration.figure
    has_kl: bool = Declaration.has_kl
    per_datum: bool = Declaration.per_datum

    @checked()
    def __init__(self, num_particles: Count = 1, *, data_plate: str = "data") -> None:
        super().__init__(num_particles=num_particles, vectorize_particles=True)
        self.data_plate = data_plate
        self._stacks: dict[tuple[Any, ...], bool] = {}  # whether draws lie side by side, by programs and shapes

    @abstractmethod
    def differentiable_loss(self, model: Callable, guide: Callable, *args: Any, **kwargs: Any) -> Tensor:
        """Return the loss, a 0-dim tensor, with the gradient to follow."""

    def loss(self, model: Callable, guide: Callable, *args: Any, **kwargs: Any) -> float:
        """Return the loss as a number."""
        with torch.no_grad():
            return self.differentiable_loss(model, guide, *args, **kwargs).item()

    def loss_and_grads(self, model: Callable, guide: Callable, *args: Any, **kwargs: Any) -> Tensor:
        """Fill the parameters' ``grad`` and return the loss, a 0-dim tensor, so that it can be recorded."""
        loss = self.differentiable_loss(model, guide, *args, **kwargs)
        if loss.requires_grad:
            loss.backward()
        return loss.detach()

    def _get_trace(self, model: Callable, guide: Callable, args: Any, kwargs: Any) -> tuple[Trace, Trace]:
        guide_trace = poutine.trace(guide).get_trace(*args, **kwargs)
        model_trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(*args, **kwargs)
        return model_trace, guide_trace

    def _guess_max_plate_nesting(self, model: Callable, guide: Callable, args: Any, kwargs: Any) -> None:
        """Look at the plates as Pyro does, without moving the draws to come and without a line on the screen."""
        with torch.no_grad(), torch.random.fork_rng(), poutine.block():
            traces = self._get_trace(model, guide, args, kwargs)
        sites = [site for trace in traces for _, site in self._sites(trace)]
        dims = [-frame.dim for site in sites for frame in site["cond_indep_stack"] if frame.vectorized]
        self.max_plate_nesting = max(dims, default=0) + (self.num_particles > 1)

    def _programs(self, model: Callable, guide: Callable, args: Any, kwargs: Any) -> list[tuple[Callable, Callable]]:
        """Model and guide for every run to be made: one with all particles, or one a particle where those do not stack."""
        if self.max_plate_nesting == math.inf:
            self._guess_max_plate_nesting(model, guide, args, kwargs)
        if self.num_particles == 1 or not self._stack(model, guide, args, kwargs):
            return [(model, guide)] * self.num_particles
        return [(self._vectorized_num_particles(model), self._vectorized_num_particles(guide))]

    def _traces(self, model: Callable, guide: Callable, args: Any, kwargs: Any) -> list[tuple[Trace, Trace]]:
        """Traces of model and guide, one pair a run."""
        return [self._get_trace(p, q, args, kwargs) for p, q in self._programs(model, guide, args, kwargs)]

    def _stack(self, model: Callable, guide: Callable, args: Any, kwargs: Any) -> bool:
        """Return whether the programs give the same with particles on the left, looked at once for data of a shape."""
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
        """Sum what a site gives over every plate but the data's and the particles': ``(particles, batch)``."""
        if all(frame.name != self.data_plate for frame in site["cond_indep_stack"]):
            raise PairError(
                f"{type(self).__name__} weighs each datum by itself, and site {name!r} lies outside the plate "
                f"{self.data_plate!r}; move it inside, or use the objective elbo"
            )
        nesting = self.max_plate_nesting - (self.num_particles > 1)
        value = value.reshape((1,) * int(nesting + 1 - value.dim()) + value.shape)
        return value.flatten(1, -2).sum(1) if value.dim() > 2 else value

    def _weight(self, model_trace: Trace) -> Any:
        """What one datum counts: the scale of the observed sites, factors left out."""
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
        except KeyError:  # torch's word for a transform without an inverse
            raise PairError(
                f"{type(self).__name__} needs the density of site {name!r} at given values, and a transform of its "
                "distribution has no inverse; use another flow, or the objective elbo"
            ) from None


class Bound(Objective):
    """A bound on log p(x) made from the K log-weights of each datum. To write one: define ``bound``.

    Draws that carry no gradient (discrete sites) get the score-function gradient with, for K > 1, the leave-one-out baseline of
    *Variational Inference for Monte Carlo Objectives (Mnih & Rezende, 2016)*, arXiv 1602.06725.
    """

    per_datum = True

    @abstractmethod
    def bound(self, log_w: Tensor) -> Tensor:
        """Return the bound, ``(..., batch)``, from log-weights ``(particles, ..., batch)``."""

    def differentiable_loss(self, model: Callable, guide: Callable, *args: Any, **kwargs: Any) -> Tensor:
        """Return minus the bound, summed over the data as the programs weigh them."""
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
        """What each draw adds to the bound: ``(particles, batch)``."""
        k = len(log_w)
        if k == 1:
            return self.bound(log_w).unsqueeze(0)
        others = (log_w.sum(0) - log_w) / (k - 1)
        own = torch.eye(k, dtype=torch.bool, device=log_w.device).unsqueeze(-1)  # (draw, draw left out, 1)
        without = torch.where(own, others.unsqueeze(1), log_w.unsqueeze(1))
        return self.bound(log_w) - self.bound(without)


class ImportanceWeighted(Bound):
    """log mean_k w_k: tighter than the ELBO, and log p(x) as K grows.

    *Importance Weighted Autoencoders (Burda, Grosse & Salakhutdinov, 2015)*, arXiv 1509.00519, eq. 8.
    """

    figure = IMPORTANCE_WEIGHTED

    def bound(self, log_w: Tensor) -> Tensor:
        """Return ``(..., batch)`` from ``(particles, ..., batch)``."""
        return log_w.logsumexp(0) - math.log(len(log_w))


class Renyi(Bound):
    """log mean_k w_k^(1 - alpha) / (1 - alpha), per datum.

    For 0 <= alpha < 1 its expectation is below log p(x): at alpha = 0 it is the importance-weighted bound and near 1 the ELBO.
    For alpha < 0 it estimates an upper bound, from below; for alpha > 1 a lower one, from above.

    *Renyi Divergence Variational Inference (Li & Turner, 2016)*, arXiv 1602.02311, eq. 10. ``pyro.infer.RenyiELBO`` scales before it
    takes the logarithm, so under subsampling it bounds nothing, and is no module.
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


class ReweightedWakeSleep(Objective):
    """log mean_k w_k for the model; the guide learns to give the weighed draws a high density, and needs no gradients of them.

    The loss is minus the importance-weighted bound; the guide's gradient is that of sum_k w~_k log q(z_k | x) (wake) and, by the
    fraction ``sleep``, of log q(z | x) at data drawn from the model.

    *Reweighted Wake-Sleep (Bornschein & Bengio, 2014)*, arXiv 1406.2751; *Revisiting Reweighted Wake-Sleep (Le et al., 2018)*,
    arXiv 1805.10469. ``pyro.infer.ReweightedWakeSleep`` adds up the batch before it weights.
    """

    figure = IMPORTANCE_WEIGHTED
    per_datum = True

    @checked()
    def __init__(self, num_particles: Count = 10, *, sleep: float = 0.0, data_plate: str = "data") -> None:
        if num_particles < 2:
            raise ValueError(f"reweighted wake-sleep compares draws and needs at least 2, got {num_particles}")
        if not 0 <= sleep <= 1:
            raise ValueError(f"sleep is a fraction, from 0 to 1, got {sleep}")
        super().__init__(num_particles, data_plate=data_plate)
        self.sleep = sleep

    def differentiable_loss(self, model: Callable, guide: Callable, *args: Any, **kwargs: Any) -> Tensor:
        """Return minus the importance-weighted bound, summed over the data as the programs weigh them."""
        programs = self._programs(model, guide, args, kwargs)
        with _DetachDraws():
            runs = [self._get_trace(p, q, args, kwargs) for p, q in programs]
        weight = self._weight(runs[0][0])
        log_p, log_q = (torch.cat([self._log_prob(run[i], weight) for run in runs]) for i in (0, 1))
        log_w = (log_p - log_q).detach()
        bound = log_w.logsumexp(0) - math.log(len(log_w))
        surrogate = (log_w.softmax(0) * (log_p + (1 - self.sleep) * log_q)).sum(0)
        if self.sleep:
            surrogate = surrogate + self.sleep * self._dream(model, guide, weight, args, kwargs)
        return -(weight * (bound + surrogate - surrogate.detach())).sum()

    def _dream(self, model: Callable, guide: Callable, weight: Any, args: Any, kwargs: Any) -> Tensor:
        """Return log q(z | x) at z, x drawn from the model: ``(batch,)``."""
        if len(args) != 1 or not isinstance(args[0], Mapping):
            raise PairError("sleep gives the guide data drawn from the model, by field; call with the batch as a dict")
        with torch.no_grad():
            dream = poutine.trace(uncondition(model)).get_trace(*args, **kwargs)
        drawn = {name: site["value"] for name, site in self._sites(dream) if name in args[0]}
        replayed = poutine.trace(poutine.replay(guide, trace=dream)).get_trace({**args[0], **drawn}, **kwargs)
        return self._log_prob(replayed, weight).sum(0)


class _DetachDraws(Messenger):
    """Draws that carry no gradient; to be entered before the trace is, so that the trace sees them detached."""

    def _pyro_post_sample(self, msg: Any) -> None:
        if not msg["is_observed"]:
            msg["value"] = msg["value"].detach()


class AnalyticKL(Objective):
    """The ELBO, each latent site's KL by formula where torch or Pyro has one, at a draw of the sites above it.

    KL(q(z) || p(z | u)) takes u as given, so it is right only if the guide does not draw u after, and given, z. That is checked: sites in one
    order in both programs are sound, otherwise their dependencies are traced. ``pyro.infer.TraceMeanField_ELBO`` only
    warns, and only with validation on.
    """

    @checked()
    def __init__(self, num_particles: Count = 1, *, data_plate: str = "data") -> None:
        super().__init__(num_particles, data_plate=data_plate)
        self._sound: set[tuple[tuple[str, ...], tuple[str, ...]]] = set()

    def differentiable_loss(self, model: Callable, guide: Callable, *args: Any, **kwargs: Any) -> Tensor:
        """Return minus the ELBO.

        Raises:
            PairError: the KL of a site cannot be taken by itself, or a latent site is not reparameterised.
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
                elbo = elbo + _weighed(site, self._density(name, site))
            else:
                elbo = elbo - _weighed(guide_trace.nodes[name], self._kl(name, guide_trace.nodes[name], site))
        for name, site in self._sites(guide_trace):
            if name not in model_trace.nodes:  # auxiliary
                elbo = elbo - _weighed(site, self._density(name, site))
        return elbo

    def _kl(self, name: str, q: Site, p: Site) -> Tensor:
        if not q["fn"].has_rsample:
            raise PairError(
                f"AnalyticKL follows the draws' derivatives, and those of site {name!r} ({type(q['fn']).__name__}) have none; "
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
                        f"AnalyticKL takes p({name} | {parent}) at a given {parent!r}, and the guide draws {parent!r} given {name!r}; "
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


def _weighed(site: Site, value: Tensor) -> Tensor:
    return scale_and_mask(value, site["scale"], site["mask"]).sum()
