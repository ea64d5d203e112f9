"""Pairs of one latent vector per datum, for data with missing entries."""

from pyro_vae.conditionals import Filled, OfSeen
from pyro_vae.data import Spec
from pyro_vae.guides.incomplete import IncompleteGuide
from pyro_vae.models.incomplete import IncompleteModel
from pyro_vae.options import Count
from pyro_vae.pairs import factory as parts
from pyro_vae.pairs.likelihoods import Likelihood
from pyro_vae.pairs.likelihoods import likelihood as likelihood_of
from pyro_vae.pairs.registry import pair, takes_missing
from pyro_vae.program import Pair


@takes_missing
@pair
def incomplete(
    spec: Spec,
    *,
    latent: Count | None = None,
    likelihood: Likelihood = "auto",
    covariance: parts.Covariance = "diagonal",
    hidden: list[Count] = [500, 500],  # noqa: B006 (read only; jsonargparse shows it)
    objective: parts.Objective = "elbo",
    particles: Count = 1,
) -> Pair:
    """z -> x with missing entries (NaN in the data): the likelihood skips them, the encoder knows which.

    Args:
        latent: size of z; 10 for small data and 40 from a hundred features on.
        likelihood: p(x | z), features independent given z.
        covariance: of the Gaussian q(z | x, seen).
        hidden: widths of the hidden layers.
        objective: what training maximises; iwae gives MIWAE.
        particles: draws per datum that the objective takes.
    """
    size = parts.latent_size(spec, latent)
    p_x = parts.decoder(spec, size, likelihood_of(spec, likelihood), hidden=tuple(hidden[::-1]))
    q_z = parts.encoder(spec, parts.posterior_head(size, covariance), context=spec.features, hidden=tuple(hidden))
    p_z = parts.prior(spec, "normal", size, q_z, None)
    model, guide = IncompleteModel(p_z, OfSeen(p_x)), IncompleteGuide(Filled(q_z, spec.mean))
    return Pair(model, guide, parts.objective(spec, objective, particles))
