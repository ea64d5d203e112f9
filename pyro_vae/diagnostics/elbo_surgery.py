"""Where the KL goes: into information about x, or into an aggregate posterior that is not the
prior.

    mean KL(q(z|x) || p(z)) = I(x; z) + KL(q(z) || p(z)),    q(z) = mean of q(z | x) over the data

ELBO surgery (Hoffman & Johnson, 2016). The second part splits further where sites factorise (Chen
et al., 2018, arXiv 1802.04942): total correlation of q(z), and the KL of each dimension.
"""

import math
from typing import NamedTuple

import pyro.poutine as poutine
import torch
from pyro.poutine import Trace
from torch import Tensor

from pyro_vae.program import Batch, Latents, Pair, evaluation, latents_of, particles

MAX_PAIRS = 250_000  # pairs of a code and a datum at a time


class Surgery(NamedTuple):
    """Parts of the mean KL in nats per datum; on one draw per datum they add up exactly."""

    kl: float
    information: float  # I(x; z) for x one of these data: at most log(number of data)
    marginal: float  # KL(q(z) || p(z)): near 0 where samples from the prior look like codes
    limit: float  # log(number of data)
    correlation: float | None  # total correlation of q(z); None where q or p does not factorise
    dimensions: Tensor | None  # (size,) KL of each dimension's aggregate to its prior


def surgery(pair: Pair, batch: Batch, *, seed: int = 0) -> Surgery:
    """Split the mean KL over the data of one batch, taken to be all there are.

    Every code is evaluated under every datum's posterior: 1,000 data take a million densities.

    Raises:
        PairError: for discrete latent variables.
    """
    with evaluation(pair, seed):
        space = latents_of(pair, batch)
        count = space.data
        u = space.from_guide(1)[0]  # (data, size)
        own = space.log_q(u[None])[0].double()
        prior = space.log_densities(u[None])[0][0].double()
        split = _factors(space)
        joint, single = [], []
        for part in u.split(max(1, MAX_PAIRS // count)):
            tiled = part[:, None].expand(-1, count, -1)
            joint.append(space.log_q(tiled).double().logsumexp(1) - math.log(count))
            if split is not None:
                single.append(split(tiled).double().logsumexp(1) - math.log(count))
        marginal = torch.cat(joint)
        each = torch.cat(single) if split is not None else None
        prior_each = _prior_factors(space, u) if split is not None else None
    correlation = dimensions = None
    if each is not None and prior_each is not None:
        correlation = (marginal - each.sum(-1)).mean().item()
        dimensions = (each - prior_each.double()).mean(0)
    return Surgery(
        (own - prior).mean().item(),
        (own - marginal).mean().item(),
        (marginal - prior).mean().item(),
        math.log(count),
        correlation,
        dimensions,
    )


def _factors(space: Latents):  # type: ignore[no-untyped-def]
    """Return u -> log q of each dimension, ``(codes, data, size)``, if they are independent.

    None unless the guide is one site with independent dimensions.
    """
    if len(space.sites) != 1:
        return None
    name = next(iter(space.sites))
    node = poutine.trace(space.pair.bound_guide).get_trace(space.batch).nodes[name]
    fn = node["fn"]
    if not isinstance(fn, torch.distributions.Independent) or fn.base_dist.event_dim or space.nesting != 1:
        return None
    return lambda u: fn.base_dist.log_prob(u)


def _prior_factors(space: Latents, u: Tensor) -> Tensor | None:
    """Log p of each dimension ``(data, size)`` where the prior's dimensions are independent."""
    name = next(iter(space.sites))
    fixed = poutine.condition(space.pair.bound_model, data=space.values(u[None]))
    trace: Trace = poutine.trace(particles(fixed, 1, space.nesting)).get_trace(space.batch)
    fn = trace.nodes[name]["fn"]
    if not isinstance(fn, torch.distributions.Independent) or fn.base_dist.event_dim:
        return None
    return fn.base_dist.log_prob(u[None])[0]
