"""Guides that are points: all draws fall on one value, so they have no density to weight."""

from typing import Any

import pyro.poutine as poutine
import torch
from pyro.distributions import Delta

from pyro_vae.program.handlers import is_discrete, is_latent, is_site
from pyro_vae.program.pair import Batch, Pair


def point_sites(pair: Pair, batch: Batch) -> list[str]:
    """Return the names of the guide's sites that are points where the prior is a density: no log p(x) is to be had from them."""
    return [name for name, density in points(pair, batch).items() if density]


def points(pair: Pair, batch: Batch) -> dict[str, bool]:
    """Return the guide's sites that are points, and whether the prior there is a density and not a mass function.

    A ``Delta`` that hands on what auxiliary sites drew, as Pyro's autoguides do, is none: its value changes from run to run.
    """
    with torch.no_grad(), torch.random.fork_rng():
        guide, other = (poutine.trace(pair.bound_guide).get_trace(batch) for _ in range(2))
        model = poutine.trace(poutine.replay(pair.bound_model, trace=guide)).get_trace(batch)
    auxiliary = any(is_site(site) and site["infer"].get("is_auxiliary") for site in guide.nodes.values())
    found = {}
    for name, site in guide.nodes.items():
        if not is_latent(site) or not _is_delta(site["fn"]):
            continue
        if name in model.nodes and _is_delta(model.nodes[name]["fn"]):  # the model itself computes it
            continue
        if not auxiliary or torch.equal(site["value"], other.nodes[name]["value"]):
            found[name] = name in model.nodes and not is_discrete(model.nodes[name])
    return found


def _is_delta(fn: Any) -> bool:
    while hasattr(fn, "base_dist") and not isinstance(fn, Delta):
        fn = fn.base_dist
    return isinstance(fn, Delta)
