"""How large log p(x) is, by importance sampling; for any pair, in nats per datum.

Everything rests on log-weights log p(x, z) - log r(z) of draws z ~ r. With the guide q as r, their
mean is the ELBO. Their log-mean-exp estimates log p(x) from below whatever r is, so r is refined
for each datum, and their tail shows how far to trust the estimate.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from pyro_vae.evidence.chunks import Chunks, Compile
from pyro_vae.evidence.figures import believable
from pyro_vae.evidence.many_levels import FEW, in_pieces
from pyro_vae.evidence.particle_filter import FILTERS, filters, follows_path
from pyro_vae.evidence.proposal import refinable, refine
from pyro_vae.evidence.psis import MAX_KHAT, khat_of_tail, tail_size
from pyro_vae.program import (
    NEVER,
    Batch,
    Latents,
    Pair,
    PairError,
    Terms,
    Verbs,
    chain_in,
    evaluation,
    is_factor,
    is_latent,
    is_site,
    pair_and_data,
    plate_nesting,
    points,
    require_normalized,
    run,
    size_of,
    takes_particles,
    terms,
    weigh,
)

__all__ = ["ElboTable", "Evidence", "elbo", "log_evidence"]

Proposal = Literal["refined", "guide", "filter"]
GUIDE_SHARE = 0.1  # of the draws come from the guide itself, so that no weight exceeds ten times the guide's
MIN_TOGETHER = 8  # draws per datum that are made side by side
SPREAD = 2.0  # variance of log-weights of whole paths, from which a particle filter is better: 1 draw in e^2 counts
MAX_ROWS = 4096  # draws decoded at once: activations of this many rows stay near the processor's caches


class Evidence(NamedTuple):
    """log p(x) by importance sampling; every tensor ``(data,)``, float64, in data order."""

    estimate: Tensor  # log of the mean weight: a lower bound in expectation, exact in the limit of many draws
    stderr: Tensor  # Monte Carlo standard error of the estimate (delta method)
    ess: Tensor  # effective number of draws, 1 to num_samples
    # Pareto shape of the largest weights: up to 0.7 the estimate and its error can be trusted; of
    # particle filters 0 where they agree to a nat, else infinite
    khat: Tensor
    elbo: Tensor  # mean log-weight of the guide's draws among them, enumerated sites summed out
    proposal: str  # "refined", "guide" or "filter", where the draws came from; "exact" where nothing had to be drawn

    def __repr__(self) -> str:
        number = f"{len(self.estimate):,} {'datum' if len(self.estimate) == 1 else 'data'}"
        if self.proposal == "exact":
            return f"Evidence({number}: {self.mean:.2f} nats per datum, exact)"
        doubt = "particle filters differ" if self.proposal == "filter" else f"k-hat > {MAX_KHAT}"
        few = bool(self.khat.isnan().all())
        trust = "too few draws for k-hat" if few else f"{doubt} for {100 * self.khat_share:.0f} %"
        sure = f"{self.mean:.2f} ± {self.mean_stderr:.2f}"
        shown = sure if believable(self.khat_share) else f">= {self.mean:.1f}"
        return f"Evidence({number}: {shown} nats per datum, {trust})"

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
        """Share of data with k-hat above 0.7 or unknown: their estimates are mere lower bounds."""
        return 1.0 - (self.khat <= MAX_KHAT).double().mean().item()


class ElboTable(NamedTuple):
    """The ELBO at beta = 1 and its parts, in nats per datum; ``elbo`` is the sum of ``sites``."""

    elbo: float
    reconstruction: float  # E_q log p of the observed sites
    kl: float  # E_q log q - log p of the latent sites
    sites: dict[str, float]  # what each site adds to the ELBO: -KL for a latent site


def log_evidence(
    pair: Verbs,
    data: Any = None,
    *,
    num_samples: int = 5000,
    proposal: Proposal = "refined",
    rows: int = MAX_ROWS,
    seed: int = 0,
    compile: Compile = "auto",
    progress: Callable[[int], None] | None = None,
) -> Evidence:
    """Estimate log p(x) of every datum in nats, with standard error, ESS and k-hat.

    Burda et al. (2015), arXiv 1509.00519, eq. 8 with ``num_samples`` = K (5000 for figures to
    report). "refined" draws a tenth of them from the guide and the others from a mixture of
    Student-t's that is first fitted to each datum's posterior (see ``pyro_vae.evidence.proposal``);
    every weight is relative to the density of guide and mixture together (Owen & Zhou, 2000). The
    draws that shape the proposal are discarded, so exp(estimate) is unbiased for p(x), and the
    estimate is a lower bound in expectation. Whatever K and the number of data, the computation
    runs in chunks of about ``rows`` draws and sums in float64, so memory stays bounded; how the
    data are batched makes no difference.

    Args:
        pair: the pair, or what ``fit`` or ``load`` returned.
        data: one batch, ``x`` alone, an iterable of batches such as ``data.batches("test", 500)``,
            or `Data`, of which the test split is taken; by default those of what ``fit`` returned.
        proposal: "guide" draws from the guide alone. So does "refined" where no proposal can be
            refined: with more than eight latent sites or 256 dimensions, discrete latents that
            the guide draws, auxiliary sites, angles, or programs that take no particles. "filter"
            weighs a path of states step by step, by `FILTERS` particle filters that share the
            draws (see ``pyro_vae.evidence.particle_filter``). Of paths "refined" is "filter" where
            the weights of whole paths spread, else "guide". ``Evidence.proposal`` says which was
            used.
        seed: of the draws; the global random state is left as it was.
        compile: "auto" compiles where there are enough chunks to pay for it; "on" always does,
            "off" never. The draws are the same, and the figures agree to rounding.
        progress: called with the number of data that each chunk finished.

    Raises:
        PairError: for latents outside the data plate, latents that the guide lacks, or points where
            the prior is a density.
        ValueError: for an unknown or impossible option, and without data.
    """
    pair, data = pair_and_data(pair, data)
    if num_samples < 1:
        raise ValueError(f"num_samples must be at least 1, got {num_samples}")
    if proposal not in get_args(Proposal):
        raise ValueError(f"proposal is {proposal!r}; give 'refined', 'guide' or 'filter'")
    done: list[Evidence] = []
    chunks = Chunks(compile)
    with evaluation(pair, seed):
        known = None
        for part in in_pieces(pair, data, max(1, rows // min(max(num_samples, MIN_TOGETHER), 64))):
            known = known or _look(pair, part)  # once: of a long chain, a look costs several pieces
            done.append(_estimate(pair, known, chunks, part, num_samples, proposal, rows))
            if progress is not None:
                progress(size_of(part))
    if not done:
        raise ValueError("there are no data to estimate log p(x) of: give a batch, or an iterable that yields one")
    used = {part.proposal for part in done}
    estimate, stderr, ess, khat, own = (torch.cat(column) for column in zip(*(part[:5] for part in done), strict=True))
    said = next((name for name in ("guide", "filter", "refined") if name in used), "exact")
    return Evidence(estimate, stderr, ess, khat, own, said)


def elbo(pair: Verbs, data: Any = None, *, num_samples: int = 1, seed: int = 0) -> ElboTable:
    """Return the ELBO (beta = 1) by site, averaged over the data and ``num_samples`` draws each.

    Sites that the guide enumerates are averaged over exactly. Those that only the model enumerates
    are summed out: they and what depends on them appear as one observed term, under the joined
    names of the sites. Sites of a chain (see `docs/design.md`) are told by level: zl-1 adds
    -KL(q(zl-1 | zl, x) || p(zl-1 | zl)), the last -KL(q(zT | x) || p(zT)), by formula.

    Args:
        pair: the pair, or what ``fit`` or ``load`` returned.
        data: see `log_evidence`.
        num_samples: draws for each datum.
        seed: of the draws.
    """
    pair, data = pair_and_data(pair, data)
    sums: dict[str, float] = {}
    observed: set[str] = set()
    count = 0
    with evaluation(pair, seed):
        for batch in in_pieces(pair, data, max(1, MAX_ROWS // num_samples)):
            runs = list(_site_terms(pair, batch, num_samples))
            for parts in runs:
                observed |= parts.observed
                for name, term in parts.sites.items():
                    share = term.double().sum().item() / (term.shape[0] * len(runs))
                    sums[name] = sums.get(name, 0.0) + share
            count += size_of(batch)
    return table_of({name: value / count for name, value in sums.items()}, observed)


def _site_terms(pair: Pair, batch: Batch, num_samples: int) -> Iterator[Terms]:
    """Yield what each site adds, in one run of all draws or in one run each."""
    chain = chain_in(pair)
    if chain is not None:
        for _ in range(num_samples):
            yield Terms({name: term.unsqueeze(0) for name, term in chain.terms(batch["x"]).items()}, {"x"})
        return
    nesting = plate_nesting(pair, batch)
    together = takes_particles(pair, batch, nesting)
    for _ in range(1 if together else num_samples):
        yield terms(pair, batch, num_samples if together else None, nesting, marginal=False)


def table_of(sites: dict[str, float], observed: set[str]) -> ElboTable:
    """Return the table of what each site adds, -inf where some datum has probability 0."""
    sites = {name: value if value > NEVER else -math.inf for name, value in sites.items()}
    reconstruction = math.fsum(value for name, value in sites.items() if name in observed)
    total = math.fsum(sites.values())
    kl = 0.0 - math.fsum(value for name, value in sites.items() if name not in observed)
    return ElboTable(total, reconstruction, kl, sites)


class _Known(NamedTuple):
    """What holds of a pair's programs whatever the data."""

    nesting: int
    stacks: bool  # they take particles
    points: bool  # the guide has some
    drawn: int  # sites that are not summed over
    refined: Proposal  # what stands for "refined": a filter, or the guide, where they are one path of states


