"""The zoo: ready-made pairs by name, from data's description and typed options."""

from pyro_vae.pairs.registry import (
    PAIRS,
    attribute,
    autoencoder,
    conditional,
    find,
    flow,
    grouped,
    hierarchical,
    latent,
    linear,
    pair,
    recorded,
    semi_amortized,
    semi_supervised,
    structured,
)
from pyro_vae.pairs.units import Units

__all__ = [
    "PAIRS",
    "Units",
    "attribute",
    "autoencoder",
    "conditional",
    "find",
    "flow",
    "grouped",
    "hierarchical",
    "latent",
    "linear",
    "pair",
    "recorded",
    "semi_amortized",
    "semi_supervised",
    "structured",
]
