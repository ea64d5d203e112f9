"""How large log p(x) is, by importance sampling from the guide; for any pair, in nats per datum.

Everything rests on the log-weights log w = log p(x, z) - log q(z | x) of draws z ~ q(z | x): their mean is the ELBO,
their log-mean-exp estimates log p(x) from below, and their tail tells how far to trust it.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import pyro
import pyro.poutine as poutine
import torch
from pyro.distributions.util import scale_and_mask, sum_rightmost
from pyro.ops.contract import einsum
from pyro.poutine import Trace
from pyro.poutine.indep_messenger import CondIndepStackFrame
from torch import Tensor

from pyro_vae.handlers import is_enumerated, is_latent, is_site
from pyro_vae.pairing import Batch, Pair, PairError
from pyro_vae.tails import khat_of_tail, tail_size

PARTICLES = "_particles"
ROWS = 4096  # draws decoded at a time: activations of this many rows stay near the processor's caches


class Evidence(NamedTuple):
    """log p(x) by importance sampling; every tensor ``(data,)``, float64, in data order."""

    estimate: Tensor  # log of the mean weight: a lower bound in expectation, exact as draws grow
    stderr: Tensor  # Monte Carlo standard error of the estimate (delta method)
    ess: Tensor  # effective number of draws, 1 to num_samples
    khat: Tensor  # Pareto shape of the largest weights: below 0.7 the estimate and its error are to be believed
    elbo: Tensor  # mean log-weight of the same draws

    @property
    def mean(self) -> float:
        """Mean estimate over the data."""
        return self.estimate.mean().item()

    @property
    def mean_stderr(self) -> float:
        """Monte Carlo standard error of the mean."""
        return (self.stderr.square().sum().sqrt() / len(self.stderr)).item()


class ElboTable(NamedTuple):
    """The ELBO at beta = 1 and its parts, in nats per datum; ``elbo`` is the sum of ``sites``."""

    elbo: float
    reconstruction: float  # E_q log p of the observed sites
    kl: float  # E_q log q - log p of the latent sites
    sites: dict[str, float]  # what each site adds to the ELBO: -KL for a latent site


def log_weights(pair: Pair, batch: Batch, num_samples: int = 1) -> Tensor:
    """Log importance weights log p(x, z) - log q(z | x) of ``num_samples`` draws: ``(num_samples, batch)``.

    Enumerated sites are summed over exactly. Plates inside the data plate are summed, subsampling and ``poutine.scale`` are
    not counted (these are densities), masks are. Differentiable: handlers and gradients work as in any Pyro program.

    Raises:
        PairError: for a pair whose latent variables lie outside the data plate: the data then depend on each other
            and no datum has a weight of its own.
    """
    nesting = plate_nesting(pair, batch)
    if not _takes_particles(pair, batch, nesting):
        return torch.cat([_weigh(pair, batch, None, nesting) for _ in range(num_samples)])
    return _weigh(pair, batch, num_samples, nesting)


def log_evidence(
    pair: Pair,
    data: Batch | Iterable[Batch],
    *,
    num_samples: int = 5000,
    rows: int = ROWS,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Evidence:
    """Estimate log p(x) of every datum, in nats, with standard error, effective sample size and k-hat.

    Burda et al. (2015), arXiv 1509.00519, eq. 8 with ``num_samples`` = K (5000 for figures to report). Runs in chunks
    of about ``rows`` draws whatever K and the number of data, adding up in float64, so memory stays bounded.

    Args:
        data: one batch, or an iterable of batches such as ``data.batches("test", 500)``.
        seed: of the draws; the global random state is left as it was.
        progress: called with the number of data finished.
    """
    if num_samples < 1:
        raise ValueError(f"num_samples must be at least 1, got {num_samples}")
    done: list[Evidence] = []
    with evaluation(pair, seed):
        for batch in _batches(data):
            size = _size(batch)
            width = max(1, min(size, rows // min(num_samples, 64)))
            for start in range(0, size, width):
                part = {name: tensor[start : start + width] for name, tensor in batch.items()}
                done.append(_estimate(pair, part, num_samples, rows))
                if progress is not None:
                    progress(_size(part))
    return Evidence(*(torch.cat(column) for column in zip(*done, strict=True)))


def elbo(pair: Pair, data: Batch | Iterable[Batch], *, num_samples: int = 1, seed: int = 0) -> ElboTable:
    """Return the ELBO (beta = 1) by site, averaged over the data and ``num_samples`` draws each.

    Factors of enumerated sites are summed out together and appear under the joined names of their sites.
    """
    sums: dict[str, float] = {}
    observed: set[str] = set()
    count = 0
    with evaluation(pair, seed):
        for batch in _batches(data):
            nesting = plate_nesting(pair, batch)
            vectorized = _takes_particles(pair, batch, nesting)
            for _ in range(1 if vectorized else num_samples):
                terms, names = _terms(pair, batch, num_samples if vectorized else None, nesting)
                observed |= names
                for name, term in terms.items():
                    share = term.double().sum().item() / (num_samples if not vectorized else term.shape[0])
                    sums[name] = sums.get(name, 0.0) + share
            count += _size(batch)
    sites = {name: value / count for name, value in sums.items()}
    reconstruction = math.fsum(value for name, value in sites.items() if name in observed)
    total = math.fsum(sites.values())
    return ElboTable(total, reconstruction, reconstruction - total, sites)


def posterior_means(
    pair: Pair, data: Batch | Iterable[Batch], *, num_samples: int = 16, seed: int = 0
) -> dict[str, Tensor]:
    """E[z | x] under the guide for every latent vector site in the data plate: ``(data, latent)``.

    The mean of the site's distribution averaged over ``num_samples`` draws of the sites above it.
    """
    means: dict[str, list[Tensor]] = {}
    with evaluation(pair, seed):
        for batch in _batches(data):
            nesting = plate_nesting(pair, batch)
            draws = num_samples if _takes_particles(pair, batch, nesting) else None
            trace, _ = run(pair, batch, draws, nesting, enumerate_sites=False)
            for name, site in trace.nodes.items():
                frames = {frame.name for frame in site["cond_indep_stack"]} if is_latent(site) else set()
                if frames - {PARTICLES} == {pair.data_plate} and site["value"].is_floating_point():
                    draws_of_mean = _mean(site).reshape(-1, _size(batch), math.prod(site["fn"].event_shape))
                    means.setdefault(name, []).append(draws_of_mean.mean(0))
    return {name: torch.cat(parts) for name, parts in means.items()}


def active_units(means: Mapping[str, Tensor], threshold: float = 0.01) -> dict[str, int]:
    """Count per site the dimensions with Var_x E[z_j | x] above the threshold (Burda et al. 2015, section 5)."""
    return {name: int((mean.var(0, correction=0) > threshold).sum()) for name, mean in means.items()}


def plate_nesting(pair: Pair, batch: Batch) -> int:
    """How many batch dimensions the pair's plates use, counted from the right."""
    with torch.no_grad(), poutine.block(), _quiet_random():
        guide = poutine.trace(pair.bound_guide).get_trace(batch)
        model = poutine.trace(poutine.replay(pair.bound_model, trace=guide)).get_trace(batch)
    dims = [
        -frame.dim
        for trace in (guide, model)
        for site in trace.nodes.values()
        if site["type"] == "sample"
        for frame in site["cond_indep_stack"]
        if frame.vectorized
    ]
    return max(dims, default=0)


