"""Guides that are points: all draws are one value, so that they have no density."""

import torch

from pyro_vae.program.pair import Batch, Pair
from pyro_vae.program.sites import is_discrete, is_latent, is_point, is_site
from pyro_vae.program.tracing import trace_of, trace_pair


def point_sites(pair: Pair, batch: Batch) -> list[str]:
    """Return the guide's sites that are points where the prior is a density, which rules out log
    p(x).
    """
    return [name for name, density in points(pair, batch).items() if density]


def points(pair: Pair, batch: Batch) -> dict[str, bool]:
    """Return the guide's sites that are points, and whether the prior there is a density.

    A ``Delta`` that hands on what auxiliary sites drew, as Pyro's autoguides do, is none: its value
    changes from run to run.
    """
    with torch.no_grad(), torch.random.fork_rng(), pair.evaluating():
        guide, model = trace_pair(pair.bound_guide, pair.bound_model, batch)
        other = trace_of(pair.bound_guide, batch)
    auxiliary = any(is_site(site) and site["infer"].get("is_auxiliary") for site in guide.nodes.values())
    found = {}
    for name, site in guide.nodes.items():
        if not is_latent(site) or not is_point(site["fn"]):
            continue
        if name in model.nodes and is_point(model.nodes[name]["fn"]):  # the model itself computes it
            continue
        if not auxiliary or torch.equal(site["value"], other.nodes[name]["value"]):
            found[name] = name in model.nodes and not is_discrete(model.nodes[name])
    return found
