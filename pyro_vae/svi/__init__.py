"""Stochastic variational inference, eager or compiled: `SVI`, its step and its optimizers."""

from pyro_vae.svi.blocks import Schedule
from pyro_vae.svi.eager import EagerWarning
from pyro_vae.svi.exchange import Exchange, FailedOnFirstProcess, ProcessLost, World
from pyro_vae.svi.svi import SVI, Mode

__all__ = [
    "SVI",
    "EagerWarning",
    "Exchange",
    "FailedOnFirstProcess",
    "Mode",
    "ProcessLost",
    "Schedule",
    "World",
]
