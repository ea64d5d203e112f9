"""Posterior means, and how many latent dimensions are in use."""

import math
from collections.abc import Iterable, Mapping

import pyro.poutine as poutine
import torch
from torch import Tensor

from pyro_vae.program import (
    PARTICLES,
    Batch,
    Pair,
    evaluation,
    is_latent,
    particles,
    pieces,
    plate_nesting,
    size_of,
    takes_particles,
)

ACTIVE_VARIANCE = 0.01  # Var_x E[z | x] of a dimension in use (Burda et al. 2015, section 5), for a prior of variance 1


# for guides whose mean has no closed form: this many draws add a thousandth of the posterior
# variance to Var_x E[z | x]
DRAWS_OF_MEAN = 1024


def posterior_means(
    pair: Pair, data: Batch | Iterable[Batch], *, num_samples: int | None = None, seed: int = 0
) -> dict[str, Tensor]:
    """Return E[z | x] under the guide, ``(data, latent)``, for every continuous latent site.

    Sites outside the data plate or in further plates are left out.

    The mean of the site's distribution (a draw where it has none): of one run of the guide where
    it is the same every run, else averaged over ``num_samples`` runs, by default 1024.
    """
    means: dict[str, list[Tensor]] = {}
    with evaluation(pair, seed):
        for batch in pieces(data, 64):
            nesting = plate_nesting(pair, batch)
            runs = (num_samples or DRAWS_OF_MEAN) if _varies(pair, batch, nesting) else 1
            for name, mean in _site_means(pair, batch, runs, nesting).items():
                means.setdefault(name, []).append(mean)
    return {name: torch.cat(parts) for name, parts in means.items()}


def active_units(means: Mapping[str, Tensor], threshold: float = ACTIVE_VARIANCE) -> dict[str, int]:
    """Count per site the dimensions with Var_x E[z_j | x] above the threshold (Burda et al.

    2015, section 5).
    """
    return {name: int((mean.var(0, correction=0) > threshold).sum()) for name, mean in means.items()}


def _varies(pair: Pair, batch: Batch, nesting: int) -> bool:
    first, second = (_site_means(pair, batch, 1, nesting) for _ in range(2))
    return any(not torch.equal(first[name], second[name]) for name in first)


def _site_means(pair: Pair, batch: Batch, num_samples: int, nesting: int) -> dict[str, Tensor]:
    vectorized = num_samples > 1 and takes_particles(pair, batch, nesting)
    guide = particles(pair.bound_guide, num_samples if vectorized else None, nesting)
    sums: dict[str, Tensor] = {}
    for _ in range(1 if vectorized else num_samples):
        for name, site in poutine.trace(guide).get_trace(batch).nodes.items():
            frames = {frame.name for frame in site["cond_indep_stack"]} if is_latent(site) else set()
            if frames - {PARTICLES} == {pair.data_plate} and site["value"].is_floating_point():
                mean = _mean(site).reshape(-1, size_of(batch), math.prod(site["fn"].event_shape))
                sums[name] = sums.get(name, 0) + mean.mean(0)
    return {name: total if vectorized else total / num_samples for name, total in sums.items()}


def _mean(site: Mapping) -> Tensor:
    try:
        return site["fn"].mean
    except NotImplementedError:
        return site["value"]
