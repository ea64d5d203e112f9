"""The figures of a trained pair on a split; all in nats per datum."""

import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import torch
from pyro.poutine import Trace

from pyro_vae.data import Data
from pyro_vae.distributions import LogZ
from pyro_vae.evidence.estimate import ElboTable, Evidence, Proposal, elbo, log_evidence
from pyro_vae.evidence.figures import Figures, Own
from pyro_vae.evidence.many_levels import FEW, draws_for
from pyro_vae.evidence.meaning import Meaning, meaning_of
from pyro_vae.evidence.normalizer import TEMPERATURES, normalized
from pyro_vae.objectives import divergence_bound
from pyro_vae.posterior import CodeUse, active_units, code_use, posterior_means, reconstruct
from pyro_vae.program import (
    Batch,
    Pair,
    PairError,
    add_up,
    data_frame,
    declared,
    evaluation,
    is_deterministic,
    is_site,
    log_prob,
    plate_nesting,
    run,
    size_of,
)
from pyro_vae.warning import warn

BATCH_SIZE = 500
# data that decide which latent dimensions are in use: some guides take a thousand draws for each
MAX_EXAMINED = 2000


def bound(pair: Pair, batches: Iterable[Batch], num_data: int, *, num_samples: int = 1, seed: int = 0) -> ElboTable:
    """Return the ELBO at beta = 1 by site, even with sites outside the data plate.

    Such a site (a latent variable that all data share, a regulariser) is there once for all data:
    it counts 1/``num_data``, the size of the training split.
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
                f"site {name!r} lies outside the plate {pair.data_plate!r} and is enumerated: "
                "every datum would be run for each of its values; let the guide draw it"
            )
        trace.remove_node(name)
    return found


def global_sites(pair: Pair, batch: Batch) -> list[str]:
    """Return the names of the sites outside the data plate, of guide and model.

    They are latent variables, factors and data that all data share.
    """
    with evaluation(pair, 0):  # in training mode a run may move running averages
        traces = run(pair, batch, None, 0, enumerate_sites=False)
    return list(dict.fromkeys(name for trace in traces for name in _outside(pair, trace)))


def _outside(pair: Pair, trace: Trace) -> list[str]:
    return [
        name
        for name, site in trace.nodes.items()
        if is_site(site) and not is_deterministic(site) and data_frame(site, pair) is None
    ]


def evaluate(
    pair: Pair,
    data: Data,
    *,
    split: str | None = None,
    num_samples: int | None = None,
    proposal: Proposal = "refined",
    temperatures: int = TEMPERATURES,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Figures:
    """Return the figures of a pair on one split, with ``num_samples`` draws per datum for log p(x):
    5000 by default; with more than eight latent sites, 1000 by their number, but 10 at least; and
    ``temperatures`` for its normaliser log Z where the model lacks one.

    Where log p(x) is not defined (sites that all data share, a guide that is a point, an
    unnormalised model) it is None, and so is what rests on it; where nothing has to be drawn it is
    exact, from one run. The split is test by default, or valid or train if that is empty.
    """
    split = data.choose(split)
    with normalized(pair, temperatures=temperatures, seed=seed) as log_z:
        return _evaluate(pair, data, split, num_samples, proposal, log_z, seed, progress)


def _evaluate(
    pair: Pair,
    data: Data,
    split: str,
    num_samples: int | None,
    proposal: Proposal,
    log_z: LogZ | None,
    seed: int,
    progress: Callable[[int], None] | None,
) -> Figures:
    batches = partial(data.batches, split, BATCH_SIZE)
    meaning = meaning_of(pair, data.batch(split, 2))
    if meaning.implicit:
        return _of_draws(pair, data, split, meaning, seed)
    sites = len(meaning.latent)
    usual = 5000 if sites <= FEW else 1000  # steps of a chain cost more than decoding a code
    num_samples = draws_for(sites, usual, 10) if num_samples is None else num_samples
    looks = 1 if meaning.exact else draws_for(sites, 16)
    table = bound(pair, batches(), data.size("train"), num_samples=looks, seed=seed)
    untold = meaning.shared or sites > FEW
    means = {} if untold else posterior_means(pair, data.subset(split, MAX_EXAMINED)[0], seed=seed)
    evidence = None
    if meaning.unweighable is None and meaning.normalised:
        draws = 1 if meaning.exact else num_samples
        evidence = log_evidence(pair, batches(), num_samples=draws, proposal=proposal, seed=seed, progress=progress)
        _warn_of_never(evidence, split)
    return collect(
        meaning,
        table,
        evidence,
        means,
        _rms(pair, data, split) if meaning.latent and meaning.inferred and sites <= FEW else None,
        split=split,
        num_data=data.size(split),
        samples=num_samples,
        steps=_steps(data, split),
        dimensions=data.spec.features if data.spec.levels and meaning.whole and not meaning.is_density else None,
        codes=code_use(pair, batches()),
        log_z=log_z,
    )


def _of_draws(pair: Pair, data: Data, split: str, meaning: Meaning, seed: int) -> Figures:
    """Return what there is of a pair whose x has no log p: its objective's own figure."""
    none: dict[str, Any] = dict.fromkeys(
        ["rms_error", "active_units", "latent", "log_evidence", "log_evidence_stderr", "ess", "khat_share", "proposal"]
    )
    return Figures(
        split=split,
        num_data=data.size(split),
        samples=data.size(split),
        elbo=math.nan,
        reconstruction=math.nan,
        kl=math.nan,
        sites={},
        meaning=meaning,
        own=own_figure(pair, data.batches(split, BATCH_SIZE), seed=seed),
        **none,
    )


