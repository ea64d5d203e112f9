"""What the posterior gives: predictive draws, latent means and decoding, the use of dimensions, codes."""

from pyro_vae.posterior.codes import encode, write_codes
from pyro_vae.posterior.latents import (
    NotDrawable,
    centres,
    code_sites,
    decode,
    dimensions_of_prior,
    draw_latents,
    kl_by_dimension,
    latent_vectors,
    prior_spread,
    spread_by_dimension,
)
from pyro_vae.posterior.predictive import generate, observed_sites, reconstruct, spread_over
from pyro_vae.posterior.usage import ACTIVE_VARIANCE, active_units, posterior_means

__all__ = [
    "ACTIVE_VARIANCE",
    "NotDrawable",
    "active_units",
    "centres",
    "code_sites",
    "decode",
    "dimensions_of_prior",
    "draw_latents",
    "encode",
    "generate",
    "kl_by_dimension",
    "latent_vectors",
    "observed_sites",
    "posterior_means",
    "prior_spread",
    "reconstruct",
    "spread_by_dimension",
    "spread_over",
    "write_codes",
]
