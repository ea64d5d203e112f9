"""Pictures of walks through latent space: over a grid, along a line, one dimension at a time.

See ``pyro_vae.plots``.
"""

from collections.abc import Mapping

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.distributions import Normal

from pyro_vae.data import Data, Spec, write_midi
from pyro_vae.plots.calling import picture
from pyro_vae.plots.panels import is_roll
from pyro_vae.plots.tiles import at_least, is_tiled, mean_of_x, numbers, sheet
from pyro_vae.posterior import (
    NotDrawable,
    centres,
    code_sites,
    decode,
    dimensions_of_prior,
    kl_by_dimension,
    latent_numbers,
    prior_moments,
    repeat_batch,
    shown,
    variance_of_means,
    within_support,
)
from pyro_vae.program import Batch, Pair, descendants, structure


@picture
def manifold(pair: Pair, data: Data, *, side: int = 20, seed: int = 0) -> Figure:
    """Draw a two-dimensional latent space: E[x | z] on a grid of equal prior probability.

    The grid is evenly spaced in the unit square and goes through the inverse of the normal
    distribution function, as in Auto-Encoding Variational Bayes (Kingma & Welling, 2013), appendix
    A.

    Args:
        side: tiles along each side; of tables and sequences 6 at most are drawn.
        seed: of draws, for a model without means.
    """
    at_least(2, side=side)
    side = side if is_tiled(data.spec) else min(side, 6)  # panels of curves that fit a page
    batch = data.batch(data.choose(), 1)
    roots = _roots(pair, batch)
    flat = [name for name, size in roots.items() if size == 2]
    if len(flat) != 1 or len(roots) != 1:
        sizes = ", ".join(f"{name!r} has {size}" for name, size in roots.items())
        raise NotDrawable(
            f"the manifold needs one top latent vector of 2 dimensions, and here {sizes}; "
            "train with --latent 2, or draw `traversal`"
        )
    (site,) = flat
    prior = dimensions_of_prior(pair, batch, site)
    if not isinstance(prior, Normal):
        raise NotDrawable(
            f"the manifold goes through the inverse normal distribution function, and p({site}) is no Normal "
            "of independent dimensions; draw `samples` or `traversal`"
        )
    levels = torch.linspace(0.5 / side, 1 - 0.5 / side, side)
    across, up = levels.repeat(side), levels.flip(0).repeat_interleave(side)  # z[1] grows upwards
    z = prior.icdf(torch.stack([across, up], 1))
    x = mean_of_x(decode(pair, repeat_batch(batch, side * side), {site: z}, seed=seed), data.spec)
    ticks = [
        text if i % max(1, side // 8) == 0 else "" for i, text in enumerate(numbers(Normal(0.0, 1.0).icdf(levels)))
    ]
    title = f"Manifold: {shown(pair, batch)} p(x | {site}) at equally likely values of {site}"
    return sheet(
        x.unflatten(0, (side, side)),
        data,
        title=title,
        columns=ticks,
        rows=ticks[::-1],
        xlabel=f"{site}[0], prior standard deviations",
        ylabel=f"{site}[1], prior standard deviations",
    )


@picture
def interpolation(
    pair: Pair,
    data: Data,
    *,
    first: int = 0,
    second: int | None = None,
    steps: int = 11,
    split: str | None = None,
    seed: int = 0,
    midi: str | None = None,
) -> Figure:
    """Draw the way between two data in latent space, along the straight line and along the arc.

    The arc keeps to lengths that are likely under a standard normal prior: in many dimensions the
    middle of a line is shorter than any draw. Sampling Generative Networks (White, 2016), arXiv
    1609.04468.

    Args:
        first: number of the one datum in the split.
        second: number of the other; by default the first one after it of another class.
        steps: images from end to end; of sequences, their lengths go from end to end too.
        split: train, valid or test; by default test, or valid or train if that is empty.
        seed: of draws, for a guide or model without means.
        midi: .mid file to write too, of piano rolls: what the first row shows, to be heard.
    """
    split = data.choose(split)
    at_least(2, steps=steps)
    if midi is not None and not is_roll(data.spec):
        raise NotDrawable(f"midi is of piano rolls, and x of {data.spec.name} is none; leave --midi out")
    ends = two_data(data, first, second, split)
    sites = code_sites(pair, ends)
    codes = {name: z for name, z in centres(pair, ends, seed=seed).items() if name in sites}
    t = torch.linspace(0, 1, steps)[:, None]
    batch = {name: field[(t[:, 0] > 0.5).long()] for name, field in ends.items()}
    if data.spec.sequence is not None and "mask" in ends:
        there = ends["mask"].sum(1, keepdim=True).float()
        batch["mask"] = torch.arange(data.spec.sequence[0]) < line(there[0], there[1], t).round()
    rows = []
    for path in (line, arc):
        values = {name: path(z[0], z[1], t) for name, z in codes.items()}
        rows.append(torch.cat([ends["x"][:1], _decoded(pair, batch, values, seed, data.spec), ends["x"][1:]]))
    if midi is not None:
        write_midi([roll.unflatten(-1, data.spec.sequence).numpy() > 0.5 for roll in rows[0]], midi)  # type: ignore[arg-type]
    ticks = ["data", *numbers(t[:, 0]), "data"]
    return sheet(
        torch.stack(rows),
        data,
        title=f"Interpolation: {shown(pair, ends)} p(x | z) between the codes of two data",
        rows=["linear", "spherical"],
        columns=ticks,
        xlabel="share of the second datum's code",
    )


@picture
def traversal(
    pair: Pair,
    data: Data,
    *,
    datum: int = 0,
    dimensions: int = 10,
    steps: int = 11,
    extent: float = 3.0,
    split: str | None = None,
    seed: int = 0,
) -> Figure:
    """Draw what each latent dimension does: one at a time moves, the rest stay at a datum's code.

    The dimensions are ordered by the KL that the guide spends on them. Sites below the one that
    moves follow.

    Args:
        datum: number of the datum in the split.
        dimensions: how many to show at most; 6 of tables and sequences.
        steps: images per dimension.
        extent: from minus to plus this many standard deviations of p(z), or of p(z | what stands
            above) at the datum's code.
        split: train, valid or test; by default test, or valid or train if that is empty.
        seed: of draws, for a guide or model without means.
    """
    split = data.choose(split)
    at_least(2, steps=steps)
    at_least(1, dimensions=dimensions)
    nodes = structure(pair, pair.bound_model, data.batch(split, 2))
    one = data.batch(split, 1, start=datum)
    single = latent_numbers(pair, one)
    code = {n: z.unsqueeze(-1) if n in single else z for n, z in centres(pair, one, seed=seed).items()}
    batch = repeat_batch(one, steps)
    line = torch.linspace(-extent, extent, steps)
    spread = prior_moments(pair, one, code)
    rows, labels = [], []
    ranked, unit = _ranked(pair, data.batch(split, min(1000, data.size(split))))
    for worth, site, j in ranked[:dimensions]:
        below = descendants(nodes, site)
        values = {name: z.repeat(steps, 1) for name, z in code.items() if name not in below and z.dim() == 2}
        mean, deviation = spread[site]
        values[site][:, j] = (
            within_support(pair, one, site, line, code, seed=seed) if site in single else mean[j] + deviation[j] * line
        )
        rows.append(_decoded(pair, batch, values, seed, data.spec))
        labels.append(f"{site if site in single else f'{site}[{j}]'}\n{worth:.2f} {unit}")
    return sheet(
        torch.stack(rows),
        data,
        title=f"Traversal: {shown(pair, batch)} p(x | z) as one dimension moves, from {split} datum {datum}",
        rows=labels,
        columns=numbers(line),
        xlabel="the dimension that moves, in sd of p(z)",
    )


def _decoded(pair: Pair, batch: Batch, values: Mapping[str, Tensor], seed: int, spec: Spec) -> Tensor:
    """Return what is shown of p(x | z), ``(rows, features)``: means, or draws by the same random
    numbers in every row, so that rows differ by z alone.
    """
    if shown(pair, batch) == "mean of":
        return mean_of_x(decode(pair, batch, values, seed=seed), spec)
    rows = (slice(i, i + 1) for i in range(len(batch["x"])))
    each = (({k: f[row] for k, f in batch.items()}, {k: z[row] for k, z in values.items()}) for row in rows)
    return torch.cat([mean_of_x(decode(pair, *one, seed=seed), spec) for one in each])


def _roots(pair: Pair, batch: Batch) -> dict[str, int]:
    """Return the latent vectors that depend on no other: the top of the hierarchy."""
    found = code_sites(pair, batch)
    parents = {node.name: node.parents for node in structure(pair, pair.bound_model, batch)}
    return {name: size for name, size in found.items() if not set(parents[name]) & set(found)}


def two_data(data: Data, first: int, second: int | None, split: str) -> dict[str, Tensor]:
    """Return a batch of two data; the second is by default the next one of another class."""
    batch = data.batch(split, 1, start=first)
    if second is None:
        rest = data.batch(split)
        other = rest["x"].ne(batch["x"]).any(1)
        if "y" in rest and rest["y"].dim() == 1:
            other = rest["y"].ne(batch["y"])
        candidates = [i for i in other.nonzero()[:, 0].tolist() if i > first] or other.nonzero()[:, 0].tolist()
        second = candidates[0] if candidates else first
    last = data.batch(split, 1, start=second)
    return {name: torch.cat([field, last[name]]) for name, field in batch.items()}


def line(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """Return the points at shares ``t``, ``(steps, 1)``, of the line from ``a`` to ``b``."""
    return (1 - t) * a + t * b


def arc(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """Return the points at shares ``t``, ``(steps, 1)``, of the arc from ``a`` to ``b``."""
    angle = torch.acos((a @ b / (a.norm() * b.norm()).clamp(min=1e-12)).clamp(-1, 1))
    if angle.sin() < 1e-4:  # the same or opposite directions have no arc of their own
        return line(a, b, t)
    return (torch.sin((1 - t) * angle) * a + torch.sin(t * angle) * b) / angle.sin()


def _ranked(pair: Pair, batch: Batch) -> tuple[list[tuple[float, str, int]], str]:
    """Return (worth, site, dimension), largest first, and the unit.

    The worth is a dimension's KL, or the variance of its mean where it has no KL of its own.
    """
    if not latent_numbers(pair, batch):
        code_sites(pair, batch)
    worth, unit = kl_by_dimension(pair, [batch], num_samples=2), "nats"
    if any(nats is None for nats in worth.values()):
        worth, unit = dict(variance_of_means(pair, batch)), "var"
    ranked = [(v, name, j) for name, each in worth.items() if each is not None for j, v in enumerate(each.tolist())]
    return sorted(ranked, key=lambda entry: -entry[0]), unit
