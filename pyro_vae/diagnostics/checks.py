"""The checks of ``diagnose`` in their order, one function per question.

Each judges a few figures and says what they mean. Thresholds are rules of thumb and stand beside
their reasons. A check that does not apply raises ``LeftOut`` or ``PairError``.
"""

from pyro_vae.diagnostics import code_checks, evidence_checks, guide_checks, latent_checks, model_checks
from pyro_vae.diagnostics.subject import Check, few_levels

CHECKS: dict[str, Check] = {
    "log p(x)": evidence_checks.evidence,
    "gaps": few_levels(guide_checks.suboptimality),
    "k-hat": guide_checks.pareto,
    "guide refit": few_levels(guide_checks.retraining),
    "active units": few_levels(latent_checks.use_of_latents),
    "codes": code_checks.use_of_codes,
    "aggregate posterior": few_levels(latent_checks.aggregate),
    "simulation-based calibration": few_levels(guide_checks.calibration),
    "annealing": few_levels(evidence_checks.annealed),
    "NUTS": few_levels(guide_checks.reference),
    "prior predictive": model_checks.predictions,
    "pixel calibration": model_checks.pixels,
    "samples": model_checks.samples,
    "classes covered": model_checks.classes,
    "probes": few_levels(latent_checks.codes),
}
"""By name; later checks read what earlier ones found."""