def run(
    pair: Pair, batch: Batch, num_samples: int | None, nesting: int, *, enumerate_sites: bool = True
) -> tuple[Trace, Trace]:
    """Trace guide and model, with ``num_samples`` particles on the left when given.

    Sites marked for enumeration take all their values in parallel, on dims left of the particles, or are drawn
    like any other when ``enumerate_sites`` is false.
    """

    def vectorize(program: Callable) -> Callable:
        if num_samples is None:
            return program
        return pyro.plate(PARTICLES, num_samples, dim=-nesting - 1)(program)

    if not enumerate_sites:
        guide = poutine.trace(vectorize(pair.bound_guide)).get_trace(batch)
        return guide, poutine.trace(poutine.replay(vectorize(pair.bound_model), trace=guide)).get_trace(batch)
    first = -nesting - 2
    guide = poutine.trace(poutine.enum(vectorize(pair.bound_guide), first_available_dim=first)).get_trace(batch)
    enumerated = poutine.enum(vectorize(pair.bound_model), first_available_dim=first - _enumerated_dims(guide))
    model = poutine.trace(poutine.replay(enumerated, trace=guide)).get_trace(batch)
    return guide, model


def _enumerated_dims(trace: Trace) -> int:
    return sum(is_enumerated(s) for s in trace.nodes.values() if s["type"] == "sample" and not s["is_observed"])


