"""Pairs that are given labels or attributes y: z, y -> x."""

from typing import Literal

import torch
from torch import nn

from pyro_vae.conditionals import FixedPrior, Normal, StandardNormal
from pyro_vae.data import Spec
from pyro_vae.guides.conditional import ConditionalGuide
from pyro_vae.guides.latent import LatentGuide
from pyro_vae.models.conditional import ConditionalModel
from pyro_vae.options import Count
from pyro_vae.pairs import factory as parts
from pyro_vae.pairs.likelihoods import Likelihood
from pyro_vae.pairs.likelihoods import likelihood as likelihood_of
from pyro_vae.pairs.registry import pair
from pyro_vae.program import Pair


@pair
def conditional(
    spec: Spec,
    *,
    latent: Count | None = None,
    likelihood: Likelihood = "auto",
    prior: Literal["fixed", "learned"] | nn.Module = "fixed",
    hidden: list[Count] = [500, 500],  # noqa: B006
    objective: parts.Objective = "elbo",
    particles: Count = 1,
) -> Pair:
    """z, y -> x: given class labels or attributes y, with an encoder for q(z | x, y).

    Args:
        latent: size of z; 10 for small data and 40 from a hundred features on.
        likelihood: p(x | z, y).
        prior: p(z | y); fixed is standard normal whatever y, learned a Gaussian for each y.
        hidden: widths of the hidden layers.
        objective: what training maximises.
        particles: draws per datum that the objective takes.
    """
    size = parts.latent_size(spec, latent)
    embed, width = parts.condition(spec)
    if isinstance(prior, nn.Module):
        p_z = parts.fitting_prior(prior, size, torch.zeros(1, width))
    elif prior == "learned":
        p_z = parts.between(width, Normal(size), hidden=(), start=True)
    else:
        p_z = FixedPrior(StandardNormal(size))
    p_x = parts.decoder(spec, size + width, likelihood_of(spec, likelihood), hidden=tuple(hidden[::-1]))
    q_z = parts.encoder(spec, Normal(size), context=width, hidden=tuple(hidden))
    model, guide = ConditionalModel(embed, p_z, p_x), ConditionalGuide(embed, q_z)
    return Pair(model, guide, parts.objective(spec, objective, particles))


@pair
def attribute(
    spec: Spec,
    *,
    latent: Count | None = None,
    likelihood: Likelihood = "auto",
    hidden: list[Count] = [500, 500],  # noqa: B006
    objective: parts.Objective = "elbo",
    particles: Count = 1,
) -> Pair:
    """z, y -> x with an encoder that is not told y: a datum's z with another y is the datum edited.

    Args:
        latent: size of z; 10 for small data and 40 from a hundred features on.
        likelihood: p(x | z, y).
        hidden: widths of the hidden layers.
        objective: what training maximises.
        particles: draws per datum that the objective takes.
    """
    size = parts.latent_size(spec, latent)
    embed, width = parts.condition(spec)
    p_x = parts.decoder(spec, size + width, likelihood_of(spec, likelihood), hidden=tuple(hidden[::-1]))
    q_z = parts.encoder(spec, Normal(size), hidden=tuple(hidden))
    model = ConditionalModel(embed, FixedPrior(StandardNormal(size)), p_x)
    return Pair(model, LatentGuide(q_z), parts.objective(spec, objective, particles))
