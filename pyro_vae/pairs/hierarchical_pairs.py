"""Pairs of latent vectors in levels: zL -> ... -> z1 -> x."""

from typing import Literal

from pyro_vae.conditionals import Normal, StandardNormal
from pyro_vae.data import Spec
from pyro_vae.guides.bottom_up import BottomUpGuide
from pyro_vae.guides.hierarchical import HierarchicalGuide
from pyro_vae.models.hierarchical import HierarchicalModel
from pyro_vae.options import Count
from pyro_vae.pairs import factory as parts
from pyro_vae.pairs.likelihoods import Likelihood
from pyro_vae.pairs.likelihoods import likelihood as likelihood_of
from pyro_vae.pairs.registry import pair
from pyro_vae.program import Pair, PairError


@pair
def hierarchical(
    spec: Spec,
    *,
    latent: list[Count] | None = None,
    likelihood: Likelihood = "auto",
    guide: Literal["top-down", "bottom-up"] = "top-down",
    hidden: list[Count] = [500, 500],  # noqa: B006
    objective: parts.Objective = "elbo",
    particles: Count = 1,
) -> Pair:
    """zL -> ... -> z1 -> x, levels of latent vectors; after a pass up, q draws them from the top down.

    Args:
        latent: sizes of z1, z2, ...; [10, 5] for small data and [40, 20] from a hundred features
            on.
        likelihood: p(x | z1).
        guide: top-down, which can be the posterior, or bottom-up, to compare.
        hidden: widths of the hidden layers next to x; between levels there is one layer of the
            first width.
        objective: what training maximises.
        particles: draws per datum that the objective takes.
    """
    if latent is not None and not latent:
        raise PairError("latent [] names no level; give at least one size, such as [10, 5]", unused="latent")
    sizes = latent or [parts.latent_size(spec, None), parts.latent_size(spec, None) // 2]
    wide = (parts.first(hidden),)
    above = list(zip(sizes[1:], sizes[:-1], strict=True))[::-1]  # (size of zl+1, size of zl), from the top down
    p_z = [parts.between(up, Normal(size), hidden=wide, start=True) for up, size in above]
    p_x = parts.decoder(spec, sizes[0], likelihood_of(spec, likelihood), hidden=tuple(hidden[::-1]))
    model = HierarchicalModel(StandardNormal(sizes[-1]), p_z, p_x)
    if guide == "bottom-up":
        steps = [parts.between(size, Normal(up), hidden=wide) for up, size in above[::-1]]
        q = BottomUpGuide([parts.encoder(spec, Normal(sizes[0]), hidden=tuple(hidden)), *steps])
        return Pair(model, q, parts.objective(spec, objective, particles))
    nets = [parts.up(spec, hidden=tuple(hidden)), *(parts.step(hidden[-1]) for _ in above)]
    q_top = parts.between(hidden[-1], Normal(sizes[-1]), hidden=())
    q_z = [parts.between(hidden[-1] + up, Normal(size), hidden=wide) for up, size in above]
    return Pair(model, HierarchicalGuide(nets, q_top, q_z), parts.objective(spec, objective, particles))
