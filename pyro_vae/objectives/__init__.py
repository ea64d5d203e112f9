"""Objectives that Pyro lacks or gets wrong: Pyro ELBOs, so ``objective(model, guide)(x)`` is a
differentiable module.

Per datum i with draws z_k ~ q(z | x), k = 1..K, and log w_k = log p(x, z_k) - log q(z_k | x):

    Trace_ELBO              mean_k log w_k                                  Pyro's own, the default
    AnalyticKL              the same, each KL by formula where there is one
    StickingTheLanding      the same, gradient without the score of q
    ImportanceWeighted      log mean_k w_k
    DoublyReparameterized   the same, gradient without the score of q
    Renyi                   log mean_k w_k^(1 - alpha) / (1 - alpha)
    ReweightedWakeSleep     log mean_k w_k for p; cross-entropy of the weighted draws for q
    TotalCorrelation        the ELBO with the KL's total correlation weighted
    MaximumMeanDiscrepancy  E log p(x | z) - weight * MMD(q(z), p(z))
    FreeEnergyContrast      F of the chains' draws - F(x), for models known up to a constant
    Adversarial             a bound on the divergence of data and draws, for models without a density
    OneLevel                the ELBO of a chain, its KL at one level per datum
    TraceEnum_ELBO          Pyro's own, for sites that are summed over
    Dreaming                any of them, and E_p log q(z | x) of drawn z, x for the guide
    InPieces                any of them, its gradient added up over pieces of the batch

Weights are formed per datum, never pooled over the batch, and each datum's bound is scaled as the
programs scale the datum (``PerDatum``, subsampling), so that losses are in the unit that the
handlers ask for. Handlers that scale latent sites (``Tempered``) act inside the weights.
"""

from pyro_vae.objectives.adversarial import LOG_2, Adversarial, critic_gain, divergence_bound
from pyro_vae.objectives.aggregate_posterior import (
    MaximumMeanDiscrepancy,
    TotalCorrelation,
    squared_mmd,
    stratified_weights,
)
from pyro_vae.objectives.analytic_kl import AnalyticKL
from pyro_vae.objectives.contrast import FreeEnergyContrast
from pyro_vae.objectives.dreaming import Dreaming
from pyro_vae.objectives.importance import ImportanceWeighted, LogWeightBound, Renyi
from pyro_vae.objectives.in_pieces import InPieces
from pyro_vae.objectives.objective import Objective
from pyro_vae.objectives.one_level import OneLevel
from pyro_vae.objectives.path_derivative import DoublyReparameterized, PathDerivative, StickingTheLanding
from pyro_vae.objectives.registry import OBJECTIVES
from pyro_vae.objectives.wake_sleep import ReweightedWakeSleep

__all__ = [
    "LOG_2",
    "OBJECTIVES",
    "Adversarial",
    "AnalyticKL",
    "DoublyReparameterized",
    "Dreaming",
    "FreeEnergyContrast",
    "ImportanceWeighted",
    "InPieces",
    "LogWeightBound",
    "MaximumMeanDiscrepancy",
    "Objective",
    "OneLevel",
    "PathDerivative",
    "Renyi",
    "ReweightedWakeSleep",
    "StickingTheLanding",
    "TotalCorrelation",
    "critic_gain",
    "divergence_bound",
    "squared_mmd",
    "stratified_weights",
]
