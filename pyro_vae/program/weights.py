"""Log importance weights of any pair per datum: what evidence and diagnostics are made of.

A pair is run as it is; what comes out is the log-probability of every site, with the plates inside
the data plate and the enumerated values summed out, so that each datum has its own.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Literal, NamedTuple

import pyro
import pyro.poutine as poutine
import torch
from pyro.distributions import MaskedDistribution
from pyro.distributions.util import scale_and_mask, sum_rightmost
from pyro.ops.contract import einsum
from pyro.ops.packed import pack
from pyro.poutine import Trace
from pyro.poutine.indep_messenger import CondIndepStackFrame
from torch import Tensor

from pyro_vae.program.alone import alone
from pyro_vae.program.batches import batches
from pyro_vae.program.checking_runs import runs
from pyro_vae.program.contract import Look
from pyro_vae.program.handlers import subsampled_plates, whole_plates
from pyro_vae.program.normalizers import require_normalized
from pyro_vae.program.pair import Batch, Pair, PairError, size_of
from pyro_vae.program.particle_plate import PARTICLES, particles, stacking, warn_of_left
from pyro_vae.program.sites import innermost, is_deterministic, is_latent, is_site
from pyro_vae.program.tracing import trace_pair

NEVER = -1e20
"""A log-probability below it stands for that of 0: some programs write it as a large finite number."""


class Terms(NamedTuple):
    """What each site adds to a log-weight."""

    sites: dict[str, Tensor]  # (num_samples or 1, batch): log p of an observed site, log p - log q of a latent one
    observed: set[str]  # names of the sites that hold data


def log_weights(pair: Pair, batch: Batch, num_samples: int = 1) -> Tensor:
    """Log importance weights log p(x, z) - log q(z | x) of ``num_samples`` draws: ``(num_samples,
    batch)``.

    Enumerated sites are summed over exactly. Plates inside the data plate are summed; one that
    takes a subsample holds all its data here. ``poutine.scale`` is not counted (these are
    densities), masks are, except on sites that are summed out: there the probabilities of the
    values add up to 1, observed or not. Differentiable: handlers and gradients work as in any Pyro
    program.

    Raises:
        PairError: for a pair whose latent variables lie outside the data plate: the data then
            depend on each other and no datum has a weight of its own; and for a model without a
            density.
    """
    require_normalized(pair)
    nesting = plate_nesting(pair, batch)
    if num_samples == 1 or takes_particles(pair, batch, nesting):
        return weigh(pair, batch, num_samples, nesting)
    return torch.cat([weigh(pair, batch, None, nesting) for _ in range(num_samples)])


def weigh(pair: Pair, batch: Batch, num_samples: int | None, nesting: int) -> Tensor:
    """Return log-weights ``(num_samples or 1, batch)`` from one run of the programs."""
    parts = terms(pair, batch, num_samples, nesting).sites
    total = torch.stack(torch.broadcast_tensors(*parts.values())).sum(0)
    return torch.where(total < NEVER, -torch.inf, total)


def plate_nesting(pair: Pair, batch: Batch) -> int:
    """Return how many batch dimensions the pair's plates use, counted from the right.

    Raises:
        PairError: a program does not run on the batch, or on a subsample of its data only.
    """
    with torch.no_grad(), poutine.block(), torch.random.fork_rng(), pair.evaluating():
        try:
            traces = run(pair, batch, None, 0, enumerate_sites=False)
        except Exception as error:
            _refuse_subsample(pair, batch, error)
            _refuse(pair, batch, error)
            raise
    dims = [
        -frame.dim
        for trace in traces
        for site in trace.nodes.values()
        if site["type"] == "sample"
        for frame in site["cond_indep_stack"]
        if frame.vectorized
    ]
    return max(dims, default=0)


def _refuse(pair: Pair, batch: Batch, error: Exception) -> None:
    """Raise in the words of ``check_pair`` if it finds why the programs do not run."""
    problems = [] if isinstance(error, PairError) else list(runs(Look(pair, batch)))
    if problems:
        raise PairError("\n".join(map(str, problems))) from error


def _refuse_subsample(pair: Pair, batch: Batch, error: Exception) -> None:
    """Raise if the programs fail on all data and run only on the subsample that a plate chooses."""
    try:
        with subsampled_plates():
            guide, model = trace_pair(pair.bound_guide, pair.bound_model, batch)
    except Exception:
        return
    frames = {f for t in (guide, model) for s in t.nodes.values() if is_site(s) for f in s["cond_indep_stack"]}
    for frame in frames:
        if frame.full_size not in (None, frame.size):
            first = (str(error).splitlines() or [type(error).__name__])[0]
            raise PairError(
                f"plate {frame.name!r} has size {frame.size} and {frame.full_size} to choose from, and the "
                "programs fail on all of them "
                f"({first}); open it with the full size, or take all sizes from the plate's indices"
            ) from error


def takes_particles(pair: Pair, batch: Batch, nesting: int) -> bool:
    """Return whether the programs give the same with particles on the left; those that do not are
    run in a loop.

    Some reshape by hand and fail; some count dimensions from the left and come out otherwise, of
    which a warning tells.
    """
    with torch.no_grad(), poutine.block(), torch.random.fork_rng(), pair.evaluating():
        found = stacking(lambda n: run(pair, batch, n, nesting), nesting)
    if found.program is not None and not found.own_randomness:
        bound = (pair.bound_guide, pair.bound_model)[found.program]
        warn_of_left(bound, bound.name)
    return found.sound


def run(
    pair: Pair,
    batch: Batch,
    num_samples: int | None,
    nesting: int,
    *,
    enumerate_sites: bool | Literal["model"] = True,
) -> tuple[Trace, Trace]:
    """Trace guide and model, with ``num_samples`` particles on the left when given.

    Sites marked for enumeration take all their values in parallel, on dims left of the particles,
    or are drawn like any other when ``enumerate_sites`` is false; with "model" those that the guide
    has are drawn by it. One particle needs no plate, and plates that choose a subsample hold all.
    """
    q, p = (particles(program, num_samples, nesting) for program in (pair.bound_guide, pair.bound_model))
    if enumerate_sites == "model":
        p = poutine.enum(p, first_available_dim=-nesting - 2)
    elif enumerate_sites:
        # without a first dim, Pyro goes on with the dims where the guide stopped, and knows the guide's
        q, p = poutine.enum(q, first_available_dim=-nesting - 2), poutine.enum(p)
    with whole_plates():
        return trace_pair(q, p, batch)


def terms(pair: Pair, batch: Batch, num_samples: int | None, nesting: int, *, marginal: bool = True) -> Terms:
    """Return what each site adds to log w.

    The model's own enumerated sites are summed out: they and all that depends on them become one
    term, named after all of them. So are the guide's with ``marginal``; without it the term of
    every site is its expectation under q, as in the ELBO.
    """
    require_normalized(pair)
    guide, model = run(pair, batch, num_samples, nesting)
    for name, site in model.nodes.items():
        if is_latent(site) and name not in guide.nodes and site["infer"].get("_enumerate_dim") is None:
            raise PairError(
                f"guide {pair.bound_guide.name} does not sample latent site {name!r} of "
                f"{pair.bound_model.name}, and it is not enumerated "
                'in parallel, so draws have no weight; add it to the guide, or mark it infer={"enumerate": "parallel"}'
            )
    return add_up(pair, guide, model, num_samples or 1, size_of(batch), nesting, marginal=marginal)


def add_up(
    pair: Pair, guide: Trace, model: Trace, num_samples: int, size: int, nesting: int, *, marginal: bool = True
) -> Terms:
    """Return the terms of two traces of ``run``, with ``num_samples`` particles and ``size`` data."""
    sites = {name: site for name, site in model.nodes.items() if _counts(site)}
    proposed = _enumerated_dims(guide)
    summed = _enumerated_dims(model).keys() - (set() if marginal else proposed.keys())
    factors = {name: _bare_log_prob(site) if name in summed else log_prob(site) for name, site in sites.items()}
    for name, site in guide.nodes.items():
        # with marginal, an enumerated guide site proposes nothing: its values are all there
        if _counts(site) and not (marginal and name in proposed):
            factors[f"q:{name}"] = -log_prob(site)
            sites[f"q:{name}"] = site
    for name, site in sites.items():
        _require_local(pair, name.removeprefix("q:"), site, size)
    observed = {name for name, site in sites.items() if site["is_observed"] and not name.startswith("q:")}
    gone = set(_enumerated_dims(model).values()) - (set() if marginal else set(proposed.values()))
    joint = [name for name, factor in factors.items() if any(_has(factor, dim) for dim in gone)]
    if joint:
        name = ",".join(sorted({n.removeprefix("q:") for n in joint}))
        kept = {} if marginal else proposed
        factors = {n: f for n, f in factors.items() if n not in joint} | {
            name: _sum_out(pair, guide, model, {n: factors[n] for n in joint}, kept)
        }
        sites[name] = sites[joint[0]]
        observed.add(name)
    if not marginal and proposed:
        log_q = {name: _bare_log_prob(guide.nodes[name]) for name in proposed}
        factors = {name: _expect(factor, log_q, proposed, nesting) for name, factor in factors.items()}
    data_dim = next(f.dim for f in (data_frame(s, pair) for s in sites.values()) if f is not None)
    result: dict[str, Tensor] = {}
    for name, factor in factors.items():
        kept_term = per_datum(factor, data_dim, nesting)
        key = name.removeprefix("q:")
        result[key] = result[key] + kept_term if key in result else kept_term
    return Terms({name: term.expand(num_samples, size) for name, term in result.items()}, observed)


def data_frame(site: Mapping, pair: Pair) -> CondIndepStackFrame | None:
    """Return the frame of the data plate around a site of a trace, if it lies in it."""
    return next((f for f in site["cond_indep_stack"] if f.name == pair.data_plate), None)


def _counts(site: Mapping) -> bool:
    return is_site(site) and not is_deterministic(site)


def _require_local(pair: Pair, name: str, site: Mapping, size: int) -> None:
    frame = data_frame(site, pair)
    if frame is None and site["is_observed"]:
        raise PairError(
            f"site {name!r} lies outside the plate {pair.data_plate!r}: it belongs to all data together, so "
            "no datum has a log p(x) "
            "of its own; move it inside, leave it out, or name the data's plate with data_plate="
        )
    if frame is None:
        raise PairError(
            f"site {name!r} lies outside the plate {pair.data_plate!r}, so the data depend on each "
            "other and no datum has a log p(x) of its own; move it inside, or name the data's plate with data_plate="
        )
    if frame.size not in (1, size):
        raise PairError(
            f"plate {pair.data_plate!r} has size {frame.size} and the batch {size} data. "
            "Open it with the batch's size, len(x)"
        )


def _bare_log_prob(site: Mapping) -> Tensor:
    """Return the log-probability of a site's value, neither masked nor scaled: over all values it
    adds up to 1.
    """
    fn = innermost(site["fn"], (MaskedDistribution,))
    return fn.log_prob(site["value"], *site["args"], **site["kwargs"])


def log_prob(site: Mapping) -> Tensor:
    """Return the log-probability of a site's value, masked and not scaled: a density."""
    value = site["fn"].log_prob(site["value"], *site["args"], **site["kwargs"])
    return scale_and_mask(value, 1.0, site["mask"])


