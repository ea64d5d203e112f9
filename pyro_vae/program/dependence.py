"""Checks of dependence: of sites on chance, of a datum on others, of data on latent variables."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pyro
import pyro.poutine as poutine
import torch
from pyro.poutine import Trace
from torch import Tensor

from pyro_vae.program.contract import Look, Problem
from pyro_vae.program.pair import Batch, Pair
from pyro_vae.program.sites import (
    MANY_PASSES,
    innermost,
    is_deterministic,
    is_latent,
    is_point,
    is_site,
    passes_of,
    samples,
)
from pyro_vae.program.tracing import trace_of
from pyro_vae.program.weights import data_frame, log_prob
from pyro_vae.runs import seeded

RUNS = 14  # a site present in one run of three is noticed in 99.6 % of programs
LEFT_OUT = "other data of the batch are left out"
STEP = 0.1  # parameters are moved by it at random, where a net that begins at zero would hide what it reads


def steady(look: Look) -> Iterator[Problem]:
    """Each program must have the same sites in every call."""
    first = [_structure(trace) for trace in look.structure]
    model = poutine.replay(look.pair.bound_model, trace=_costly(look.structure[1]))
    for seed in range(1, RUNS):
        try:
            traces = look.apart(seed, model)
        except Exception:  # values that only the prior draws may suit no net; training never sees them
            continue
        for was, trace, who in zip(first, traces, (look.guide_name, look.model_name), strict=True):
            now = _structure(trace)
            odd = [name for name in was | now if was.get(name) != now.get(name)]
            if odd:
                has, had = (", ".join(map(repr, sites)) or "none" for sites in (now, was))
                how = (
                    f"({had} in one call and {has} in another)"
                    if now.keys() != was.keys()
                    else "(its plates, its shape or its distribution)"
                )
                yield Problem(
                    odd[0],
                    f"the sites of {who} differ from call to call, first {odd[0]!r} {how}",
                    "Sample the same sites at every call; let a mask or a discrete site decide, not Python",
                )
                return


def _costly(trace: Trace) -> Trace:
    """Return the draws of a trace that took many passes of a net, which are not made again."""
    kept = Trace()
    for name, site in samples(trace).items():
        if passes_of(site["fn"]) > MANY_PASSES and not site["is_observed"]:
            kept.add_node(name, **site)
    return kept


def _structure(trace: Trace) -> dict[str, Any]:
    return {
        name: (
            site["is_observed"],
            {(f.name, f.dim) for f in site["cond_indep_stack"]},
            tuple(site["fn"].event_shape),
            type(innermost(site["fn"])),
        )
        for name, site in trace.nodes.items()
        if is_site(site) and not is_deterministic(site)
    }


def of_each_datum(look: Look) -> Iterator[Problem]:
    """The densities of a datum must not change when only other data of the batch change.

    A random half of the batch is kept, with its latent values; the others all become copies of one
    of its data. Then the other half. At last the second half of the batch is left out.
    """
    if look.size < 2:
        return
    pair = look.pair
    guide, model = look.traces()
    programs = (
        (
            pair.bound_guide,
            guide,
            "q",
            "Let q of a datum read its own fields alone: no mean, norm, sort or sum over the batch",
        ),
        (pair.bound_model, model, "p", "Let each datum read its own latent values and fields alone"),
    )
    for bound, trace, letter, change in programs:
        latent = {name: site for name, site in samples(trace).items() if not site["is_observed"]}
        values = {name: site["value"].detach().clone() for name, site in latent.items()}
        found = _meddles(look, bound, latent, values)
        if found is not None:
            name, when = found
            yield Problem(
                name,
                f"log {letter} of site {name!r} of {bound.name} at a datum changes when only {when}",
                f"{change}; what data share belongs in a site outside the plate {pair.data_plate!r}",
            )
            return


def _meddles(
    look: Look, bound: Callable, sites: Mapping[str, Any], values: Mapping[str, Tensor]
) -> tuple[str, str] | None:
    """Return a site whose density at a datum depends on another datum, and on what of it, if one is
    found.
    """
    same = _at(look.pair, bound, look.batch, values)
    again = _at(look.pair, bound, look.batch, values, seed=1)
    noiseless = {name for name in same.keys() & again.keys() if torch.equal(same[name], again[name])}
    order = torch.randperm(look.size, generator=torch.Generator().manual_seed(0))
    half = look.size // 2
    trials = [(kept, _only(kept, look.size), "other data of the batch change") for kept in (order[:half], order[half:])]
    first = torch.arange(half)  # where they were: a program may have a parameter for each position
    for kept, index, when in [*trials, (first, first, LEFT_OUT)]:
        batch = {name: value[index.to(value.device)] for name, value in look.batch.items()}
        moved = {name: _take(look, sites[name], value, index) for name, value in values.items()}
        try:
            other = _at(look.pair, bound, batch, moved)
        except Exception:  # other lengths, other shapes: nothing to compare
            continue
        # where fewer data draw less noise of a program's own, only what noise does not touch is comparable
        for name in same.keys() & other.keys() & (noiseless if when is LEFT_OUT else same.keys()):
            here, there = same[name], other[name]
            comparable = here.shape == (look.size,) and there.shape == (len(index),)
            if comparable and not _close(here[kept], there[kept]):
                return name, when
    return None


def _only(kept: Tensor, size: int) -> Tensor:
    """Return an index of ``size`` data that leaves the ``kept`` ones and copies the first of them
    elsewhere.
    """
    index = torch.full((size,), int(kept[0]))
    index[kept] = kept
    return index


def _take(look: Look, site: Mapping[str, Any], value: Tensor, index: Tensor) -> Tensor:
    """Return a site's value with other rows of the data plate; that of a site outside as it is."""
    frame = data_frame(site, look.pair)
    if frame is None:
        return value
    dim = frame.dim - len(site["fn"].event_shape)
    return (
        value
        if value.dim() < -dim or value.shape[dim] != look.size
        else value.index_select(dim, index.to(value.device))
    )


