"""The checks of ``diagnose`` in their order, one function per question.

Each judges a few figures and says what they mean. Thresholds are rules of thumb and stand beside
their reasons. A check that does not apply raises ``LeftOut`` or ``PairError``.
"""

from collections.abc import Callable, Iterable

from pyro_vae.diagnostics import code_checks, evidence_checks, guide_checks, latent_checks, model_checks
from pyro_vae.diagnostics.subject import Subject, Verdict

CHECKS: dict[str, Callable[[Subject], Iterable[Verdict]]] = {
    "log p(x)": evidence_checks.evidence,
    "gaps": guide_checks.suboptimality,
    "k-hat": guide_checks.pareto,
    "guide refit": guide_checks.retraining,
    "active units": latent_checks.use_of_latents,
    "codes": code_checks.use_of_codes,
    "aggregate posterior": latent_checks.aggregate,
    "simulation-based calibration": guide_checks.calibration,
    "annealing": evidence_checks.annealed,
    "NUTS": guide_checks.reference,
    "prior predictive": model_checks.predictions,
    "pixel calibration": model_checks.pixels,
    "samples": model_checks.samples,
    "probes": latent_checks.codes,
}
"""By name; later checks read what earlier ones found."""
