"""The figures of a trained pair on a split, beside those of PCA of the same size; all in nats per datum."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import pyro.poutine as poutine
import torch
from pyro.distributions import Delta
from pyro.poutine import Trace

from pyro_vae.data import Data
from pyro_vae.evidence import ElboTable, active_units, elbo, evaluation, log_evidence, posterior_means
from pyro_vae.guides.linear import LinearGuide
from pyro_vae.handlers import is_deterministic, is_latent, is_site
from pyro_vae.models.linear import LinearModel, maximum_likelihood
from pyro_vae.objective import declared
from pyro_vae.pairing import Batch, Pair, PairError
from pyro_vae.predictive import reconstruct
from pyro_vae.weights import add_up, data_frame, log_prob, plate_nesting, run, size_of

ROWS = 500  # data a batch
EXAMINED = (
    2000  # data whose codes decide which latent dimensions are in use: some guides take a thousand draws for each
)
RUNS = 50  # stretches of a split that data are taken from


def bound(pair: Pair, batches: Iterable[Batch], num_data: int, *, num_samples: int = 1, seed: int = 0) -> ElboTable:
    """Return the ELBO at beta = 1 by site, in nats per datum, also for a pair with sites outside the data plate.

    Such a site (a latent variable that all data share, a regulariser) is there once for all data: it counts 1/``num_data``, the size
    of the training split.
    """
    batches = list(batches)
    if not global_sites(pair, batches[0]):
        return elbo(pair, batches, num_samples=num_samples, seed=seed)
    sums: dict[str, float] = {}
    observed: set[str] = set()
    with evaluation(pair, seed):
        total = sum(size_of(batch) for batch in batches)
        for batch in batches:
            nesting, size = plate_nesting(pair, batch), size_of(batch)
            for _ in range(num_samples):
                guide, model = run(pair, batch, None, nesting)
                for sign, trace in ((1, model), (-1, guide)):
                    for name, site in _taken_out(pair, trace).items():
                        observed |= {name} if site["is_observed"] else set()
                        sums[name] = sums.get(name, 0.0) + sign * log_prob(site).double().sum().item() * size / num_data
                parts = add_up(pair, guide, model, 1, size, nesting, marginal=False)
                observed |= parts.observed
                for name, term in parts.sites.items():
                    sums[name] = sums.get(name, 0.0) + term.double().sum().item()
    sites = {name: value / total / num_samples for name, value in sums.items()}
    reconstruction = math.fsum(value for name, value in sites.items() if name in observed)
    return ElboTable(math.fsum(sites.values()), reconstruction, reconstruction - math.fsum(sites.values()), sites)


def _taken_out(pair: Pair, trace: Trace) -> dict[str, Any]:
    """Take the sites outside the data plate out of a trace and return them."""
    found = {name: trace.nodes[name] for name in _outside(pair, trace)}
    for name, site in found.items():
        if site["infer"].get("_enumerate_dim") is not None:
            raise PairError(
                f"site {name!r} lies outside the plate {pair.data_plate!r} and is enumerated: every datum would be run for each of "
                "its values; let the guide draw it"
            )
        trace.remove_node(name)
    return found


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
    """Return the names of the sites outside the data plate, of guide and model: latent variables, factors and data that all share."""
    with torch.no_grad(), torch.random.fork_rng():
        traces = run(pair, batch, None, 0, enumerate_sites=False)
    return list(dict.fromkeys(name for trace in traces for name in _outside(pair, trace)))


def _outside(pair: Pair, trace: Trace) -> list[str]:
    return [
        name
        for name, site in trace.nodes.items()
        if is_site(site) and not is_deterministic(site) and data_frame(site, pair) is None
    ]


def point_sites(pair: Pair, batch: Batch) -> list[str]:
    """Return the names of the guide's sites that are points: draws all fall on one value, and weigh no p(x)."""
    return [name for name, site in _guide_sites(pair, batch).items() if is_latent(site) and _is_point(site["fn"])]


def _guide_sites(pair: Pair, batch: Batch) -> dict[str, Any]:
    with torch.no_grad(), torch.random.fork_rng():
        trace = poutine.trace(pair.bound_guide).get_trace(batch)
    return {name: site for name, site in trace.nodes.items() if is_site(site)}


def _is_point(fn: Any) -> bool:
    while hasattr(fn, "base_dist") and not isinstance(fn, Delta):
        fn = fn.base_dist
    return isinstance(fn, Delta)


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
    effective sample size. ``rms_error`` is that of the reconstruction, a feature. Latent variables that all data share leave
    no datum a log p(x) of its own, a guide that is a point has no draws to weight, and an unnormalised model has no log p(x): the
    figures that rest on them are None then.
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
    if point_sites(pair, next(iter(batches()))) or not declared(pair.objective).figure.comparable:
        return figures | dict.fromkeys(("log_evidence", "log_evidence_stderr", "ess", "khat_above_0.7"))
    evidence = log_evidence(pair, batches(), num_samples=num_samples, seed=seed, progress=progress)
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