def _at(pair: Pair, bound: Callable, batch: Batch, values: Mapping[str, Tensor], seed: int = 0) -> dict[str, Tensor]:
    """Return the log-density of each site in the data plate, by datum ``(batch,)``, at the given
    latent values.
    """
    with seeded(seed), torch.no_grad(), pyro.validation_enabled(False):
        trace = trace_of(poutine.condition(bound, data=dict(values)), batch)
        found = {}
        for name, site in trace.nodes.items():
            if not is_site(site) or is_deterministic(site) or data_frame(site, pair) is None:
                continue
            density = _density(site)
            found[name] = density.reshape(-1, density.shape[-1]).sum(0) if density.dim() else density
    return found


def _density(site: Mapping[str, Any]) -> Tensor:
    """Return a site's log-probability; of a point, where it lies, as a rounding error has no
    density; a draw, which the same noise makes comparable, where there is none at given values.
    """
    fn = site["fn"]
    if is_point(fn):
        return _total(fn, innermost(fn).v)
    try:
        return log_prob(site).expand(fn.batch_shape)
    except (NotImplementedError, KeyError):
        return _total(fn, fn())


def _total(fn: Any, value: Tensor) -> Tensor:
    """Return a value summed over its event dims, in place of a density."""
    return value.reshape(*value.shape[: value.dim() - len(fn.event_shape)], -1).sum(-1).expand(fn.batch_shape)


def _close(here: Tensor, there: Tensor) -> bool:
    tolerance = 1e-9 if here.dtype is torch.float64 else 1e-5
    return bool(torch.isclose(here, there, rtol=tolerance, atol=tolerance, equal_nan=True).all())


def on_latents(look: Look) -> Iterator[Problem]:
    """Some observed site must depend on some latent one, if there are any."""
    draws = [_latents(look.structure[1]), _latents(look.apart(1)[1])]
    if not draws[0] or all(torch.equal(value, draws[1].get(name, value)) for name, value in draws[0].items()):
        return  # without latent variables, or with a prior of one point, there is nothing to depend on
    if _moves(look, draws):
        return
    with _shaken(look.pair):
        if _moves(look, draws):
            return
    names = ", ".join(map(repr, draws[0]))
    observed = ", ".join(repr(n) for n, s in samples(look.structure[1]).items() if s["is_observed"])
    yield Problem(
        next(iter(draws[0])),
        f"no observed site of {look.model_name} depends on a latent one: log p of {observed} is the same "
        f"whatever {names} "
        "is, so the posterior is the prior",
        f"Let the distribution of {observed} read them, or leave the latent sites out of both programs",
    )


def _latents(model: Trace) -> dict[str, Tensor]:
    return {name: site["value"].detach() for name, site in samples(model).items() if is_latent(site)}


def _moves(look: Look, draws: list[dict[str, Tensor]]) -> bool:
    """Return whether log p of the observed sites differs between two draws of the latent ones."""
    totals = []
    for values in draws:
        with seeded(0), torch.no_grad(), pyro.validation_enabled(False):
            trace = trace_of(poutine.condition(look.pair.bound_model, data=values), look.batch)
            totals.append(
                {n: _density(s) for n, s in trace.nodes.items() if is_site(s) and s["is_observed"] and n not in values}
            )
    first, second = totals
    return any(not torch.equal(value, second[name]) for name, value in first.items() if name in second)


@contextmanager
def _shaken(pair: Pair) -> Iterator[None]:
    """Every parameter moved a little inside; bit for bit as it was afterwards."""
    parameters = list(pair.named_parameters().values())
    before = [p.detach().clone() for p in parameters]
    with torch.no_grad():
        try:
            for p in parameters:
                p.add_(STEP * torch.randn_like(p))
            yield
        finally:
            for p, old in zip(parameters, before, strict=True):
                p.copy_(old)
