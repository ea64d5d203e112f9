"""What one asks of a pair: codes, decoded codes, new data, reconstructions, figures."""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import wraps
from typing import Any

import pyro.poutine as poutine
import torch
from torch import Tensor

from pyro_vae import evidence, posterior
from pyro_vae.evidence import ElboTable, Evidence, Meaning, meaning_of
from pyro_vae.posterior import AtMean, Given, codes_of, mean_of, row_per_datum
from pyro_vae.program import (
    Batch,
    Pair,
    PairError,
    Verbs,
    evaluation,
    first_line,
    is_data,
    is_latent,
    size_of,
    uncondition,
)
from pyro_vae.using.inputs import Used
from pyro_vae.using.latent_values import HELD, as_sites, given_sites

ROWS = 2000  # data that are looked at together


def _in_a_sentence[**P, R](verb: Callable[P, R]) -> Callable[P, R]:
    """Let what torch raises on values that do not suit a pair be a `PairError` of one line."""

    @wraps(verb)
    def asked(*args: P.args, **options: P.kwargs) -> R:
        try:
            return verb(*args, **options)
        except (RuntimeError, IndexError) as error:
            raise PairError(f"{verb.__name__} fails on these values: {first_line(error)}") from error

    return asked


@_in_a_sentence
def encode(
    used: Verbs, x: Any = None, *, site: str | None = None, draw: bool = False, seed: int = 0, **fields: Any
) -> Tensor:
    """See `Verbs.encode`."""
    pair, batch = _read(used, x, fields, "encode")
    return _in_pieces(batch, lambda part, n: codes_of(pair, part, site=site, draw=draw, seed=seed + n))


@_in_a_sentence
def decode(used: Verbs, z: Any, *, site: str | None = None, draw: bool = False, seed: int = 0, **fields: Any) -> Tensor:
    """See `Verbs.decode`."""
    read = Used.of(used)
    codes = {name: read.array(name, value) for name, value in (z if isinstance(z, Mapping) else {"": z}).items()}
    batch = _given(read, len(next(iter(codes.values()))), fields, "decode")
    values = as_sites(read, batch, codes)
    return _from_model(read.pair, {**batch, **values}, site, mean=not draw, centre=True, seed=seed)


@_in_a_sentence
def sample(
    used: Verbs, n: int = 1, *, site: str | None = None, mean: bool = False, seed: int = 0, **fields: Any
) -> Tensor:
    """See `Verbs.sample`."""
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise PairError(f"n is how many data to draw, a whole number from 1 on, and it is {n!r}")
    read = Used.of(used)
    batch = _given(read, n, fields, "sample")
    return _from_model(read.pair, batch, site, mean=mean, centre=False, seed=seed)


@_in_a_sentence
def reconstruct(
    used: Verbs, x: Any = None, *, site: str | None = None, draw: bool = False, seed: int = 0, **fields: Any
) -> Tensor:
    """See `Verbs.reconstruct`."""
    pair, batch = _read(used, x, fields, "reconstruct")

    def one(part: Batch, number: int) -> Tensor:
        if not draw:
            return _chosen(posterior.reconstruct(pair, part, seed=seed + number), site)
        with evaluation(pair, seed + number):
            guide = poutine.trace(pair.bound_guide).get_trace(part)
            model = poutine.trace(poutine.replay(pair.bound_model, trace=guide)).get_trace(part)
            node = _chosen({name: found for name, found in model.nodes.items() if is_data(found)}, site)
            return row_per_datum(node, node["fn"].sample())

    return _in_pieces(batch, one)


@_in_a_sentence
def log_evidence(used: Verbs, x: Any = None, *, num_samples: int = 5000, seed: int = 0, **fields: Any) -> Evidence:
    """See `Verbs.log_evidence`."""
    pair, batch = _read(used, x, fields, "log_evidence", figures=True)
    return evidence.log_evidence(pair, batch, num_samples=num_samples, seed=seed)


@_in_a_sentence
def elbo(used: Verbs, x: Any = None, *, num_samples: int = 1, seed: int = 0, **fields: Any) -> ElboTable:
    """See `Verbs.elbo`."""
    pair, batch = _read(used, x, fields, "elbo", figures=True)
    return evidence.elbo(pair, batch, num_samples=num_samples, seed=seed)


