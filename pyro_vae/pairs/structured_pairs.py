"""Pairs that complete a datum of which some features are given: x_in -> z, x_in, z -> x_out."""

import torch

from pyro_vae.conditionals import Normal
from pyro_vae.data import Spec
from pyro_vae.guides.latent import LatentGuide
from pyro_vae.models.structured import StructuredModel
from pyro_vae.options import Count
from pyro_vae.pairs import factory as parts
from pyro_vae.pairs.likelihoods import Likelihood
from pyro_vae.pairs.likelihoods import likelihood as likelihood_of
from pyro_vae.pairs.registry import pair
from pyro_vae.pairs.units import Units
from pyro_vae.program import Pair


@pair
def structured(
    spec: Spec,
    *,
    latent: Count | None = None,
    likelihood: Likelihood = "auto",
    quadrants: Count = 1,
    hidden: list[Count] = [500, 500],  # noqa: B006
    objective: parts.Objective = "elbo",
    particles: Count = 1,
) -> Pair:
    """x_in -> z, x_in, z -> x_out: complete an image of which 1, 2 or 3 quadrants are given.

    Args:
        latent: size of z; 10 for small data and 40 from a hundred features on.
        likelihood: p(x_out | x_in, z).
        quadrants: how many are given.
        hidden: widths of the hidden layers.
        objective: what training maximises.
        particles: draws per datum that the objective takes.
    """
    size = parts.latent_size(spec, latent)
    given = parts.quadrants(spec, quadrants)
    x_in, x_out = parts.selected(spec, given), parts.selected(spec, ~given)
    p_z = parts.encoder(x_in, Normal(size), hidden=tuple(hidden), scaling="common")
    p_z.start_at(torch.zeros(size), torch.ones(size))
    head = likelihood_of(x_out, likelihood, "common")  # parts of an image have one unit, as the whole
    inputs, units = size + x_in.features, Units.of(x_in, "common")
    p_x = parts.decoder(x_out, inputs, head, given=units, hidden=tuple(hidden[::-1]))
    q_z = parts.encoder(spec, Normal(size), hidden=tuple(hidden))
    return Pair(StructuredModel(given, p_z, p_x), LatentGuide(q_z), parts.objective(spec, objective, particles))