def _look(pair: Pair, batch: Batch) -> _Known:
    nesting = plate_nesting(pair, batch)
    kinds = _kinds(pair, batch, nesting)
    path = kinds[1] == 1 and follows_path(pair, batch)
    refined = _for_paths(pair, batch, nesting) if path else "refined"
    return _Known(nesting, takes_particles(pair, batch, nesting), *kinds, refined)


def _for_paths(pair: Pair, batch: Batch, nesting: int) -> Proposal:
    with torch.random.fork_rng():
        log_w = torch.cat([weigh(pair, batch, None, nesting) for _ in range(MIN_TOGETHER)])
    return "filter" if log_w.double().var(0).median().item() > SPREAD else "guide"


def _estimate(
    pair: Pair, known: _Known, chunks: Chunks, batch: Batch, num_samples: int, proposal: Proposal, rows: int
) -> Evidence:
    nesting, stacks, points, drawn, instead = known
    proposal = instead if proposal == "refined" else proposal
    together = max(1, rows // size_of(batch)) if stacks else None
    if not drawn:
        return _exact(weigh(pair, batch, None, nesting).double()[0], num_samples)
    if proposal == "filter":
        return _by_filters(pair, batch, num_samples, nesting)
    refined = proposal == "refined" and together and not points and drawn <= FEW
    space = refinable(pair, batch, nesting) if refined else None
    if space is not None and together is not None:
        return _refined(space, chunks, num_samples, together)
    result = _from_guide(pair, chunks, batch, num_samples, nesting, together).result("guide")
    # every draw of a point has the same weight, which proves nothing: the figure is a bound and no
    # more
    return result._replace(khat=torch.full_like(result.khat, math.inf)) if points else result


def _by_filters(pair: Pair, batch: Batch, num_samples: int, nesting: int) -> Evidence:
    estimate, stderr, agree = filters(pair, batch, max(2, num_samples // FILTERS))
    own = torch.cat([weigh(pair, batch, None, nesting) for _ in range(MIN_TOGETHER)]).double().mean(0)
    ess = num_samples / (1 + FILTERS * stderr.square())
    return Evidence(estimate, stderr, ess, torch.where(agree, 0.0, math.inf), own, "filter")


def _kinds(pair: Pair, batch: Batch, nesting: int) -> tuple[bool, int]:
    """Return whether the guide has points, and how many sites are drawn rather than summed over.

    Raises:
        PairError: for models without a density, points under one, and latent sites that the guide
            lacks.
    """
    require_normalized(pair)
    found = points(pair, batch)
    for name in (name for name, density in found.items() if density):
        raise PairError(
            f"{name!r} of guide {pair.bound_guide.name} is a point, so its draws have no density to weight; "
            "give it a distribution with a density, such as a Gaussian, or read log p(x, z) at the point from the ELBO"
        )
    with torch.random.fork_rng():
        guide, model = run(pair, batch, None, nesting)
    drawn = {n for n, s in guide.nodes.items() if is_site(s) and not is_factor(s) and not _is_summed(s)}
    for name, site in model.nodes.items():
        if is_latent(site) and name not in guide.nodes and not _is_summed(site) and not is_factor(site):
            raise PairError(
                f"guide {pair.bound_guide.name} does not sample latent site {name!r}; "
                "add it to the guide, or enumerate it"
            )
    return bool(found), len(drawn - {n for n in drawn if guide.nodes[n]["is_observed"]})


def _is_summed(site: Mapping) -> bool:
    return site["infer"].get("_enumerate_dim") is not None


def _exact(log_w: Tensor, num_samples: int) -> Evidence:
    """Return the result of one pass where no site is drawn."""
    zero = torch.zeros_like(log_w)
    return Evidence(log_w, zero, zero + num_samples, zero - math.inf, log_w, "exact")


def _from_guide(
    pair: Pair, chunks: Chunks, batch: Batch, num_samples: int, nesting: int, together: int | None
) -> "_Stream":
    stream = _Stream(num_samples)
    for now in _cut(num_samples, together or 1):
        size = None if together is None else now
        (log_w,) = chunks(lambda b, size=size: (weigh(pair, b, size, nesting),), ("guide", size, nesting), dict(batch))
        stream.add(log_w.double())
    return stream


def _refined(space: Latents, chunks: Chunks, num_samples: int, together: int) -> Evidence:
    """Weight draws of guide and Student-t's, a fixed share of each, by their joint density."""
    from_guide = math.ceil(GUIDE_SHARE * num_samples)
    share = from_guide / num_samples
    student = refine(space, num_samples, together) if share < 1 else None
    stream = _Stream(num_samples)
    total = torch.zeros((), dtype=torch.float64)

    def densities(batch: Batch, u: Tensor) -> tuple[Tensor, Tensor]:
        at = replace(space, batch=batch)
        return at.log_joint(u), at.log_q(u)

    for count, guided in ((from_guide, True), (num_samples - from_guide, False)):
        for now in _cut(count, together):
            u = space.from_guide(now) if guided or student is None else student.sample(now).to(space.dtype)
            log_p, log_q = (t.double() for t in chunks(densities, ("refined", now), dict(space.batch), u))
            log_q = log_q.nan_to_num(-math.inf, math.inf, -math.inf)  # beyond the guide's support
            mixed = (
                log_q
                if student is None
                else torch.logaddexp(math.log(share) + log_q, math.log1p(-share) + student.log_prob(u.double()))
            )
            stream.add((log_p - mixed).nan_to_num(-math.inf, math.inf, -math.inf))
            if guided:
                own = weigh(space.pair, space.batch, now, space.nesting).double() if space.summed else log_p - log_q
                total = total.to(own.device) + own.sum(0)
    return stream.result("refined")._replace(elbo=total / from_guide)


def _cut(count: int, size: int) -> list[int]:
    """Cut a number of draws into chunks of ``size`` and a remainder."""
    return [size] * (count // size) + ([count % size] if count % size else [])


class _Stream:
    """Log-weights summed in float64, chunk by chunk: only sums and the largest weights are kept."""

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

    def result(self, proposal: str) -> Evidence:
        k = self.num_samples
        ess = torch.exp(2 * self.log_sum - self.log_squares).clamp(1, k)
        stderr = (1 / ess - 1 / k).clamp(min=0).sqrt()
        khat = khat_of_tail(self.largest, k)
        return Evidence(self.log_sum - math.log(k), stderr, ess, khat, self.total / k, proposal)