def _read(used: Verbs, x: Any, fields: Mapping[str, Any], verb: str, *, figures: bool = False) -> tuple[Pair, Batch]:
    """Return the pair and the data as a batch with all that programs compute something from.

    Args:
        used: the pair, or what training returned.
        x: data as users pass them.
        fields: further fields.
        verb: for messages.
        figures: whether observed fields have to be given too, and values to lie where densities do.
    """
    read = Used.of(used)
    given = read.fields_of(x, fields)
    batch = read.filled(read.rows_of(given), given)
    guide = read.pair.bound_guide
    needed = [*guide.required]
    if verb != "encode":
        needed += meaning_of(read.pair, batch).given
    if figures:
        needed += read.pair.bound_model.required
        read.require_support(batch)
    read.require(needed, given, verb)
    return read.pair, batch


def _given(read: Used, size: int, fields: Mapping[str, Any], verb: str) -> Batch:
    """Return a batch for the model to draw data on, with what is given at its sites."""
    pair = read.pair
    batch = read.filled(size, {name: value for name, value in fields.items() if name in pair.fields})
    meaning = require_given(read, batch, fields, verb)
    sites = (*meaning.latent, *meaning.observed)
    for name in fields:
        if name not in pair.fields and name not in sites:
            known = ", ".join(map(repr, dict.fromkeys((*pair.fields, *sites))))
            raise PairError(f"the pair has neither a field nor a site {name!r}; it has {known}")
    values = given_sites(read, batch, {name: value for name, value in fields.items() if name in sites})
    return {**batch, **values}


def require_given(read: Used, batch: Batch, fields: Mapping[str, Any], verb: str) -> Meaning:
    """Refuse to draw from the model without what it is given; return what its figures mean.

    Raises:
        PairError: naming the field.
    """
    meaning = meaning_of(read.pair, batch)
    read.require(meaning.given, fields, verb)
    return meaning


def _from_model(pair: Pair, batch: Batch, site: str | None, *, mean: bool, centre: bool, seed: int) -> Tensor:
    """Return what the model draws at an observed site, or its mean, given values elsewhere."""

    def one(part: Batch, number: int) -> Tensor:
        held = {name.removeprefix(HELD): value for name, value in part.items() if name.startswith(HELD)}
        part = {name: value for name, value in part.items() if not name.startswith(HELD)}
        with evaluation(pair, seed + number):
            conditioned = poutine.trace(pair.bound_model).get_trace(part)
            observed = [name for name, node in conditioned.nodes.items() if is_data(node)]
            shared = _shared(pair, part, conditioned)
            with AtMean() if centre else nullcontext(), Given(shared | held):
                model = poutine.trace(uncondition(pair.bound_model)).get_trace(part)
            node = _chosen({name: model.nodes[name] for name in observed}, site)
            if mean:
                return mean_of(node)
            return row_per_datum(node, node["fn"].sample() if centre else node["value"])

    return _in_pieces(batch, one)


def _shared(pair: Pair, batch: Batch, model: poutine.Trace) -> dict[str, Tensor]:
    """Return a draw of q of the latent variables that all data share."""
    names = {
        name
        for name, node in model.nodes.items()
        if is_latent(node) and all(frame.name != pair.data_plate for frame in node["cond_indep_stack"])
    }
    if not names:
        return {}
    guide = poutine.trace(pair.bound_guide).get_trace(batch)
    return {name: node["value"] for name, node in guide.nodes.items() if name in names}


def _chosen(by_site: Mapping[str, Any], site: str | None) -> Any:
    """Return what belongs to an observed site: x, unless another one is asked for."""
    name = site or ("x" if "x" in by_site else next(reversed([*by_site]), ""))
    if name not in by_site:
        raise PairError(f"the model observes no {site!r}; it observes {', '.join(map(repr, by_site)) or 'nothing'}")
    return by_site[name]


def _in_pieces(batch: Batch, action: Callable[[Batch, int], Tensor]) -> Tensor:
    """Return what ``action`` makes of parts of bounded size, each with a number of its own."""
    starts = range(0, size_of(batch), ROWS)
    parts = ({name: value[start : start + ROWS] for name, value in batch.items()} for start in starts)
    return torch.cat([action(part, number).detach() for number, part in enumerate(parts)])