def _enumerated_dims(trace: Trace) -> dict[str, int]:
    """Return the dim that Pyro gave to each site enumerated in parallel."""
    sites = {name: site for name, site in trace.nodes.items() if is_site(site) and not site["is_observed"]}
    dims = {name: site["infer"].get("_enumerate_dim") for name, site in sites.items()}
    return {name: dim for name, dim in dims.items() if dim is not None}


def _has(factor: Tensor, dim: int) -> bool:
    return factor.dim() >= -dim and factor.shape[dim] > 1


def per_datum(factor: Tensor, data_dim: int, nesting: int) -> Tensor:
    """Return a factor summed over every plate but the data's and the particles': ``(particles or 1,
    batch)``.
    """
    factor = factor.reshape((1,) * (nesting + 1 - factor.dim()) + factor.shape)
    factor = factor.movedim(data_dim, 0).movedim(1 if nesting else 0, 0)  # particles, data, inner plates
    return sum_rightmost(factor, factor.dim() - 2)


def _expect(factor: Tensor, log_q: Mapping[str, Tensor], dims: Mapping[str, int], nesting: int) -> Tensor:
    """Average a factor over the guide's enumerated sites that it depends on, with their q."""
    weight = factor.new_zeros(())
    todo = [name for name, dim in dims.items() if _has(factor, dim)]
    done: set[str] = set()
    while todo:
        name = todo.pop()
        if name not in done:
            done.add(name)
            weight = weight + log_q[name]
            todo += [other for other, dim in dims.items() if _has(log_q[name], dim)]
    if done:
        weight = weight.exp()
        product = torch.where(weight == 0, 0.0, weight * factor)  # q = 0 counts for nothing, even where log p = -inf
        factor = product.sum([dims[name] for name in done], keepdim=True)
    return factor.reshape(factor.shape[max(0, factor.dim() - nesting - 1) :])


