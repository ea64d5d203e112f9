"""Are posterior and model any good? `diagnose`, its checks, and the DataTree for ArviZ."""

from pyro_vae.diagnostics.calibration import averaged, calibrate
from pyro_vae.diagnostics.checks import CHECKS
from pyro_vae.diagnostics.coverage import classes_covered, copies, coverage
from pyro_vae.diagnostics.criticism import (
    frechet,
    neighbours,
    pixel_calibration,
    predictive_checks,
    probes,
    two_sample,
)
from pyro_vae.diagnostics.datatree import to_datatree
from pyro_vae.diagnostics.density_ratios import DensityRatio, density_ratio
from pyro_vae.diagnostics.diagnosis import BUDGETS, Diagnosis, diagnose, expected_seconds
from pyro_vae.diagnostics.elbo_surgery import surgery
from pyro_vae.diagnostics.inference_gaps import gaps, refit_guide
from pyro_vae.diagnostics.judge import Judge, judge_of
from pyro_vae.diagnostics.model_checks import pixels
from pyro_vae.diagnostics.reference import Nuts, compare, grid_posterior, nuts
from pyro_vae.diagnostics.subject import Budget, Subject

__all__ = [
    "BUDGETS",
    "CHECKS",
    "Budget",
    "DensityRatio",
    "Diagnosis",
    "Judge",
    "Nuts",
    "Subject",
    "averaged",
    "calibrate",
    "classes_covered",
    "compare",
    "copies",
    "coverage",
    "density_ratio",
    "diagnose",
    "expected_seconds",
    "frechet",
    "gaps",
    "grid_posterior",
    "judge_of",
    "neighbours",
    "nuts",
    "pixel_calibration",
    "pixels",
    "predictive_checks",
    "probes",
    "refit_guide",
    "surgery",
    "to_datatree",
    "two_sample",
]
