"""Distributions that torch and Pyro lack."""

from pyro_vae.distributions.autoregressive import Autoregressive, MaskedNet, by_feature
from pyro_vae.distributions.codebook import Codebook, distances, nearest
from pyro_vae.distributions.continuous_bernoulli import ContinuousBernoulli
from pyro_vae.distributions.copies import IMPOSSIBLE, Copies
from pyro_vae.distributions.levels import STD_OF_LOGISTIC, CategoricalLevels, DiscretizedLogistic, Levels
from pyro_vae.distributions.rescaled import Rescaled
from pyro_vae.distributions.splines import BOX, ConditionalSplineAutoregressive, ConditionalSplineCoupling, spline
from pyro_vae.distributions.tilted import Tilted

__all__ = [
    "BOX",
    "IMPOSSIBLE",
    "STD_OF_LOGISTIC",
    "Autoregressive",
    "CategoricalLevels",
    "Codebook",
    "ConditionalSplineAutoregressive",
    "ConditionalSplineCoupling",
    "ContinuousBernoulli",
    "Copies",
    "DiscretizedLogistic",
    "Levels",
    "MaskedNet",
    "Rescaled",
    "Tilted",
    "by_feature",
    "distances",
    "nearest",
    "spline",
]
