"""How large log p(x) is, by importance sampling from the guide; for any pair, in nats per datum.

Everything rests on the log-weights log w = log p(x, z) - log q(z | x) of draws z ~ q(z | x): their mean is the ELBO,
their log-mean-exp estimates log p(x) from below, and their tail tells how far to trust it.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import pyro.poutine as poutine
import torch
from torch import Tensor

from pyro_vae.handlers import is_latent
from pyro_vae.pairing import Batch, Pair
from pyro_vae.svi import Mode
from pyro_vae.tails import khat_of_tail, tail_size
from pyro_vae.weigher import Weigher
from pyro_vae.weights import (
    PARTICLES,
    evaluation,
    log_weights,
    particles,
    pieces,
    plate_nesting,
    run,
    size_of,
    takes_particles,
    terms,
)

__all__ = [
    "ACTIVE_VARIANCE",
    "PARTICLES",
    "ElboTable",
    "Evidence",
    "active_units",
    "elbo",
    "evaluation",
    "log_evidence",
    "log_weights",
    "plate_nesting",
    "posterior_means",
    "run",
]

ACTIVE_VARIANCE = 0.01  # Var_x E[z | x] of a dimension in use (Burda et al. 2015, section 5), for a prior of variance 1
ROWS = 4096  # draws decoded at a time: activations of this many rows stay near the processor's caches
DRAWS_OF_MEAN = (
    1024  # for guides whose mean has no closed form: adds a thousandth of the posterior variance to Var_x E[z | x]
)


class Evidence(NamedTuple):
    """log p(x) by importance sampling; every tensor ``(data,)``, float64, in data order."""

    estimate: Tensor  # log of the mean weight: a lower bound in expectation, exact as draws grow
    stderr: Tensor  # Monte Carlo standard error of the estimate (delta method)
    ess: Tensor  # effective number of draws, 1 to num_samples
    khat: Tensor  # Pareto shape of the largest weights: below 0.7 the estimate and its error are to be believed
    elbo: Tensor  # mean log-weight of the same draws, enumerated sites summed out

    @property
    def mean(self) -> float:
        """Mean estimate over the data."""
        return self.estimate.mean().item()

    @property
    def mean_stderr(self) -> float:
        """Monte Carlo standard error of the mean."""
        return (self.stderr.square().sum().sqrt() / len(self.stderr)).item()

    @property
    def khat_share(self) -> float:
        """Share of the data with k-hat above 0.7."""
        return (self.khat > 0.7).double().mean().item()

    @property
    def proposal(self) -> str:
        """What was drawn from."""
        return "guide"


class ElboTable(NamedTuple):
    """The ELBO at beta = 1 and its parts, in nats per datum; ``elbo`` is the sum of ``sites``."""

    elbo: float
    reconstruction: float  # E_q log p of the observed sites
    kl: float  # E_q log q - log p of the latent sites
    sites: dict[str, float]  # what each site adds to the ELBO: -KL for a latent site


def log_evidence(
    pair: Pair,
    data: Batch | Iterable[Batch],
    *,
    num_samples: int = 5000,
    rows: int = ROWS,
    seed: int = 0,
    compile: Mode = "auto",
    progress: Callable[[int], None] | None = None,
) -> Evidence:
    """Estimate log p(x) of every datum, in nats, with standard error, effective sample size and k-hat.

    Burda et al. (2015), arXiv 1509.00519, eq. 8 with ``num_samples`` = K (5000 for figures to report). Runs in chunks
    of about ``rows`` draws whatever K and the number of data, adding up in float64, so memory stays bounded; the data's batches
    make no difference.

    Args:
        data: one batch, or an iterable of batches such as ``data.batches("test", 500)``.
        seed: of the draws; the global random state is left as it was.
        compile: "auto" records a chunk, and later compiles it, where there are enough of them; "on", "recorded" and "off" as in
            `SVI`. The draws are the same, and the figures agree to rounding.
        progress: called with the number of data finished.
    """
    if num_samples < 1:
        raise ValueError(f"num_samples must be at least 1, got {num_samples}")
    done: list[Evidence] = []
    weigher = Weigher(pair, compile)
    with evaluation(pair, seed):
        for part in pieces(data, max(1, rows // min(num_samples, 64))):
            done.append(_estimate(weigher, part, num_samples, rows))
            if progress is not None:
                progress(size_of(part))
    return Evidence(*(torch.cat(column) for column in zip(*done, strict=True)))


def elbo(pair: Pair, data: Batch | Iterable[Batch], *, num_samples: int = 1, seed: int = 0) -> ElboTable:
    """Return the ELBO (beta = 1) by site, averaged over the data and ``num_samples`` draws each.

    Sites that the guide enumerates are averaged over exactly. Those that only the model enumerates are summed out: they and what
    depends on them appear as one observed term, under the joined names of the sites.
    """
    sums: dict[str, float] = {}
    observed: set[str] = set()
    count = 0
    with evaluation(pair, seed):
        for batch in pieces(data, max(1, ROWS // num_samples)):
            nesting = plate_nesting(pair, batch)
            vectorized = takes_particles(pair, batch, nesting)
            for _ in range(1 if vectorized else num_samples):
                parts = terms(pair, batch, num_samples if vectorized else None, nesting, marginal=False)
                observed |= parts.observed
                for name, term in parts.sites.items():
                    share = term.double().sum().item() / (num_samples if not vectorized else term.shape[0])
                    sums[name] = sums.get(name, 0.0) + share
            count += size_of(batch)
    sites = {name: value / count for name, value in sums.items()}
    reconstruction = math.fsum(value for name, value in sites.items() if name in observed)
    total = math.fsum(sites.values())
    return ElboTable(total, reconstruction, reconstruction - total, sites)


def posterior_means(
    pair: Pair, data: Batch | Iterable[Batch], *, num_samples: int | None = None, seed: int = 0
) -> dict[str, Tensor]:
    """E[z | x] under the guide for every continuous latent site in the data plate alone: ``(data, latent)``.

    The mean of the site's distribution (a draw where it has none) averaged over ``num_samples`` runs of the guide: by default
    one where that mean is the same every run, else 1024.
    """
    means: dict[str, list[Tensor]] = {}
    with evaluation(pair, seed):
        for batch in pieces(data, 64):
            nesting = plate_nesting(pair, batch)
            runs = num_samples or (DRAWS_OF_MEAN if _varies(pair, batch, nesting) else 1)
            for name, mean in _site_means(pair, batch, runs, nesting).items():
                means.setdefault(name, []).append(mean)
    return {name: torch.cat(parts) for name, parts in means.items()}


def active_units(means: Mapping[str, Tensor], threshold: float = ACTIVE_VARIANCE) -> dict[str, int]:
    """Count per site the dimensions with Var_x E[z_j | x] above the threshold (Burda et al. 2015, section 5)."""
    return {name: int((mean.var(0, correction=0) > threshold).sum()) for name, mean in means.items()}


def _varies(pair: Pair, batch: Batch, nesting: int) -> bool:
    first, second = (_site_means(pair, batch, 1, nesting) for _ in range(2))
    return any(not torch.equal(first[name], second[name]) for name in first)


def _site_means(pair: Pair, batch: Batch, num_samples: int, nesting: int) -> dict[str, Tensor]:
    vectorized = num_samples > 1 and takes_particles(pair, batch, nesting)
    guide = particles(pair.bound_guide, num_samples if vectorized else None, nesting)
    sums: dict[str, Tensor] = {}
    for _ in range(1 if vectorized else num_samples):
        for name, site in poutine.trace(guide).get_trace(batch).nodes.items():
            frames = {frame.name for frame in site["cond_indep_stack"]} if is_latent(site) else set()
            if frames - {PARTICLES} == {pair.data_plate} and site["value"].is_floating_point():
                mean = _mean(site).reshape(-1, size_of(batch), math.prod(site["fn"].event_shape))
                sums[name] = sums.get(name, 0) + mean.mean(0)
    return {name: total if vectorized else total / num_samples for name, total in sums.items()}


def _mean(site: Mapping) -> Tensor:
    try:
        return site["fn"].mean
    except NotImplementedError:
        return site["value"]


def _estimate(weigher: Weigher, batch: Batch, num_samples: int, rows: int) -> Evidence:
    stream = _Stream(num_samples)
    pair = weigher.pair
    nesting = plate_nesting(pair, batch)
    together = max(1, rows // size_of(batch)) if takes_particles(pair, batch, nesting) else None
    left = num_samples
    while left:
        now = 1 if together is None else min(left, together)
        stream.add(weigher(batch, None if together is None else now, nesting).double())
        left -= now
    return stream.result()


class _Stream:
    """Log-weights added up in float64, chunk by chunk: only sums and the largest weights are kept."""

    def __init__(self, num_samples: int) -> None:
        self.num_samples = num_samples
        self.keep = min(tail_size(num_samples) + 1, num_samples)
        self.log_sum = self.log_squares = torch.tensor(-math.inf, dtype=torch.float64)
        self.total = torch.tensor(0.0, dtype=torch.float64)
        self.largest = torch.empty(0)

    def add(self, log_w: Tensor) -> None:
        self.log_sum = torch.logaddexp(self.log_sum.to(log_w.device), log_w.logsumexp(0))
        self.log_squares = torch.logaddexp(self.log_squares.to(log_w.device), (2 * log_w).logsumexp(0))
        self.total = self.total.to(log_w.device) + log_w.sum(0)
        both = torch.cat([self.largest, log_w]) if len(self.largest) else log_w
        self.largest = both.topk(min(self.keep, len(both)), 0).values

    def result(self) -> Evidence:
        k = self.num_samples
        ess = torch.exp(2 * self.log_sum - self.log_squares).clamp(1, k)
        stderr = (1 / ess - 1 / k).clamp(min=0).sqrt()
        khat = khat_of_tail(self.largest, k)
        return Evidence(self.log_sum - math.log(k), stderr, ess, khat, self.total / k)
