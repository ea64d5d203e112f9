"""The size of log p(x): ELBO by site, importance sampling, annealing, k-hat, and evaluation."""

from pyro_vae.evidence.ais import anneal, sandwich
from pyro_vae.evidence.baselines import maximum_likelihood, pca_figures
from pyro_vae.evidence.chunks import Chunks
from pyro_vae.evidence.estimate import MAX_ROWS, ElboTable, Evidence, elbo, log_evidence, table_of
from pyro_vae.evidence.evaluation import bound, collect, evaluate, global_sites, own_figure, quick_samples
from pyro_vae.evidence.figures import (
    TOLERATED,
    Figures,
    annealed_words,
    baseline,
    believable,
    bits_per_dimension,
    evidence_words,
    remarks,
    rows,
)
from pyro_vae.evidence.many_levels import FEW, draws_for, folded, latent_sites, rows_together
from pyro_vae.evidence.meaning import FAILURES, Meaning, meaning_of, undreamable
from pyro_vae.evidence.normalizer import TEMPERATURES, normalized
from pyro_vae.evidence.particle_filter import filtered_evidence
from pyro_vae.evidence.psis import khat_of_tail, tail_size
from pyro_vae.evidence.queries import Answer, query
from pyro_vae.evidence.temperature import best_temperature
from pyro_vae.posterior import ACTIVE_VARIANCE, active_units, posterior_means
from pyro_vae.program import log_weights

__all__ = [
    "ACTIVE_VARIANCE",
    "FAILURES",
    "FEW",
    "MAX_ROWS",
    "TEMPERATURES",
    "TOLERATED",
    "Answer",
    "Chunks",
    "ElboTable",
    "Evidence",
    "Figures",
    "Meaning",
    "active_units",
    "anneal",
    "annealed_words",
    "baseline",
    "believable",
    "best_temperature",
    "bits_per_dimension",
    "bound",
    "collect",
    "draws_for",
    "elbo",
    "evaluate",
    "evidence_words",
    "filtered_evidence",
    "folded",
    "global_sites",
    "khat_of_tail",
    "latent_sites",
    "log_evidence",
    "log_weights",
    "maximum_likelihood",
    "meaning_of",
    "normalized",
    "own_figure",
    "pca_figures",
    "posterior_means",
    "query",
    "quick_samples",
    "remarks",
    "rows",
    "rows_together",
    "sandwich",
    "table_of",
    "tail_size",
    "undreamable",
]
