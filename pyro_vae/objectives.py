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

from collections.abc import Callable

from pyro.infer import ELBO, Trace_ELBO, TraceEnum_ELBO

from pyro_vae.aggregate import MaximumMeanDiscrepancy, TotalCorrelation, squared_mmd, stratified_weights
from pyro_vae.bounds import AnalyticKL, Bound, ImportanceWeighted, Objective, Renyi, ReweightedWakeSleep
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

OBJECTIVES: dict[str, Callable[[int, int], ELBO]] = {
    "elbo": lambda particles, num_data: Trace_ELBO(num_particles=particles),
    "analytic-kl": lambda particles, num_data: AnalyticKL(particles),
    "stl": lambda particles, num_data: StickingTheLanding(particles),
    "iwae": lambda particles, num_data: ImportanceWeighted(particles),
    "dreg": lambda particles, num_data: DoublyReparameterized(particles),
    "renyi": lambda particles, num_data: Renyi(particles),
    "rws": lambda particles, num_data: ReweightedWakeSleep(particles),
    "total-correlation": lambda particles, num_data: TotalCorrelation(particles, num_data=num_data),
    "mmd": lambda particles, num_data: MaximumMeanDiscrepancy(particles),
    "enumeration": lambda particles, num_data: TraceEnum_ELBO(num_particles=particles, max_plate_nesting=1),
}
"""Objectives by name, made for a number of draws a datum and a number of data."""
