"""The size of log p(x) of a long sequence, step by step.

Weights of whole sequences spread with their length: of 500 draws for a chorale 2 count. A particle
filter (Gordon, Salmond & Smith, 1993) weighs after every step and goes on from the draws that
count; the mean of its estimates of p(x) is p(x), whatever it draws from.
"""

import math
from typing import Any

import pyro.poutine as poutine
import torch
from torch import Tensor

from pyro_vae.distributions import Path, Recurrent
from pyro_vae.program import Batch, Pair, PairError, evaluation, innermost, is_latent, log_prob, size_of, trace_of

__all__ = ["FILTERS", "filtered_evidence", "filters", "follows_path"]

FILTERS = 8  # whose estimates are compared and averaged
AGREE = 1.0  # nats by which they may differ: with more, their mean is short of p(x) by as much


def filtered_evidence(pair: Pair, batch: Batch, num_particles: int = 100, *, seed: int = 0) -> Tensor:
    """Return an estimate of log p(x) for each sequence, ``(batch,)``, in nats.

    exp of it has the mean p(x); so the estimate itself is low in expectation, the less the more
    particles. Each state is drawn from the guide's q(z_t | z_(t-1), x); where the draws' effective
    number falls below a half, they are drawn anew by their weights.

    Args:
        pair: its one latent site is a path of a Markov chain, in model and guide.
        batch: sequences; ``x``, and a ``mask`` if they differ in length.
        num_particles: draws at each step.
        seed: of the draws.

    Raises:
        PairError: the pair's latent variables are no such path.
        ValueError: ``num_particles`` is below 2.
    """
    if num_particles < 2:
        raise ValueError(f"num_particles must be at least 2, got {num_particles}")
    with evaluation(pair, seed):
        return _filter(pair, batch, num_particles)


def filters(pair: Pair, batch: Batch, num_particles: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the log of the mean of `FILTERS` filters' estimates of p(x), its standard error, and
    whether their logarithms agree to a nat; each ``(batch,)``.

    Args:
        pair: as for `filtered_evidence`.
        batch: the same.
        num_particles: of each filter, at least 2.
    """
    each = torch.stack([_filter(pair, batch, num_particles) for _ in range(FILTERS)])
    estimate = each.logsumexp(0) - math.log(FILTERS)
    stderr = (each - estimate).exp().std(0) / math.sqrt(FILTERS)
    return estimate, stderr, each.std(0) <= AGREE


def follows_path(pair: Pair, batch: Batch) -> bool:
    """Return whether the pair's one latent site is a path of a Markov chain, in model and guide."""
    with torch.random.fork_rng():
        try:
            return isinstance(_paths(pair, batch)[2], Path | Recurrent)
        except PairError:
            return False


def _filter(pair: Pair, batch: Batch, num_particles: int) -> Tensor:
    name, prior, proposal = _paths(pair, batch)
    size, there = size_of(batch), prior.there
    total = prior.first.log_prob(proposal.first.sample()).new_zeros(size, dtype=torch.float64)
    weights = total.new_zeros(num_particles, size)
    z = None
    for t in range(prior.steps):
        drawn, gain = _move(prior, proposal, z, t, (num_particles, size))
        gain = gain + _said(pair, name, batch, drawn, t, prior.steps)
        z, weights = drawn, weights + torch.where(there[:, t], gain.double(), 0.0)
        few = 1 / torch.softmax(weights, 0).square().sum(0) < num_particles / 2
        again = _systematic(weights)
        z = torch.where(few[:, None], z.gather(0, again.unsqueeze(-1).expand_as(z)), z)
        level = weights.logsumexp(0) - math.log(num_particles)
        total = total + torch.where(few, level, 0.0)
        weights = torch.where(few, 0.0, weights)
    return total + weights.logsumexp(0) - math.log(num_particles)


def _paths(pair: Pair, batch: Batch) -> tuple[str, Path, Any]:
    """Return the name of the path of states, its prior, and the guide's distribution of it."""
    guide, model = trace_of(pair.bound_guide, batch), trace_of(pair.bound_model, batch)
    latent = [name for name, site in model.nodes.items() if is_latent(site)]
    fn = innermost(model.nodes[latent[0]]["fn"], ()) if len(latent) == 1 else None
    if not isinstance(fn, Path) or latent[0] not in guide.nodes:
        raise PairError(
            f"a particle filter follows one path of states, and {pair.bound_model.name} has the latent sites "
            f"{', '.join(latent) or 'none'}; use log_evidence"
        )
    return latent[0], fn, innermost(guide.nodes[latent[0]]["fn"], ())


def _move(prior: Path, proposal: Path | Recurrent, z: Tensor | None, t: int, shape: tuple[int, int]) -> Any:
    """Return states drawn from the proposal, ``(particles, batch, size)``, and log p - log q of
    them.
    """
    if z is None:
        p, q = prior.first, proposal.first.expand(shape)
        drawn = q.sample()
        return drawn, p.log_prob(drawn) - q.log_prob(drawn)
    where = slice(t, t + 1)
    p, q = (one.step(z.unsqueeze(-2), where) for one in (prior, proposal))
    drawn = q.sample()
    return drawn.squeeze(-2), (p.log_prob(drawn) - q.log_prob(drawn)).squeeze(-1)


def _said(pair: Pair, name: str, batch: Batch, z: Tensor, t: int, steps: int) -> Tensor:
    """Return log p(x_t | z_t), ``(particles, batch)``: the model run on sequences of one step."""
    number = len(z)
    one = {
        key: field.unflatten(-1, (steps, -1))[:, t].repeat(number, 1) if field.shape[1:].numel() % steps == 0 else field
        for key, field in batch.items()
        if key in ("x", "mask")
    }
    model = poutine.condition(pair.bound_model, {name: z.flatten(0, 1)})
    return log_prob(trace_of(model, one).nodes["x"]).unflatten(0, z.shape[:2])


def _systematic(weights: Tensor) -> Tensor:
    """Return which draws follow, ``(particles, batch)``, by their weights of the same shape."""
    number = len(weights)
    edges = torch.softmax(weights, 0).cumsum(0).T.contiguous()
    places = (torch.arange(number, device=weights.device) + torch.rand(weights.shape[1], 1)) / number
    return torch.searchsorted(edges, places.to(edges)).clamp(max=number - 1).T
