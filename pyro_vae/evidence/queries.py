"""Probabilities of events under a pair's model, given others: by enumeration or weighted draws.

An event says something of the model's variables, "rain=1" or "k=3, x[5]>0.5": exact where all
that it takes is a sum over discrete variables, else by likelihood weighting, drawing the model with
what is given held and weighting by the probability of that.
"""

import math
import operator
import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import pyro.poutine as poutine
import torch
from pyro.distributions import constraints
from pyro.infer import TraceEnum_ELBO, config_enumerate
from torch import Tensor

from pyro_vae.options import suggestion
from pyro_vae.program import (
    NEVER,
    Batch,
    Pair,
    PairError,
    Verbs,
    data_frame,
    evaluation,
    is_discrete,
    log_prob,
    one_batch,
    pair_and_data,
    plate_nesting,
    samples,
    uncondition,
)

CHUNK = 10_000  # draws at a time
_SIGNS: dict[str, Callable[[Any, Any], Any]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "!=": operator.ne,
    "=": operator.eq,
    "<": operator.lt,
    ">": operator.gt,
}

Event = str | Mapping[str, Any]


class Condition(NamedTuple):
    """That a variable, or its number ``entry``, has to a value the relation ``sign``."""

    site: str
    entry: int | None
    sign: str
    value: Any

    def __str__(self) -> str:
        place = "" if self.entry is None else f"[{self.entry}]"
        value = "..." if torch.is_tensor(self.value) else f"{self.value:g}"
        return f"{self.site}{place}{self.sign}{value}"


class Answer(NamedTuple):
    """P(event | given).

    Attributes:
        probability: the estimate.
        stderr: its standard error, 0 where it is exact. Where no draw, or every draw, is of the
            event, 1 / ess in its place.
        ess: how many equally weighted draws the draws are worth; inf where it is exact.
        exact: whether it was summed, not drawn.
    """

    probability: float
    stderr: float
    ess: float
    exact: bool


def query(
    pair: Verbs,
    event: Event,
    given: Event | None = None,
    *,
    batch: Any = None,
    num_samples: int = 100_000,
    seed: int = 0,
) -> Answer:
    """Return P(event | given) under the model of any pair.

    Args:
        pair: a pair, whose guide is not used, or what ``fit`` and ``load`` return.
        event: "rain=1", conditions with a comma between, each a variable of the model, perhaps with
            the number of one of its entries, ``x[5]``, one of = != < <= > >=, and a number; or a
            mapping of variables to values, which then are equal. A one-hot variable is named by its
            class: "k=3".
        given: likewise, or None. A variable that is given as a whole is held and weighted with its
            density; of others, draws without the property count for nothing.
        batch: one datum or more, of which the first has the fields that the model is conditioned
            on, such as y, or `Data`; not needed for a pair from ``pyro_vae.pairs`` without any.
        num_samples: draws, where it has to be drawn.
        seed: of the draws.

    Raises:
        PairError: for an event that cannot be read or is not of this model, or a ``given`` that has
            probability 0 or that no draw agrees with.
    """
    wanted, known = _read(event, "event"), [] if given is None else _read(given, "given")
    if num_samples < 1:
        raise PairError(f"num_samples is the number of draws and must be at least 1, got {num_samples}")
    if not isinstance(pair, Pair):
        pair, batch = pair_and_data(pair, batch)
    one = _one_datum(pair, None if batch is None else one_batch(batch))
    with evaluation(pair, seed):
        sites = samples(poutine.trace(uncondition(pair.bound_model)).get_trace(one))
        for condition in wanted:
            _require(condition, sites, pair, "event")
        for condition in known:
            _require(condition, sites, pair, "given")
        held = {c.site: _value(c, sites[c.site]) for c in known if _is_whole(c)}
        if _countable(pair, [*wanted, *known], sites):
            return _counted(pair, one, wanted, known, sites)
        return _drawn(pair, one, wanted, known, held, num_samples)


def _read(event: Event, what: str) -> list[Condition]:
    """Return an event's conditions."""
    if not isinstance(event, str):
        numbers = {
            site: value if isinstance(value, int | float) else torch.as_tensor(value) for site, value in event.items()
        }
        return [Condition(site, None, "=", value) for site, value in numbers.items()]
    found = []
    for part in event.split(","):
        match = re.fullmatch(r"\s*(\w+)\s*(?:\[\s*(\d+)\s*\])?\s*(<=|>=|!=|==|=|<|>)\s*([-+.\w]+)\s*", part)
        try:
            value = float(match[4]) if match else math.nan
        except ValueError:
            value = math.nan
        if match is None or math.isnan(value):
            raise PairError(
                f"{what} {part.strip()!r} cannot be read; write a variable, one of = != < <= > >=, and a number, such "
                "as rain=1 or z[0]>1.5, with commas between"
            )
        sign = "=" if match[3] == "==" else match[3]
        found.append(Condition(match[1], None if match[2] is None else int(match[2]), sign, value))
    return found


