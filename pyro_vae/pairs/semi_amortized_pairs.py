"""Pairs whose guide refines the encoder's answer for each datum."""

from pyro_vae.conditionals import StandardNormal
from pyro_vae.data import Spec
from pyro_vae.guides.semi_amortized import SemiAmortizedGuide
from pyro_vae.models.latent import LatentModel
from pyro_vae.options import Count, Positive, Whole
from pyro_vae.pairs import factory as parts
from pyro_vae.pairs.likelihoods import Likelihood
from pyro_vae.pairs.likelihoods import likelihood as likelihood_of
from pyro_vae.pairs.registry import pair
from pyro_vae.program import Pair, PairError


@pair
def semi_amortized(
    spec: Spec,
    *,
    latent: Count | None = None,
    likelihood: Likelihood = "auto",
    steps: Whole = 3,
    rate: Positive | None = None,
    hidden: list[Count] = [200, 200],  # noqa: B006
    objective: parts.Objective = "elbo",
    particles: Count = 1,
) -> Pair:
    """The latent model with an encoder whose answer a few gradient steps refine for each datum.

    Args:
        latent: size of z; 10 for small data and 40 from a hundred features on.
        likelihood: p(x | z).
        steps: of refinement; 0 is the latent pair.
        rate: of the steps; 0.2 by default.
        hidden: widths of the hidden layers.
        objective: what training maximises.
        particles: draws per datum that the objective takes.
    """
    if rate is not None and steps == 0:
        raise PairError(f"rate {rate} is the size of the steps, and --steps is 0; leave --rate out", unused="rate")
    size = parts.latent_size(spec, latent)
    p_x = parts.decoder(spec, size, likelihood_of(spec, likelihood), hidden=tuple(hidden[::-1]))
    model = LatentModel(StandardNormal(size), p_x)
    net = parts.to_numbers(spec, 2 * size, hidden=tuple(hidden))
    guide = SemiAmortizedGuide(model, net, size, steps=steps, rate=0.2 if rate is None else rate)
    return Pair(model, guide, parts.objective(spec, objective, particles))
