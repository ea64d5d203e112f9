"""Pairs whose datum is a group of items: v, w -> x."""

from pyro_vae.conditionals import Normal, StandardNormal
from pyro_vae.data import Spec
from pyro_vae.guides.grouped import GroupedGuide
from pyro_vae.models.grouped import GroupedModel
from pyro_vae.options import Count
from pyro_vae.pairs import factory as parts
from pyro_vae.pairs.likelihoods import Likelihood
from pyro_vae.pairs.likelihoods import likelihood as likelihood_of
from pyro_vae.pairs.registry import pair
from pyro_vae.program import Pair


@pair
def grouped(
    spec: Spec,
    *,
    items: Count | None = None,
    group_latent: Count | None = None,
    latent: Count | None = None,
    likelihood: Likelihood = "auto",
    hidden: list[Count] = [200, 200],  # noqa: B006
    objective: parts.Objective = "elbo",
    particles: Count = 1,
) -> Pair:
    """v, w -> x: a datum is a group of items, v is what they share and w each item's own.

    Args:
        items: items per group, which x holds side by side; the size of the data's field mask if
            there is one.
        group_latent: size of v; 10 for small data and 40 from a hundred features on.
        latent: size of w; likewise.
        likelihood: p(x | v, w) of an item.
        hidden: widths of the hidden layers.
        objective: what training maximises.
        particles: draws per group that the objective takes.
    """
    count, item = parts.items(spec, items)
    shared, own = parts.latent_size(item, group_latent), parts.latent_size(item, latent)
    p_x = parts.decoder(item, shared + own, likelihood_of(item, likelihood), hidden=tuple(hidden[::-1]))
    up = parts.up(item, hidden=tuple(hidden))
    q_v = parts.between(hidden[-1] + 1, Normal(shared), hidden=tuple(hidden[:1]))
    q_w = parts.encoder(item, Normal(own), context=shared, hidden=tuple(hidden))
    model = GroupedModel(count, StandardNormal(shared), StandardNormal(own), p_x)
    guide = GroupedGuide(count, up, q_v, q_w)
    return Pair(model, guide, parts.objective(spec, objective, particles))