def _weigh(pair: Pair, batch: Batch, num_samples: int | None, nesting: int) -> Tensor:
    terms, _ = _terms(pair, batch, num_samples, nesting)
    return torch.stack(torch.broadcast_tensors(*terms.values())).sum(0)


def _terms(pair: Pair, batch: Batch, num_samples: int | None, nesting: int) -> tuple[dict[str, Tensor], set[str]]:
    """What each site adds to log w, each ``(num_samples or 1, batch)``, and the names of the observed ones."""
    guide, model = run(pair, batch, num_samples, nesting)
    sites = {name: site for name, site in model.nodes.items() if is_site(site)}
    summed = [name for name, site in sites.items() if is_enumerated(site) and not site["is_observed"]]
    factors = {name: _log_prob(site) for name, site in sites.items()}
    for name, site in guide.nodes.items():
        # an enumerated guide site proposes nothing: its values are all there
        if is_site(site) and not is_enumerated(site):
            factors[f"q:{name}"] = -_log_prob(site)
            sites[f"q:{name}"] = site
    for name, site in sites.items():
        if _frame(site, pair) is None:
            raise PairError(
                f"site {name.removeprefix('q:')!r} lies outside the plate {pair.data_plate!r}, so the data depend on each "
                "other and no datum has a log p(x) of its own; move it inside, or name the data's plate with data_plate="
            )
    terms: dict[str, Tensor] = {}
    observed = {name for name, site in sites.items() if site["is_observed"] and not name.startswith("q:")}
    if summed:
        name = ",".join(sorted({n.removeprefix("q:") for n in factors if _enumerated(factors[n], nesting)}))
        joint = {n: f for n, f in factors.items() if _enumerated(f, nesting)}
        terms[name] = _sum_out(pair, guide, model, list(joint), nesting)
        observed.add(name)
        factors = {n: f for n, f in factors.items() if n not in joint}
    data_dim = next(f.dim for f in (_frame(s, pair) for s in sites.values()) if f is not None)
    for name, factor in factors.items():
        kept = _keep(factor, data_dim, nesting)
        key = name.removeprefix("q:")
        terms[key] = terms[key] + kept if key in terms else kept
    width = num_samples or 1
    return {name: term.expand(width, _size(batch)) for name, term in terms.items()}, observed


def _frame(site: Mapping, pair: Pair) -> CondIndepStackFrame | None:
    return next((f for f in site["cond_indep_stack"] if f.name == pair.data_plate), None)


def _log_prob(site: Mapping) -> Tensor:
    log_prob = site["fn"].log_prob(site["value"], *site["args"], **site["kwargs"])
    return scale_and_mask(log_prob, 1.0, site["mask"])


def _enumerated(factor: Tensor, nesting: int) -> bool:
    return factor.dim() > nesting + 1


def _keep(factor: Tensor, data_dim: int, nesting: int) -> Tensor:
    """Sum over every plate but the data's and the particles': ``(particles or 1, batch)``."""
    factor = factor.reshape((1,) * (nesting + 1 - factor.dim()) + factor.shape)
    factor = factor.movedim(data_dim, 0).movedim(1 if nesting else 0, 0)  # particles, data, inner plates
    return sum_rightmost(factor, factor.dim() - 2)


