"""Pictures of reversible models: the way between two data through their noise."""

from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.distributions import Independent, Normal, TransformedDistribution

from pyro_vae.data import Data
from pyro_vae.distributions import Rescaled
from pyro_vae.plots.latent_space import arc, line, two_data
from pyro_vae.plots.tiles import at_least, mean_of_x, numbers, sheet
from pyro_vae.posterior import NotDrawable, centres, decode, latent_vectors
from pyro_vae.program import Batch, Pair, samples, trace_of


def through_noise(
    pair: Pair,
    data: Data,
    *,
    first: int = 0,
    second: int | None = None,
    steps: int = 11,
    split: str | None = None,
    seed: int = 0,
) -> Figure:
    """Draw the way between two data through the noise of a flow, beside mixtures of their values.

    In the noise every point is as likely as a draw. The flow is p(x), or p(z) of a model with one
    latent vector.

    Args:
        first: number of the one datum in the split.
        second: number of the other; by default the first one after it of another class.
        steps: images from end to end.
        split: train, valid or test; by default test, or valid or train if that is empty.
        seed: of draws, for a guide without means.
    """
    split = data.choose(split)
    at_least(2, steps=steps)
    ends = two_data(data, first, second, split)
    name, flow = flow_of(pair, ends)
    t = torch.linspace(0, 1, steps)[:, None]
    with torch.no_grad():
        held = ends["x"] if name == "x" else centres(pair, ends, seed=seed)[name]
        noise = to_noise(flow, held)
        moved = from_noise(flow, arc(noise[0], noise[1], t))
    batch = {key: field[(t[:, 0] > 0.5).long()] for key, field in ends.items()}
    x = moved if name == "x" else mean_of_x(decode(pair, batch, {name: moved}, seed=seed))
    return sheet(
        torch.stack([line(ends["x"][0], ends["x"][1], t), x]),
        data,
        title=f"Between two data: mixtures of values, and through the noise of p({name})",
        rows=["values", "noise"],
        columns=numbers(t[:, 0]),
        xlabel="share of the second datum",
    )


def flow_of(pair: Pair, batch: Batch) -> tuple[str, Any]:
    """Return the name and the distribution of the site whose density is a flow of normal noise.

    Raises:
        NotDrawable: there is none.
    """
    latent = list(latent_vectors(pair, batch))
    name = latent[0] if len(latent) == 1 else "x"
    with torch.no_grad(), pair.evaluating():
        sites = samples(trace_of(pair.bound_model, {key: field[:1] for key, field in batch.items()}))
    if len(latent) > 1 or name not in sites or not is_flow(sites[name]["fn"]):
        raise NotDrawable(
            f"the way through noise needs a flow for p(x), or for p(z) of one latent vector, and here "
            f"p({name}) is none; draw `interpolation`"
        )
    return name, sites[name]["fn"]


def is_flow(fn: Any) -> bool:
    """Return whether a distribution is a normal one pushed through transforms with inverses."""
    if isinstance(fn, TransformedDistribution):
        return all(transform.bijective for transform in fn.transforms) and _is_normal(fn.base_dist)
    return isinstance(fn, Rescaled) and is_flow(fn.base_dist)


def _is_normal(fn: Any) -> bool:
    while isinstance(fn, Independent):
        fn = fn.base_dist
    return isinstance(fn, Normal) or is_flow(fn)


def to_noise(fn: Any, value: Tensor) -> Tensor:
    """Return the noise that a flow makes ``value`` of; the same shape."""
    if isinstance(fn, Rescaled):
        return to_noise(fn.base_dist, (value - fn.loc) / fn.scale)
    if not isinstance(fn, TransformedDistribution):
        return value
    for transform in reversed(fn.transforms):
        value = transform.inv(value)
    return to_noise(fn.base_dist, value)


def from_noise(fn: Any, noise: Tensor) -> Tensor:
    """Return what a flow makes of ``noise``; the same shape."""
    if isinstance(fn, Rescaled):
        return fn.loc + fn.scale * from_noise(fn.base_dist, noise)
    if not isinstance(fn, TransformedDistribution):
        return noise
    value = from_noise(fn.base_dist, noise)
    for transform in fn.transforms:
        value = transform(value)
    return value
