"""What a pair's figures mean, read off its programs.

Which log p is estimated, whether the ELBO bounds it, and what it can be compared with.

Nothing here knows a pair by name: the sites of the programs and the graph between them and the
batch's fields decide.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyro.poutine as poutine
from pyro.distributions import Independent, MaskedDistribution
from pyro.ops.provenance import ProvenanceTensor, detach_provenance, get_provenance
from torch import Tensor

from pyro_vae.program import (
    Batch,
    Pair,
    declared,
    evaluation,
    has_density,
    is_deterministic,
    is_discrete,
    is_enumerated,
    is_factor,
    is_latent,
    is_masked,
    is_site,
    points,
    size_of,
    structure,
    unnormalized,
)

FAILURES = (RuntimeError, ValueError, TypeError, KeyError, IndexError, AttributeError, NotImplementedError)


@dataclass(frozen=True)
class Meaning:
    """What the figures of a pair mean; names of sites and fields are in the model's order."""

    observed: tuple[str, ...]  # sites that hold data
    given: tuple[str, ...]  # fields, or parts of one, that the model is conditioned on
    latent: tuple[str, ...]  # the model's latent sites
    real: tuple[str, ...]  # those of real values: no class, no code word
    drawn: tuple[str, ...]  # sites that have to be drawn: not observed, not summed over
    inferred: bool  # whether the guide has every latent site, so that data have reconstructions
    points: tuple[str, ...]  # sites whose guide is a point where their prior is a density
    modes: tuple[str, ...]  # sites whose guide is a point where their prior is a mass function
    shared: tuple[str, ...]  # sites of either program outside the data plate, factors too: what all data share
    numbers: int  # continuous latent numbers per datum: the size of a PCA to compare with
    is_density: bool  # of real values, so that its logarithm may be positive; else probabilities
    implicit: bool  # whether x has no log p at all: the model is known by its draws
    normalised: bool  # whether log p is known, or can be, and not only up to a constant that training moves
    whole: bool  # p is of x, all of it and nothing else, given nothing: what PCA has a density of, too
    where: Mapping[str, str] = field(default_factory=dict)  # observed sites and the fields that say what of them counts

    @property
    def evidence(self) -> str:
        """Name of what log p(x) is here, such as "log p(x | y)"."""
        return self._log_p(self.observed)

    @property
    def bound(self) -> str:
        """Name of the ELBO: of the joint density at a point where the guide is one."""
        if not self.normalised:
            return "unnormalised ELBO"
        return f"{self._log_p(self.observed + self.points)} at the point" if self.points else "ELBO"

    @property
    def divergence(self) -> str:
        """Name of the ELBO's latent part."""
        return f"- log p({', '.join(self.points)})" if self.points and set(self.points) == set(self.latent) else "KL"

    @property
    def exact(self) -> bool:
        """Whether log p(x) needs no draws: there is no latent variable, or all are summed over."""
        return not self.drawn

    @property
    def unweighable(self) -> str | None:
        """Why draws from the guide cannot estimate log p(x), in one sentence; else None."""
        if self.implicit:
            return "the model is known by its draws alone, and gives x no density that anything could estimate or bound"
        if self.points:
            return (
                f"the guide is a point at {_and(self.points)}, where the prior is a density: "
                f"{self.bound} is not a bound on {self.evidence}, and draws that all fall on one value have no weights"
            )
        if self.modes:
            return (
                f"the guide puts all its mass on one value of {_and(self.modes)}: its draws say no more "
                f"about {self.evidence} than the ELBO, which is a bound"
            )
        if self.shared:
            return f"all data share {_and(self.shared)}, so no datum has a {self.evidence} of its own"
        return None

    def is_evidence(self, sites: Iterable[str]) -> bool:
        """Return whether an ELBO of these terms is log p(x) itself: no q enters it."""
        return not any(set(self.observed).isdisjoint(name.split(",")) for name in sites)

    def _log_p(self, names: tuple[str, ...]) -> str:
        told = [f"{name} where {self.where[name]}" if name in self.where else name for name in names]
        given = f" | {', '.join(self.given)}" if self.given else ""
        return f"log p({', '.join(told)}{given})"


def meaning_of(pair: Pair, batch: Batch) -> Meaning:
    """Read off a pair's programs what its figures are of.

    Args:
        batch: a few data of those that the figures are about.
    """
    batch = {name: field[:2] for name, field in batch.items()}
    with evaluation(pair, 0):
        guide = poutine.trace(pair.bound_guide).get_trace(batch)
        model = poutine.trace(poutine.replay(pair.bound_model, trace=guide)).get_trace(batch)
    q, p = ({name: site for name, site in trace.nodes.items() if _counts(site)} for trace in (guide, model))
    latent = {name: site for name, site in p.items() if is_latent(site)}
    observed = {name: site for name, site in p.items() if site["is_observed"]}
    proposed = {name: site for name, site in q.items() if not site["is_observed"]}
    summed = {name for name, site in (latent | proposed).items() if is_enumerated(site)}
    fixed = points(pair, batch)
    real = tuple(name for name, site in latent.items() if not is_discrete(site))
    given, sources = _conditions(pair, batch, tuple(observed))
    where = _masks(pair, batch, tuple(observed), given)
    given = tuple(name for name in given if name not in where.values())
    seen: Any = next(iter(observed.values()), None)
    whole = len(observed) == 1 and not given and not where and not is_masked(seen)
    whole = whole and set().union(*sources.values()) == {"x"}
    return Meaning(
        tuple(observed),
        given,
        tuple(latent),
        real,
        tuple(name for name in dict.fromkeys([*latent, *proposed]) if name not in summed),
        latent.keys() <= proposed.keys(),
        tuple(name for name, density in fixed.items() if density),
        tuple(name for name, density in fixed.items() if not density),
        _outside(pair, guide, model),
        sum(_numbers(latent[name], pair, batch) for name in real),
        any(not is_discrete(site) for site in observed.values()),
        not has_density(pair),
        declared(pair.objective).figure.kind != "unnormalised" or any(True for _ in unnormalized(pair)),
        whole and seen["value"].numel() == batch["x"].numel(),
        where,
    )