def _sum_out(pair: Pair, guide: Trace, model: Trace, names: list[str], nesting: int) -> Tensor:
    """log sum exp over the enumerated sites of the product of the named factors: ``(particles or 1, batch)``."""
    guide.compute_log_prob()
    model.compute_log_prob()
    guide.pack_tensors()
    model.pack_tensors(guide.plate_to_symbol)
    symbols = guide.plate_to_symbol | model.plate_to_symbol
    outer = "".join(symbols[name] for name in (PARTICLES, pair.data_plate) if name in symbols)
    inner = "".join(symbol for name, symbol in symbols.items() if symbol not in outer)
    operands = []
    for name in names:
        trace = guide if name.startswith("q:") else model
        packed = trace.nodes[name.removeprefix("q:")]["packed"]
        log_prob = scale_and_mask(packed["unscaled_log_prob"], 1.0, packed["mask"])
        dims = packed["unscaled_log_prob"]._pyro_dims
        operands.append((-log_prob if trace is guide else log_prob, dims))
    present = set("".join(dims for _, dims in operands))
    out = "".join(s for s in outer if s in present)
    equation = ",".join(dims for _, dims in operands) + "->" + out
    (result,) = einsum(
        equation,
        *(o for o, _ in operands),
        plates="".join(s for s in inner if s in present),
        backend="pyro.ops.einsum.torch_log",
        modulo_total=True,  # data and particles are no plates here, so no factor is left open
    )
    return result if len(out) == 2 else result.unsqueeze(0)


def _takes_particles(pair: Pair, batch: Batch, nesting: int) -> bool:
    """Whether the programs accept particles on the left; those that reshape by hand may not and are run in a loop."""
    try:
        with torch.no_grad(), poutine.block(), _quiet_random():
            _terms(pair, batch, 2, nesting)
    except PairError:
        raise
    except (RuntimeError, ValueError, IndexError, TypeError):
        return False
    return True


def _estimate(pair: Pair, batch: Batch, num_samples: int, rows: int) -> Evidence:
    stream = _Stream(num_samples)
    nesting = plate_nesting(pair, batch)
    together = max(1, rows // _size(batch)) if _takes_particles(pair, batch, nesting) else None
    left = num_samples
    while left:
        now = 1 if together is None else min(left, together)
        stream.add(_weigh(pair, batch, None if together is None else now, nesting).double())
        left -= now
    return stream.result()


class _Stream:
    """Log-weights added up in float64, chunk by chunk: only sums and the largest weights are kept."""

    def __init__(self, num_samples: int) -> None:
        self.num_samples = num_samples
        self.tail = tail_size(num_samples)
        self.log_sum = self.log_squares = self.total = torch.tensor(0.0)
        self.largest = torch.empty(0)
        self.started = False

    def add(self, log_w: Tensor) -> None:
        log_sum, log_squares = log_w.logsumexp(0), (2 * log_w).logsumexp(0)
        keep = min(self.tail + 1, self.num_samples)
        if not self.started:
            self.log_sum, self.log_squares, self.total = log_sum, log_squares, log_w.sum(0)
            self.largest = log_w.topk(min(keep, len(log_w)), 0).values
            self.started = True
            return
        self.log_sum = torch.logaddexp(self.log_sum, log_sum)
        self.log_squares = torch.logaddexp(self.log_squares, log_squares)
        self.total = self.total + log_w.sum(0)
        both = torch.cat([self.largest, log_w])
        self.largest = both.topk(min(keep, len(both)), 0).values

    def result(self) -> Evidence:
        k = self.num_samples
        ess = torch.exp(2 * self.log_sum - self.log_squares).clamp(1, k)
        stderr = (1 / ess - 1 / k).clamp(min=0).sqrt()
        khat = khat_of_tail(self.largest, k)
        return Evidence(self.log_sum - math.log(k), stderr, ess, khat, self.total / k)


def _mean(site: Mapping) -> Tensor:
    try:
        return site["fn"].mean
    except NotImplementedError:
        return site["value"]


def _size(batch: Batch) -> int:
    return len(next(iter(batch.values())))


def _batches(data: Batch | Iterable[Batch]) -> Iterable[Batch]:
    return [data] if isinstance(data, Mapping) else data


@contextmanager
def _quiet_random() -> Iterator[None]:
    """Leave torch's random state as it was."""
    with torch.random.fork_rng():
        yield


@contextmanager
def evaluation(pair: Pair, seed: int) -> Iterator[None]:
    """No gradients, evaluation mode, seeded draws; everything as it was afterwards."""
    training = pair.training
    with torch.no_grad(), torch.random.fork_rng(), pyro.validation_enabled(False):
        torch.manual_seed(seed)
        pair.train(False)
        try:
            yield
        finally:
            pair.train(training)
