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
from pyro_vae.posterior.words import (
    CodeUse,
    at_temperature,
    code_use,
    codebooks,
    temperatures,
    use_in_words,
    words,
)

__all__ = [
    "ACTIVE_VARIANCE",
    "CodeUse",
    "NotDrawable",
    "active_units",
    "at_temperature",
    "centres",
    "code_sites",
    "code_use",
    "codebooks",
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
    "temperatures",
    "use_in_words",
    "variance_of_means",
    "words",
    "write_codes",
]
