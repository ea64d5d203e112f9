"""The objectives by name."""

from pyro.infer import ELBO, Trace_ELBO

from pyro_vae.objectives.aggregate_posterior import (
    MaximumMeanDiscrepancy,
    TotalCorrelation,
)
from pyro_vae.objectives.analytic_kl import AnalyticKL
from pyro_vae.objectives.importance import ImportanceWeighted, Renyi
from pyro_vae.objectives.one_level import OneLevel
from pyro_vae.objectives.path_derivative import DoublyReparameterized, StickingTheLanding
from pyro_vae.objectives.wake_sleep import ReweightedWakeSleep
from pyro_vae.options import Registry

__all__ = ["OBJECTIVES"]

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
    ("one-level", "the ELBO of a chain of many levels, at one of them per datum (diffusion)", OneLevel),
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
