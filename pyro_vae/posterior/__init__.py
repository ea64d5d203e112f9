"""What the posterior gives: predictive draws, latent means, decoding, active units, codes."""

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
    prior_moments,
    variance_of_means,
)
from pyro_vae.posterior.predictive import (
    distribution_of_x,
    generate,
    observed_sites,
    reconstruct,
    repeat_batch,
    shown,
)
from pyro_vae.posterior.usage import ACTIVE_VARIANCE, active_units, posterior_means

__all__ = [
    "ACTIVE_VARIANCE",
    "NotDrawable",
    "active_units",
    "centres",
    "code_sites",
    "decode",
    "dimensions_of_prior",
    "distribution_of_x",
    "draw_latents",
    "encode",
    "generate",
    "kl_by_dimension",
    "latent_vectors",
    "observed_sites",
    "posterior_means",
    "prior_moments",
    "reconstruct",
    "repeat_batch",
    "shown",
    "variance_of_means",
    "write_codes",
]
