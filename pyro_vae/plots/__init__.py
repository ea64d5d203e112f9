"""Pictures of a trained pair: each function returns a matplotlib figure and needs no display."""

from pyro_vae.plots.adversarial import beside, critic
from pyro_vae.plots.boltzmann import bracket, chains, filters
from pyro_vae.plots.charts import curves, kl, rate_distortion, scatter
from pyro_vae.plots.comparison import bars
from pyro_vae.plots.completion import completions
from pyro_vae.plots.components import components, frames, steps
from pyro_vae.plots.diffusion import denoising, few_steps, nats_per_level, noising
from pyro_vae.plots.features import growth, nats
from pyro_vae.plots.graphical_model import graph
from pyro_vae.plots.labels import analogies, attributes, classes
from pyro_vae.plots.latent_space import interpolation, manifold, traversal
from pyro_vae.plots.registry import OF_HISTORY, PICTURES, levels, reconstructions, samples
from pyro_vae.plots.reversible import through_noise
from pyro_vae.plots.sequences import rolls, states
from pyro_vae.plots.tables import tables
from pyro_vae.plots.tiles import BLUE, GREY, NORMAL, ORANGE, SMALL, page, sheet
from pyro_vae.posterior import NotDrawable

__all__ = [
    "BLUE",
    "GREY",
    "NORMAL",
    "OF_HISTORY",
    "ORANGE",
    "PICTURES",
    "SMALL",
    "NotDrawable",
    "analogies",
    "attributes",
    "bars",
    "beside",
    "bracket",
    "chains",
    "classes",
    "completions",
    "components",
    "critic",
    "curves",
    "denoising",
    "few_steps",
    "filters",
    "frames",
    "graph",
    "growth",
    "interpolation",
    "kl",
    "levels",
    "manifold",
    "nats",
    "nats_per_level",
    "noising",
    "page",
    "rate_distortion",
    "reconstructions",
    "rolls",
    "samples",
    "scatter",
    "sheet",
    "states",
    "steps",
    "tables",
    "through_noise",
    "traversal",
]
