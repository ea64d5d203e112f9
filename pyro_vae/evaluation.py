"""The figures of a trained pair on a split; all in nats per datum."""

import math
from collections.abc import Callable, Iterable, Mapping

import pyro.poutine as poutine
import torch

from pyro_vae.data import Data
from pyro_vae.evidence import ElboTable, Evidence, active_units, elbo, evaluation, log_evidence, posterior_means
from pyro_vae.figures import Figures
from pyro_vae.handlers import PerDatum, is_site
from pyro_vae.meaning import Meaning, meaning_of
from pyro_vae.pairing import Batch, Pair
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
    with torch.no_grad(), torch.random.fork_rng():
        nodes = poutine.trace(pair.bound_guide).get_trace(batch).nodes
    return [
        name
        for name, site in nodes.items()
        if is_site(site) and all(frame.name != pair.data_plate for frame in site["cond_indep_stack"])
    ]


def point_sites(pair: Pair, batch: Batch) -> tuple[str, ...]:
    """Return the names of the sites where the guide is a point and the prior a density: draws fall on one value and weigh no p(x)."""
    return meaning_of(pair, batch).points


def evaluate(
    pair: Pair,
    data: Data,
    *,
    split: str = "test",
    num_samples: int = 5000,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Figures:
    """Return the figures of a pair on one split, with ``num_samples`` draws a datum for log p(x).

    Where log p(x) has no meaning (latent variables that all data share, a guide that is a point) it is None, and so is what rests
    on it; where nothing has to be drawn it is exact, from one run.
    """

    def batches():  # type: ignore[no-untyped-def]
        return data.batches(split, ROWS)

    meaning = meaning_of(pair, data.batch(split, 2))
    table = bound(pair, batches(), data.size("train"), num_samples=1 if meaning.exact else 16, seed=seed)
    means = {} if meaning.shared else posterior_means(pair, spread(data, split, EXAMINED)[0], seed=seed)
    evidence = None
    if meaning.unweighable is None:
        draws = 1 if meaning.exact else num_samples
        evidence = log_evidence(pair, batches(), num_samples=draws, seed=seed, progress=progress)
    return collect(
        meaning,
        table,
        evidence,
        means,
        _rms(pair, data, split) if meaning.latent else None,
        split=split,
        num_data=data.size(split),
        samples=num_samples,
    )


def collect(
    meaning: Meaning,
    table: ElboTable,
    evidence: Evidence | None,
    means: Mapping[str, torch.Tensor],
    rms_error: float | None,
    *,
    split: str,
    num_data: int,
    samples: int,
) -> Figures:
    """Join what was computed to one record of figures."""
    means = {name: mean for name, mean in means.items() if name in meaning.real}
    exact = evidence is not None and meaning.exact
    unknown = evidence is None or bool(evidence.khat.isnan().all())
    return Figures(
        split=split,
        num_data=num_data,
        samples=samples,
        elbo=table.elbo,
        reconstruction=table.reconstruction,
        kl=table.kl,
        sites=table.sites,
        rms_error=rms_error,
        active_units=None if meaning.shared else sum(active_units(means).values()),
        latent=None if meaning.shared else sum(mean.shape[1] for mean in means.values()),
        log_evidence=None if evidence is None else evidence.mean,
        log_evidence_stderr=None if evidence is None else 0.0 if exact else evidence.mean_stderr,
        ess=None if evidence is None or exact else evidence.ess.median().item(),
        khat_share=0.0 if exact else None if unknown else evidence.khat_share,  # type: ignore[union-attr]
        proposal=None if evidence is None else "exact" if exact else evidence.proposal,
        meaning=meaning,
    )


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
