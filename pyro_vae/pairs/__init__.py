"""The zoo: ready-made pairs by name, ``pairs.latent(spec, ...)``, from data's description and
options.

Each family of pairs is a file; each of its functions builds a model and a guide from finished
parts.
"""

# in the order in which the command line lists them
# isort: off
from pyro_vae.pairs import (
    latent_pairs as latent_pairs,
    incomplete_pairs as incomplete_pairs,
    quantized_pairs as quantized_pairs,
    conditional_pairs as conditional_pairs,
    hierarchical_pairs as hierarchical_pairs,
    diffusion_pairs as diffusion_pairs,
    semi_supervised_pairs as semi_supervised_pairs,
    structured_pairs as structured_pairs,
    grouped_pairs as grouped_pairs,
    semi_amortized_pairs as semi_amortized_pairs,
    linear_pairs as linear_pairs,
    density_pairs as density_pairs,
    reversible_pairs as reversible_pairs,
    adversarial_pairs as adversarial_pairs,
    mixture_pairs as mixture_pairs,
    bayes_net_pairs as bayes_net_pairs,
    markov_pairs as markov_pairs,
    sequence_pairs as sequence_pairs,
)

# isort: on
from pyro_vae.pairs.own_files import file_of, source_of
from pyro_vae.pairs.registry import MISSING, PAIRS, Builder, find, pair, recorded
from pyro_vae.pairs.units import Units

__all__ = ["MISSING", "PAIRS", "Builder", "Units", "file_of", "find", "pair", "recorded", "source_of"]


def __getattr__(name: str) -> Builder:
    """Return the pair called ``name``."""
    if name in PAIRS:
        return PAIRS[name]
    raise AttributeError(f"module 'pyro_vae.pairs' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*__all__, *PAIRS})
