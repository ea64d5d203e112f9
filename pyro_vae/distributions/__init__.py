"""Distributions that torch and Pyro lack."""

from pyro_vae.distributions.autoregressive import Autoregressive, MaskedNet, by_feature
from pyro_vae.distributions.beside import Beside
from pyro_vae.distributions.binary import BinaryVector
from pyro_vae.distributions.boltzmann import MOST_UNITS, Boltzmann, Energy, LogZ, anneal_energy, states_of
from pyro_vae.distributions.cells import Cells, NormalCDF, Rounded
from pyro_vae.distributions.codebook import Codebook, distances, nearest
from pyro_vae.distributions.continuous_bernoulli import ContinuousBernoulli
from pyro_vae.distributions.copies import IMPOSSIBLE, Copies
from pyro_vae.distributions.counts import NegativeBinomial, Poisson
from pyro_vae.distributions.implicit import BITS, NO_DENSITY, Implicit, bits, levels_of, on_levels
from pyro_vae.distributions.levels import STD_OF_LOGISTIC, CategoricalLevels, DiscretizedLogistic, Levels
from pyro_vae.distributions.linear_paths import LinearPath
from pyro_vae.distributions.one_by_one import AutoregressiveAffine, ConditionalAffineAutoregressive
from pyro_vae.distributions.rescaled import Rescaled
from pyro_vae.distributions.splines import (
    BOX,
    AutoregressiveSpline,
    ConditionalSplineAutoregressive,
    ConditionalSplineCoupling,
    spline,
)
from pyro_vae.distributions.steps import Following, NextStep, Path, Recurrent, Steps
from pyro_vae.distributions.strokes import Stroke
from pyro_vae.distributions.tilted import Tilted

__all__ = [
    "BITS",
    "BOX",
    "IMPOSSIBLE",
    "MOST_UNITS",
    "NO_DENSITY",
    "STD_OF_LOGISTIC",
    "Autoregressive",
    "AutoregressiveAffine",
    "AutoregressiveSpline",
    "Beside",
    "BinaryVector",
    "Boltzmann",
    "CategoricalLevels",
    "Cells",
    "Codebook",
    "ConditionalAffineAutoregressive",
    "ConditionalSplineAutoregressive",
    "ConditionalSplineCoupling",
    "ContinuousBernoulli",
    "Copies",
    "DiscretizedLogistic",
    "Energy",
    "Following",
    "Implicit",
    "Levels",
    "LinearPath",
    "LogZ",
    "MaskedNet",
    "NegativeBinomial",
    "NextStep",
    "NormalCDF",
    "Path",
    "Poisson",
    "Recurrent",
    "Rescaled",
    "Rounded",
    "Steps",
    "Stroke",
    "Tilted",
    "anneal_energy",
    "bits",
    "by_feature",
    "distances",
    "levels_of",
    "nearest",
    "on_levels",
    "spline",
    "states_of",
]
