"""Are posterior and model any good? `diagnose`, its checks, and the DataTree for ArviZ."""

from pyro_vae.diagnostics.calibration import averaged, calibrate
from pyro_vae.diagnostics.checks import CHECKS
from pyro_vae.diagnostics.criticism import neighbours, pixel_calibration, predictive_checks, two_sample
from pyro_vae.diagnostics.datatree import to_datatree
from pyro_vae.diagnostics.diagnosis import BUDGETS, Diagnosis, diagnose, expected_seconds
from pyro_vae.diagnostics.elbo_surgery import surgery
from pyro_vae.diagnostics.inference_gaps import gaps, refit_guide
from pyro_vae.diagnostics.model_checks import pixels
from pyro_vae.diagnostics.reference import Nuts, compare, grid_posterior, nuts
from pyro_vae.diagnostics.subject import Budget, Subject

__all__ = [
    "BUDGETS",
    "CHECKS",
    "Budget",
    "Diagnosis",
    "Nuts",
    "Subject",
    "averaged",
    "calibrate",
    "compare",
    "diagnose",
    "expected_seconds",
    "gaps",
    "grid_posterior",
    "neighbours",
    "nuts",
    "pixel_calibration",
    "pixels",
    "predictive_checks",
    "refit_guide",
    "surgery",
    "to_datatree",
    "two_sample",
]
