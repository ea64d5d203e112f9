"""The figures of a trained pair on a split, beside those of PCA of the same size; all in nats per datum."""

import math
from collections.abc import Callable
from typing import Any

import torch

from pyro_vae.data import Data
from pyro_vae.evidence import active_units, elbo, log_evidence, posterior_means
from pyro_vae.guides.linear import LinearGuide
from pyro_vae.models.linear import LinearModel, maximum_likelihood
from pyro_vae.pairing import Pair
from pyro_vae.predictive import reconstruct

ROWS = 500  # data a batch


def evaluate(
    pair: Pair,
    data: Data,
    *,
    split: str = "test",
    num_samples: int = 5000,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Return elbo, reconstruction, kl, log_evidence and more for one split.

    ``elbo`` = ``reconstruction`` - ``kl`` = the sum of ``sites``, at beta = 1; ``log_evidence`` is the importance-weighted log p(x) with
    ``num_samples`` draws a datum, ``log_evidence_stderr`` the Monte Carlo standard error of its mean and ``ess`` the median
    effective sample size. ``rms_error`` is that of the reconstruction, a feature.
    """

    def batches():  # type: ignore[no-untyped-def]
        return data.batches(split, ROWS)

    table = elbo(pair, batches(), num_samples=16, seed=seed)
    evidence = log_evidence(pair, batches(), num_samples=num_samples, seed=seed, progress=progress)
    means = posterior_means(pair, batches(), seed=seed)
    return {
        "split": split,
        "num_data": data.size(split),
        "samples": num_samples,
        "elbo": table.elbo,
        "reconstruction": table.reconstruction,
        "kl": table.kl,
        "log_evidence": evidence.mean,
        "log_evidence_stderr": evidence.mean_stderr,
        "ess": evidence.ess.median().item(),
        "khat_above_0.7": (evidence.khat > 0.7).double().mean().item(),
        "sites": table.sites,
        "active_units": sum(active_units(means).values()),
        "latent": sum(mean.shape[1] for mean in means.values()),
        "rms_error": _rms(pair, data, split),
    }


def pca_figures(data: Data, latent: int, split: str = "test") -> dict[str, float] | None:
    """Return what PCA with ``latent`` components, fitted to the training split, reaches on a split.

    ``rms_error`` of its reconstruction and, where the data are not binary and so have a density, the figures of
    probabilistic PCA: log p(x) in closed form, which its exact posterior makes the ELBO too. None where there is no such PCA:
    ``latent`` at least the number of features.
    """
    try:
        solution = maximum_likelihood(data.batch("train")["x"], latent)
    except ValueError:
        return None
    x = data.batch(split)["x"].double()
    directions = torch.linalg.qr(solution.weight).Q
    centred = x - solution.loc
    error = (centred - centred @ directions @ directions.T).square().mean().sqrt().item()
    if data.spec.support == "binary":
        return {"rms_error": error}
    model = LinearModel(latent, data.spec.features).double().set_to(solution)
    table = elbo(Pair(model, LinearGuide(model)), {"x": x})
    evidence = model.marginal().log_prob(x).mean().item()
    return {
        "elbo": evidence,
        "reconstruction": table.reconstruction,
        "kl": table.reconstruction - evidence,
        "log_evidence": evidence,
        "rms_error": error,
    }


def quick_samples(num_data: int) -> int:
    """Return a number of draws a datum that keeps the figures after training a matter of seconds."""
    return max(100, min(1000, 1_000_000 // num_data))


def _rms(pair: Pair, data: Data, split: str) -> float | None:
    total = count = 0
    for batch in data.batches(split, ROWS):
        means = reconstruct(pair, batch)
        if "x" not in means or means["x"].shape != batch["x"].shape:
            return None
        total += (means["x"] - batch["x"]).double().square().sum().item()
        count += batch["x"].numel()
    return math.sqrt(total / count)
