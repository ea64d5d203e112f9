"""Pairs that are linear and Gaussian, with closed forms."""

from typing import Literal

from pyro_vae.data import Spec
from pyro_vae.guides.linear import LinearGuide
from pyro_vae.models.linear import LinearModel
from pyro_vae.options import Count
from pyro_vae.pairs import factory as parts
from pyro_vae.pairs.registry import pair
from pyro_vae.pairs.units import Units
from pyro_vae.program import Pair


@pair
def linear(spec: Spec, *, latent: Count | None = None, noise: Literal["scalar", "per-feature"] = "scalar") -> Pair:
    """Probabilistic PCA or factor analysis, with its exact posterior as guide.

    Args:
        latent: size of z; 10 for small data and 40 from a hundred features on.
        noise: scalar (probabilistic PCA) or per-feature (factor analysis).
    """
    size, scalar = parts.latent_size(spec, latent), noise == "scalar"
    units = Units.of(spec, "common" if scalar else "feature")  # one noise scale is one in the data's own units
    model = LinearModel(size, spec.features, 1 if scalar else spec.features, units)
    return Pair(model, LinearGuide(model))