def own_figure(pair: Pair, batches: Iterable[Batch], *, seed: int = 0) -> Own:
    """Return what the objective of a pair says of data, with its standard error where it judges
    data and draws one by one, as `pyro_vae.objectives.Adversarial` does.
    """
    objective: Any = pair.objective
    name, programs = declared(objective).figure.name, (pair.bound_model, pair.bound_guide)
    with evaluation(pair, seed):
        if not hasattr(objective, "judge"):
            sums = [(-objective.loss(*programs, batch), size_of(batch)) for batch in batches]
            return Own(name, sum(total for total, _ in sums) / sum(size for _, size in sums), None)
        real, fake = zip(*(objective.judge(*programs, batch) for batch in batches), strict=True)
    return Own(name, *divergence_bound(torch.cat(real), torch.cat(fake)))


def _warn_of_never(evidence: Evidence, split: str) -> None:
    never = (evidence.estimate == -math.inf).nonzero().flatten().tolist()
    if never:
        warn(
            f"log p is -inf for {len(never):,} of {len(evidence.estimate):,} data of the {split} split, first for "
            f"datum {never[0]}: the model gives what is seen of it probability 0, and so the averages are -inf"
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
    steps: float | None = None,
    dimensions: int | None = None,
    codes: dict[str, CodeUse] | None = None,
    log_z: LogZ | None = None,
) -> Figures:
    """Join what was computed into one record of figures."""
    active, latent = _counted(meaning, means)
    exact = (drawless := evidence is not None and meaning.exact) and log_z is None
    error = None if evidence is None else 0.0 if exact else evidence.mean_stderr
    return Figures(
        split=split,
        num_data=num_data,
        samples=samples,
        elbo=table.elbo,
        reconstruction=table.reconstruction,
        kl=table.kl,
        sites=table.sites,
        rms_error=rms_error,
        active_units=active,
        latent=latent,
        log_evidence=None if evidence is None else evidence.mean,
        log_evidence_stderr=log_z.stderr if log_z else error,
        ess=None if evidence is None or drawless else evidence.ess.median().item(),
        khat_share=0.0 if exact else _known_share(evidence),
        proposal=None if evidence is None else "annealed" if log_z else "exact" if exact else evidence.proposal,
        meaning=meaning,
        steps=steps,
        dimensions=dimensions,
        codes=codes or None,
        log_z=log_z,
    )


def _counted(meaning: Meaning, means: Mapping[str, torch.Tensor]) -> tuple[int | None, int | None]:
    """Return how many real latent dimensions are active, and how many there are; None where they
    are not counted.
    """
    if meaning.shared or len(meaning.latent) > FEW:
        return None, None
    real = {name: mean for name, mean in means.items() if name in meaning.real}
    return sum(active_units(real).values()), sum(mean.shape[1] for mean in real.values())


def _known_share(evidence: Evidence | None) -> float | None:
    """Return the share of data with k-hat above 0.7; None where none is known."""
    return None if evidence is None or evidence.khat.isnan().all() else evidence.khat_share


def quick_samples(num_data: int, sites: int = 1) -> int:
    """Return a number of draws per datum, of so many latent sites, that keeps an evaluation to
    seconds.
    """
    return draws_for(sites, max(100, min(1000, 1_000_000 // num_data)))


def _steps(data: Data, split: str) -> float | None:
    """Return the mean number of steps of sequences, padding not counted; None for other data."""
    if data.spec.sequence is None:
        return None
    return sum(int(batch["mask"].sum()) for batch in data.batches(split, BATCH_SIZE)) / data.size(split)


def _rms(pair: Pair, data: Data, split: str) -> float | None:
    total, count = 0.0, 0
    for batch in data.batches(split, BATCH_SIZE):
        means = reconstruct(pair, batch, draw=False)  # the error of a draw is not the model's
        if "x" not in means or means["x"].shape != batch["x"].shape:
            return None
        total += (means["x"] - batch["x"]).double().square().sum().item()
        count += batch["x"].numel()
    return math.sqrt(total / count)
