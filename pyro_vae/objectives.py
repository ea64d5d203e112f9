"""Objectives that Pyro lacks or gets wrong: Pyro ELBOs, so ``objective(model, guide)(x)`` is a differentiable module.

Per datum i with draws z_k ~ q(z | x), k = 1..K, and log w_k = log p(x, z_k) - log q(z_k | x):

    Trace_ELBO              mean_k log w_k                                  Pyro's own, the default
    AnalyticKL              the same, each KL by formula where there is one
    StickingTheLanding      the same, gradient without the score of q
    ImportanceWeighted      log mean_k w_k
    DoublyReparameterized   the same, gradient without the score of q
    Renyi                   log mean_k w_k^(1 - alpha) / (1 - alpha)
    ReweightedWakeSleep     log mean_k w_k for p; cross-entropy of the weighed draws for q
    TotalCorrelation        the ELBO with the KL's total correlation weighed
    MaximumMeanDiscrepancy  E log p(x | z) - weight * MMD(q(z), p(z))
    TraceEnum_ELBO          Pyro's own, for sites that are summed over

Weights are formed per datum, never pooled over the batch, and each datum's bound is weighed as the programs weigh the datum
(``PerDatum``, subsampling), so losses are in the unit that the handlers ask for. Handlers that weigh latent sites
(``Tempered``) act inside the weights.
"""

from pyro.infer import ELBO, Trace_ELBO

from pyro_vae.aggregate import MaximumMeanDiscrepancy, TotalCorrelation, squared_mmd, stratified_weights
from pyro_vae.bounds import AnalyticKL, Bound, ImportanceWeighted, Objective, Renyi, ReweightedWakeSleep
from pyro_vae.options import Registry
from pyro_vae.pathwise import DoublyReparameterized, PathDerivative, StickingTheLanding

__all__ = [
    "OBJECTIVES",
    "AnalyticKL",
    "Bound",
    "DoublyReparameterized",
    "ImportanceWeighted",
    "MaximumMeanDiscrepancy",
    "Objective",
    "PathDerivative",
    "Renyi",
    "ReweightedWakeSleep",
    "StickingTheLanding",
    "TotalCorrelation",
    "squared_mmd",
    "stratified_weights",
]

OBJECTIVES = Registry("objective")
"""Objectives by name, made for a number of draws per datum and a number of data."""


@OBJECTIVES.enter("elbo", "the ELBO, Pyro's own")
def elbo(particles: int, num_data: int) -> ELBO:
    """Return Pyro's ELBO."""
    return Trace_ELBO(num_particles=particles)


for _name, _line, _kind in (
    ("analytic-kl", "the ELBO, each KL by formula where there is one", AnalyticKL),
    ("stl", "the ELBO, its gradient without the score of q", StickingTheLanding),
    ("iwae", "the importance-weighted bound", ImportanceWeighted),
    ("dreg", "the importance-weighted bound, its gradient without the score of q", DoublyReparameterized),
    ("renyi", "the Renyi bound of order 1/2", Renyi),
    ("rws", "reweighted wake-sleep, which needs no reparameterised draws", ReweightedWakeSleep),
):
    OBJECTIVES.enter(_name, _line)(lambda particles, num_data, kind=_kind: kind(particles))


@OBJECTIVES.enter("total-correlation", "the ELBO with the KL's total correlation weighted, for independent dimensions")
def total_correlation(particles: int, num_data: int) -> ELBO:
    """Return the objective of a beta-TC-VAE."""
    return TotalCorrelation(particles, num_data=num_data)


@OBJECTIVES.enter("mmd", "reconstruction and how far q(z) is from p(z), no bound")
def mmd(particles: int, num_data: int) -> ELBO:
    """Return the objective of an InfoVAE."""
    return MaximumMeanDiscrepancy(particles)