def _one_datum(pair: Pair, batch: Batch | None) -> dict[str, Tensor]:
    """Return the fields of one datum that the model reads, its observed ones with any values."""
    bound = pair.bound_model
    if batch is not None:
        return {name: field[:1] for name, field in bound.arguments(batch).items()}
    shapes = pair.shapes or {}
    unknown = [name for name in bound.required if name not in shapes or name not in ("x", "seen", "mask")]
    if unknown:
        raise PairError(
            f"the model {bound.name} reads {unknown[0]!r}, which the query has to know; give one datum with it, such "
            "as batch=data.batch('test', 1)"
        )
    like = next(iter(pair.state_dict().values()), torch.zeros(()))
    dtype = like.dtype if like.is_floating_point() else None
    make = {"x": torch.zeros(1, *shapes["x"], dtype=dtype, device=like.device)} if "x" in shapes else {}
    return make | {
        name: torch.ones(1, *shapes[name], dtype=torch.bool, device=like.device)
        for name in bound.required
        if name != "x"
    }


def _require(condition: Condition, sites: Mapping[str, Any], pair: Pair, what: str) -> None:
    """Refuse a condition on what the model does not have, or that has no probability."""
    if condition.site not in sites:
        near = suggestion(condition.site, sites)
        raise PairError(
            f"the model {pair.bound_model.name} has no variable {condition.site!r} (it has {', '.join(sites)})"
            + (f"; did you mean {near!r}?" if near else "")
        )
    site = sites[condition.site]
    if data_frame(site, pair) is None:
        raise PairError(
            f"variable {condition.site!r} lies outside the plate {pair.data_plate!r}, so that it is one for all data; "
            "ask for variables of a datum"
        )
    size = math.prod(site["value"].shape)
    if condition.entry is not None and condition.entry >= size:
        raise PairError(f"{condition}: {condition.site!r} has {size} numbers, counted from 0; ask for one of these")
    if condition.entry is None and not torch.is_tensor(condition.value) and size > 1 and not _is_one_hot(site):
        raise PairError(f"{condition}: {condition.site!r} has {size} numbers; say which, as {condition.site}[0]")
    if what == "event" and condition.sign in ("=", "!=") and not is_discrete(site):
        raise PairError(
            f"{condition}: {condition.site!r} has a density, of which a single value has probability 0; ask with < or >"
        )
    if what == "given" and not _is_whole(condition) and condition.sign == "=" and not is_discrete(site):
        raise PairError(
            f"{condition}: {condition.site!r} has a density, and a part of it cannot be held; give all of it, or < or >"
        )
    named = _is_one_hot(site) and condition.entry is None and not torch.is_tensor(condition.value)
    if named and condition.value not in range(size):
        raise PairError(f"{condition}: {condition.site!r} is one of {size} classes, counted from 0; name one")
    if _is_whole(condition) and site["fn"].has_enumerate_support and not site["fn"].event_dim:
        _require_possible(condition, site)


def _require_possible(condition: Condition, site: Mapping[str, Any]) -> None:
    """Refuse a value that is none of those of a discrete variable of single numbers."""
    try:
        value = torch.as_tensor(condition.value, dtype=torch.float64).expand(site["value"].shape)
    except RuntimeError:
        return  # of another shape, which is said where it is held
    if not site["fn"].support.check(value).all():
        values = site["fn"].enumerate_support(expand=False).unique().tolist()
        raise PairError(f"{condition}: {condition.site!r} takes values from {values[0]:g} to {values[-1]:g}; name one")


def _is_whole(condition: Condition) -> bool:
    return condition.entry is None and condition.sign == "="


def _is_one_hot(site: Mapping[str, Any]) -> bool:
    support: Any = site["fn"].support
    return support is constraints.one_hot or isinstance(support, type(constraints.one_hot))


def _value(condition: Condition, site: Mapping[str, Any]) -> Tensor:
    """Return the value of a whole variable at one datum, in the shape of its draws."""
    like = site["value"]
    value = torch.as_tensor(condition.value, device=like.device)
    if _is_one_hot(site) and value.dim() == 0:
        value = torch.nn.functional.one_hot(value.long(), like.shape[-1])
    try:
        return value.to(like.dtype).expand(like.shape)
    except RuntimeError:
        raise PairError(
            f"the value of {condition.site!r} has shape {tuple(value.shape)}, and the variable has "
            f"{tuple(like.shape[1:])}; give one of that shape"
        ) from None