def _sum_out(pair: Pair, guide: Trace, model: Trace, factors: Mapping[str, Tensor], kept: Mapping[str, int]) -> Tensor:
    """Return log sum exp over the enumerated sites of the product of the factors.

    Dims: particles and data in their places, the inner plates of size 1, the ``kept`` enumerated
    dims in theirs.
    """
    guide.symbolize_dims()
    model.symbolize_dims(guide.plate_to_symbol)
    symbols = guide.plate_to_symbol | model.plate_to_symbol
    enumerated = {**guide.symbol_to_dim, **model.symbol_to_dim}
    operands = []
    for name, factor in factors.items():
        node = (guide if name.startswith("q:") else model).nodes[name.removeprefix("q:")]
        packed = pack(factor, node["infer"]["_dim_to_symbol"])
        operands.append((packed, packed._pyro_dims))
    present = set("".join(dims for _, dims in operands))
    frames = {frame.name: frame for site in model.nodes.values() if is_site(site) for frame in site["cond_indep_stack"]}
    place = {symbols[name]: frames[name].dim for name in (PARTICLES, pair.data_plate) if name in symbols}
    place |= {symbol: dim for symbol, dim in enumerated.items() if dim in kept.values()}
    out = "".join(sorted(present & place.keys(), key=lambda symbol: place[symbol]))
    plates = "".join(s for s in symbols.values() if s in present)
    equation = ",".join(dims for _, dims in operands) + "->" + out
    # modulo_total only allows an output at all: every factor is in the plates of particles and
    # data, so nothing is scaled
    (result,) = einsum(
        equation, *(o for o, _ in operands), plates=plates, backend="pyro.ops.einsum.torch_log", modulo_total=True
    )
    shape = [1] * -min([place[s] for s in out], default=0)
    for symbol, size in zip(out, result.shape, strict=True):
        shape[place[symbol]] = size
    return result.reshape(shape)


def pieces(data: Batch | Iterable[Batch], width: int) -> Iterator[dict[str, Tensor]]:
    """Yield the data in pieces of ``width``, so that figures do not depend on how they were
    batched.

    Raises:
        TypeError, ValueError: see ``batches``.
    """
    left: dict[str, Tensor] = {}
    for rest in batches(data):
        if left and any(left[name].shape[1:] != tensor.shape[1:] for name, tensor in rest.items()):
            yield left  # sequences padded to another length do not join
            left = {}
        rest = {name: torch.cat([left[name], tensor]) for name, tensor in rest.items()} if left else rest
        while size_of(rest) >= width:
            yield {name: tensor[:width] for name, tensor in rest.items()}
            rest = {name: tensor[width:] for name, tensor in rest.items()}
        left = rest if size_of(rest) else {}
    if left:
        yield left


@contextmanager
def evaluation(pair: Pair, seed: int) -> Iterator[None]:
    """Turn gradients off, evaluation mode on, and seed draws; everything is restored afterwards."""
    with (
        alone,
        torch.no_grad(),
        torch.random.fork_rng(),
        pyro.validation_enabled(False),
        pair.evaluating(),
        whole_plates(),
    ):
        torch.manual_seed(seed)
        yield