def _counts(site: Mapping[str, Any]) -> bool:
    """Return whether a node is a random variable: no factor and not computed from others."""
    return is_site(site) and not is_factor(site) and not is_deterministic(site)


def _outside(pair: Pair, *traces: Any) -> tuple[str, ...]:
    sites = ((name, site) for trace in traces for name, site in trace.nodes.items())
    shared = (
        name for name, site in sites if is_site(site) and not is_deterministic(site) and not _in_plate(site, pair)
    )
    return tuple(dict.fromkeys(shared))


def _in_plate(site: Mapping[str, Any], pair: Pair) -> bool:
    return any(frame.name == pair.data_plate for frame in site["cond_indep_stack"])


def _conditions(pair: Pair, batch: Batch, observed: tuple[str, ...]) -> tuple[tuple[str, ...], dict[str, set[str]]]:
    """Return what the model is given, and the fields that each observed site comes from."""
    try:
        nodes = structure(pair, pair.bound_model, batch)
        given = [node.name for node in nodes if node.kind == "given" and _leads_to(nodes, node.name, observed)]
        sources = _sources(pair, batch, observed)
    except FAILURES:  # values that leave torch on their way: what the program takes and does not observe
        return tuple(name for name in pair.bound_model.arguments(batch) if name not in observed), {
            name: {name} for name in observed
        }
    return tuple(_part(name, sources) for name in given), sources


def _leads_to(nodes: list[Any], name: str, observed: tuple[str, ...]) -> bool:
    return any(name in node.parents for node in nodes if node.name in observed or node.kind == "latent")


def _sources(pair: Pair, batch: Batch, observed: tuple[str, ...]) -> dict[str, set[str]]:
    tracked = {
        name: ProvenanceTensor(field, frozenset({name})) if field.numel() else field for name, field in batch.items()
    }
    with evaluation(pair, 0):
        nodes = poutine.trace(pair.bound_model).get_trace(tracked).nodes
    # a mask that is a field's decides what of the data counts, and differs from datum to datum
    masks = {name: get_provenance(nodes[name]["mask"]) - set(observed) for name in observed}
    return {name: set(get_provenance(nodes[name]["value"])) | masks[name] for name in observed}


def _masks(pair: Pair, batch: Batch, observed: tuple[str, ...], given: tuple[str, ...]) -> dict[str, str]:
    """Return the fields that do nothing but mask features of an observed site's distribution: what
    is missing of a datum is no condition.
    """
    tracked = {
        name: ProvenanceTensor(value, frozenset({name})) if name in given and value.numel() else value
        for name, value in batch.items()
    }
    found = {}
    try:
        with evaluation(pair, 0):
            nodes = poutine.trace(pair.bound_model).get_trace(tracked).nodes
            read = {
                name: get_provenance(_unmasked(site["fn"]).log_prob(detach_provenance(site["value"])))
                for name, site in nodes.items()
                if _counts(site)
            }
            for name in observed:
                masks = get_provenance(nodes[name]["fn"].log_prob(detach_provenance(nodes[name]["value"])))
                for one in masks - set().union(*read.values()):
                    found[name] = one
    except FAILURES:
        return {}
    return found


def _unmasked(fn: Any) -> Any:
    """Return a distribution of which all features count."""
    if isinstance(fn, MaskedDistribution):
        return _unmasked(fn.base_dist)
    if isinstance(fn, Independent):
        return _unmasked(fn.base_dist).to_event(fn.reinterpreted_batch_ndims)
    return getattr(fn, "unmasked", fn)


def _part(field: str, sources: Mapping[str, set[str]]) -> str:
    """Name a given field, or the other part of it where a site observes a part."""
    sites = [site for site, fields in sources.items() if field in fields and site != field]
    if not sites:
        return field
    return f"{field}_in" if sites == [f"{field}_out"] else f"the rest of {field}"


def _numbers(site: Mapping[str, Any], pair: Pair, batch: Batch) -> int:
    """Count what one datum has of a site, plates inside the data's included."""
    value: Tensor = site["value"]
    return math.prod(value.shape) // size_of(batch) if _in_plate(site, pair) else 0


def _and(names: tuple[str, ...]) -> str:
    return " and ".join(map(repr, names))


def undreamable(pair: Pair, meaning: Meaning) -> str | None:
    """Return why the guide cannot learn from data that the model draws; None where it can."""
    if pair.stepper is not None:
        return "this pair is trained by an algorithm of its own"
    if fixed := meaning.points + meaning.modes:
        return f"the guide is a point at {fixed[0]!r}"
    if meaning.shared:
        return f"all data share {meaning.shared[0]}, which is not drawn for each"
    told = [name for name in meaning.latent if name in pair.bound_guide.required]
    told += ["y"] if "y" in meaning.latent and "labelled" in pair.fields else []
    if told:
        return f"the guide is given {told[0]}, which the model draws"
    names = list(pair.named_parameters())
    if not meaning.latent or (names and not any(name.startswith("guide") for name in names)):
        return "dreams train a guide, which has no parameters of its own here"
    return None