def _holds(condition: Condition, site: Mapping[str, Any], size: int) -> Tensor:
    """Return where draws have a property, bool ``(size,)``."""
    value = site["value"]
    if _is_one_hot(site) and condition.entry is None and not torch.is_tensor(condition.value):
        return _SIGNS[condition.sign](value.argmax(-1), condition.value).reshape(-1, size)[0]
    # data are at dim -1 of the batch shape: plates inside it come before, the event behind
    rows = value.movedim(value.dim() - site["fn"].event_dim - 1, 0).reshape(size, -1)
    if condition.entry is not None:
        return _SIGNS[condition.sign](rows[:, condition.entry], condition.value)
    wanted = torch.as_tensor(condition.value, device=rows.device).reshape(-1)
    return _SIGNS[condition.sign](rows, wanted.to(rows.dtype)).all(-1)


def _countable(pair: Pair, conditions: Iterable[Condition], sites: Mapping[str, Any]) -> bool:
    """Return whether the answer is a sum over the latent variables that no condition names."""
    latent = {name for name, site in sites.items() if "was_observed" not in site["infer"]}
    fixed = {c.site for c in conditions if _is_whole(c)}
    every = all(map(_is_whole, conditions))
    return every and all(sites[name]["fn"].has_enumerate_support for name in latent - fixed)


def _counted(
    pair: Pair, one: Batch, wanted: list[Condition], known: list[Condition], sites: Mapping[str, Any]
) -> Answer:
    below = _log_sum(pair, one, known, sites)
    if not math.isfinite(below):
        raise PairError(f"given {_said(known)} has probability 0; ask for what can be")
    above = _log_sum(pair, one, [*wanted, *known], sites)
    return Answer(min(1.0, math.exp(above - below)), 0.0, math.inf, True)


def _log_sum(pair: Pair, one: Batch, conditions: list[Condition], sites: Mapping[str, Any]) -> float:
    """Return the log-probability of the conditions together, all other variables summed over."""
    values: dict[str, Tensor] = {}
    for condition in conditions:
        value = _value(condition, sites[condition.site])
        if not torch.equal(values.setdefault(condition.site, value), value):
            return -math.inf
    data = [name for name, site in sites.items() if "was_observed" in site["infer"] and name not in values]
    model = poutine.block(poutine.condition(uncondition(pair.bound_model), data=values), hide=data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of sites that the guide lacks
        elbo = TraceEnum_ELBO(max_plate_nesting=max(1, plate_nesting(pair, one)))
        total = -elbo.loss(config_enumerate(model), lambda batch: None, one)
    return total if total > NEVER else -math.inf


def _drawn(
    pair: Pair, one: Batch, wanted: list[Condition], known: list[Condition], held: Mapping[str, Tensor], count: int
) -> Answer:
    """Return the estimate by likelihood weighting."""
    with_one = poutine.trace(uncondition(pair.bound_model)).get_trace(one).nodes
    places = {name: value.dim() - with_one[name]["fn"].event_dim - 1 for name, value in held.items()}
    log_w, hits = [], []
    for start in range(0, count, CHUNK):
        size = min(CHUNK, count - start)
        batch = {name: field.expand(size, *field.shape[1:]) for name, field in one.items()}
        data = {name: value.repeat_interleave(size, places[name]) for name, value in held.items()}
        trace = poutine.trace(poutine.condition(uncondition(pair.bound_model), data=data)).get_trace(batch)
        weight = torch.zeros(size, dtype=torch.float64)
        for name in held:
            term = log_prob(trace.nodes[name]).double().cpu()
            weight = weight + term.expand(*term.shape[:-1], size).reshape(-1, size).sum(0)
        for condition in known:
            if condition.site not in held:
                weight = weight.where(_holds(condition, trace.nodes[condition.site], size).cpu(), -math.inf)
        inside = torch.ones(size, dtype=torch.bool)
        for condition in wanted:
            inside = inside & _holds(condition, trace.nodes[condition.site], size).cpu()
        log_w.append(weight)
        hits.append(inside)
    return _weighted(torch.cat(log_w), torch.cat(hits), known)


def _weighted(log_w: Tensor, hits: Tensor, known: list[Condition]) -> Answer:
    """Return the self-normalised estimate and its standard error by the delta method."""
    if not log_w.max() > NEVER:
        raise PairError(
            f"none of {len(log_w):,} draws agrees with {_said(known)}, which has probability 0 or nearly so; give what "
            "is likelier, or more draws"
        )
    w = (log_w - log_w.max()).exp()
    total, hit = w.sum(), hits.double()
    p = ((w * hit).sum() / total).item()
    ess = (total.square() / w.square().sum()).item()
    stderr = ((w * (hit - p)).square().sum().sqrt() / total).item()
    settled = bool(hits[w > 0].all()) or not bool(hits[w > 0].any())
    return Answer(p, 1 / ess if settled else stderr, ess, False)


def _said(conditions: list[Condition]) -> str:
    return ", ".join(map(str, conditions)) or "nothing"
