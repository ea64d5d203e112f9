"""The figures of a trained pair on a split, beside those of PCA of the same size; all in nats per datum."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import pyro.poutine as poutine
import torch

from pyro_vae.data import Data
from pyro_vae.evidence import ElboTable, Proposal, active_units, elbo, evaluation, log_evidence, posterior_means
from pyro_vae.guides.linear import LinearGuide
from pyro_vae.handlers import PerDatum, is_site
from pyro_vae.models.linear import LinearModel, maximum_likelihood
from pyro_vae.pairing import Batch, Pair
from pyro_vae.points import point_sites
from pyro_vae.predictive import reconstruct

ROWS = 500  # data a batch
EXAMINED = (
    2000  # data whose codes decide which latent dimensions are in use: some guides take a thousand draws for each
)
RUNS = 50  # stretches of a split that data are taken from


def bound(pair: Pair, batches: Iterable[Batch], num_data: int, *, num_samples: int = 1, seed: int = 0) -> ElboTable:
    """Return the ELBO at beta = 1 by site, in nats per datum, also for a pair with sites outside the data plate.

    Such a site is there once for all data: it counts 1/``num_data``, the size of the training split.
    """
    batches = list(batches)
    if not global_sites(pair, batches[0]):
        return elbo(pair, batches, num_samples=num_samples, seed=seed)
    sites: dict[str, float] = {}
    kl = 0.0
    with evaluation(pair, seed), PerDatum(num_data, pair.data_plate):
        size = sum(len(batch["x"]) for batch in batches)
        for batch in (batch for batch in batches for _ in range(num_samples)):
            guide = poutine.trace(pair.bound_guide).get_trace(batch)
            model = poutine.trace(poutine.replay(pair.bound_model, trace=guide)).get_trace(batch)
            share = len(batch["x"]) / size / num_samples
            for trace, sign in ((model, 1), (guide, -1)):
                trace.compute_log_prob()
                for name, site in trace.nodes.items():
                    if is_site(site):
                        nats = sign * share * site["log_prob_sum"].item()
                        sites[name] = sites.get(name, 0.0) + nats
                        kl -= 0.0 if site["is_observed"] else nats
    total = math.fsum(sites.values())
    return ElboTable(total, total + kl, kl, sites)


def spread(
    data: Data, split: str, count: int, device: torch.device | None = None
) -> tuple[dict[str, torch.Tensor], list[int]]:
    """Return ``count`` data from all over a split, which may be sorted by origin as MNIST's test data are, and their positions."""
    size = data.size(split)
    runs = 1 if count >= size else min(count, RUNS)
    lengths = [min(count, size) * (i + 1) // runs - min(count, size) * i // runs for i in range(runs)]
    starts = [size * i // runs for i in range(runs)]
    batches = [
        data.batch(split, length, start=start, device=device) for start, length in zip(starts, lengths, strict=True)
    ]
    positions = [start + i for start, length in zip(starts, lengths, strict=True) for i in range(length)]
    return {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}, positions


def global_sites(pair: Pair, batch: Batch) -> list[str]:
    """Return the names of the guide's sites outside the data plate: latent variables that all data share."""
    return [
        name
        for name, site in _guide_sites(pair, batch).items()
        if all(frame.name != pair.data_plate for frame in site["cond_indep_stack"])
    ]


def _guide_sites(pair: Pair, batch: Batch) -> dict[str, Any]:
    with torch.no_grad(), torch.random.fork_rng():
        trace = poutine.trace(pair.bound_guide).get_trace(batch)
    return {name: site for name, site in trace.nodes.items() if is_site(site)}


def evaluate(
    pair: Pair,
    data: Data,
    *,
    split: str = "test",
    num_samples: int = 5000,
    proposal: Proposal = "refined",
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Return elbo, reconstruction, kl, log_evidence and more for one split.

    ``elbo`` = ``reconstruction`` - ``kl`` = the sum of ``sites``, at beta = 1; ``log_evidence`` is the importance-weighted log p(x) with
    ``num_samples`` draws a datum from the ``proposal``, ``log_evidence_stderr`` the Monte Carlo standard error of its mean and ``ess`` the median
    effective sample size. ``rms_error`` is that of the reconstruction, a feature. Latent variables that all data share leave
    no datum a log p(x) of its own, and a guide that is a point has no draws to weigh: the figures that rest on them are None then.
    """

    def batches():  # type: ignore[no-untyped-def]
        return data.batches(split, ROWS)

    table = bound(pair, batches(), data.size("train"), num_samples=16, seed=seed)
    figures: dict[str, Any] = {
        "split": split,
        "num_data": data.size(split),
        "samples": num_samples,
        "elbo": table.elbo,
        "reconstruction": table.reconstruction,
        "kl": table.kl,
        "sites": table.sites,
    }
    figures["rms_error"] = _rms(pair, data, split)
    if global_sites(pair, next(iter(batches()))):
        return figures | dict.fromkeys(
            ("active_units", "latent", "log_evidence", "log_evidence_stderr", "ess", "khat_above_0.7")
        )
    means = posterior_means(pair, spread(data, split, EXAMINED)[0], seed=seed)
    figures["active_units"] = sum(active_units(means).values())
    figures["latent"] = sum(mean.shape[1] for mean in means.values())
    if point_sites(pair, next(iter(batches()))):
        return figures | dict.fromkeys(("log_evidence", "log_evidence_stderr", "ess", "khat_above_0.7"))
    evidence = log_evidence(pair, batches(), num_samples=num_samples, proposal=proposal, seed=seed, progress=progress)
    return figures | {
        "log_evidence": evidence.mean,
        "log_evidence_stderr": evidence.mean_stderr,
        "ess": evidence.ess.median().item(),
        "khat_above_0.7": (evidence.khat > 0.7).double().mean().item(),
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
    total, count = 0.0, 0
    for batch in data.batches(split, ROWS):
        means = reconstruct(pair, batch)
        if "x" not in means or means["x"].shape != batch["x"].shape:
            return None
        total += (means["x"] - batch["x"]).double().square().sum().item()
        count += batch["x"].numel()
    return math.sqrt(total / count)
