"""``fit``: the training loop, its settings, its processes and its progress."""

from pyro_vae.training.devices import resolve_device
from pyro_vae.training.distributed import join, launched
from pyro_vae.training.expectation_maximization import EM, Maximizable, owners_of
from pyro_vae.training.fitted import Fitted
from pyro_vae.training.fitting import (
    build_from_config,
    create_on_first_process,
    describe,
    em,
    fit,
    refuse_other_data,
)
from pyro_vae.training.interruption import Interrupted
from pyro_vae.training.machine import machine
from pyro_vae.training.nonfinite import NonFinite
from pyro_vae.training.optimizers import optimizer
from pyro_vae.training.programs import check_settings, weighted_programs
from pyro_vae.training.progress import Counter, Silent
from pyro_vae.training.run_state import Unsaved
from pyro_vae.training.settings import SettingsError, Training
from pyro_vae.training.stepper import Stepper
from pyro_vae.training.trainer import CHECKED_BATCH

__all__ = [
    "CHECKED_BATCH",
    "EM",
    "Counter",
    "Fitted",
    "Interrupted",
    "Maximizable",
    "NonFinite",
    "SettingsError",
    "Silent",
    "Stepper",
    "Training",
    "Unsaved",
    "build_from_config",
    "check_settings",
    "create_on_first_process",
    "describe",
    "em",
    "fit",
    "join",
    "launched",
    "machine",
    "optimizer",
    "owners_of",
    "refuse_other_data",
    "resolve_device",
    "weighted_programs",
]
