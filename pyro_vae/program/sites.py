"""Sites of a trace: what each is, and the distribution behind its wrappers."""

from collections.abc import Mapping
from typing import Any

import torch
from pyro.distributions import Delta, ExpandedDistribution, MaskedDistribution, Unit
from pyro.poutine import Trace
from pyro.poutine.subsample_messenger import _Subsample

from pyro_vae.distributions import Rescaled

Site = Mapping[str, Any]
MANY_PASSES = 8  # a draw that costs more than so many passes of a net is made no oftener than it must
WRAPPERS = (torch.distributions.Independent, MaskedDistribution, ExpandedDistribution, Rescaled)


def is_site(message: Mapping[str, Any]) -> bool:
    """Return whether it is a random variable, and not a plate's subsampling."""
    return message["type"] == "sample" and not isinstance(message["fn"], _Subsample)


def is_latent(message: Mapping[str, Any]) -> bool:
    """Return whether a message or a trace's node is a latent variable, drawn or enumerated."""
    return is_site(message) and not message["is_observed"] and not message["infer"].get("is_auxiliary")


def is_deterministic(message: Mapping[str, Any]) -> bool:
    """Return whether a site records a value (``pyro.deterministic``) and has log-probability 0."""
    return is_site(message) and bool(message["infer"].get("_deterministic"))


def is_factor(message: Mapping[str, Any]) -> bool:
    """Return whether a site adds a number to the log-density (``pyro.factor``) and has no value."""
    return is_site(message) and isinstance(message["fn"], Unit)


def is_data(message: Mapping[str, Any]) -> bool:
    """Return whether a site holds data: observed, neither a factor nor a recorded value."""
    return is_site(message) and message["is_observed"] and not is_deterministic(message) and not is_factor(message)


def is_discrete(site: Mapping[str, Any]) -> bool:
    """Return whether a site is discrete: its distribution is a mass function."""
    try:
        return bool(site["fn"].support.is_discrete)
    except NotImplementedError:  # a distribution that does not say, or a point: its values do
        value = site["value"]
        return not value.is_floating_point()


def is_enumerated(message: Mapping[str, Any]) -> bool:
    """Return whether a site is summed over, not drawn."""
    return message["infer"].get("enumerate") is not None


def is_masked(site: Mapping[str, Any]) -> bool:
    """Return whether a part of a site does not count, by a mask of the site or its distribution."""
    masks, fn = [site["mask"]], site["fn"]
    while fn is not None:
        masks.append(getattr(fn, "_mask", None))
        fn = getattr(fn, "base_dist", None)
    return any(mask is not None and not bool(torch.as_tensor(mask).all()) for mask in masks)


def event_dim_of(site: Mapping[str, Any]) -> int:
    """Return how many dims on the right of a site's value belong to the site, not to plates.

    ``pyro.deterministic`` without an ``event_dim`` counts every dim as one; of those, what the
    plates explain is theirs.
    """
    value, event_dim = site["value"], site["fn"].event_dim
    if not is_deterministic(site) or event_dim < value.dim():
        return event_dim
    sizes = {frame.dim: frame.size for frame in site["cond_indep_stack"] if frame.vectorized}
    depth = max((-dim for dim in sizes), default=0)
    lead = value.shape[:depth]
    fits = value.dim() >= depth and all(lead[dim + depth] in (1, size) for dim, size in sizes.items())
    return value.dim() - depth if fits else value.dim()


def samples(trace: Trace) -> dict[str, dict]:
    """Return a trace's random variables: no subsampling of plates, no factors, no recorded values."""
    sites = {n: s for n, s in trace.nodes.items() if is_site(s)}
    return {n: s for n, s in sites.items() if not is_factor(s) and not is_deterministic(s)}


def innermost(fn: Any, through: tuple[type, ...] | None = None) -> Any:
    """Return the distribution behind wrappers.

    Args:
        fn: any distribution.
        through: the wrappers that are looked through; by default whatever has a ``base_dist``.
    """
    while hasattr(fn, "base_dist") and (through is None or isinstance(fn, through)):
        fn = fn.base_dist
    return fn


def passes_of(fn: Any) -> int:
    """Return how many passes of a net a draw costs, as its distribution says; usually 1."""
    passes = int(getattr(fn, "passes", 1))
    return max(passes, passes_of(fn.base_dist)) if hasattr(fn, "base_dist") else passes


def is_point(fn: Any) -> bool:
    """Return whether a distribution is a point, ``Delta``, perhaps behind wrappers."""
    return isinstance(innermost(fn), Delta)
