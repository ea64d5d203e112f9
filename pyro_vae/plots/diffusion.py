"""Pictures of a chain of many levels, such as a diffusion: noise and its undoing.

They ask for the methods of a chain (see `docs/design.md`). See ``pyro_vae.plots``.
"""

from itertools import pairwise
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from pyro_vae.conditionals import Noise, Reverse
from pyro_vae.data import Data
from pyro_vae.evidence import elbo
from pyro_vae.plots.calling import picture
from pyro_vae.plots.tiles import BLUE, GREY, NORMAL, ORANGE, SMALL, at_least, headline, mean_of_x, page, sheet
from pyro_vae.posterior import NotDrawable
from pyro_vae.program import Pair, evaluation


@picture
def noising(pair: Pair, data: Data, *, rows: int = 3, columns: int = 10, split: str | None = None) -> Figure:
    """Draw data as noise fills them, and below what the denoiser sees in each level: E[x | z].

    Args:
        rows: number of data.
        columns: levels shown, evenly from the first to the last.
        split: train, valid or test; by default test, or valid or train if that is empty.
    """
    at_least(1, rows=rows)
    at_least(2, columns=columns)
    model, guide, top = _chain(pair)
    x = data.batch(data.choose(split), rows)["x"].to(next(model.parameters()))
    levels = _evenly(top, columns)
    with evaluation(pair, 0):
        z = x
        drawn = []
        for level, noisier in enumerate(guide.levels, start=1):
            z = noisier(z).sample()
            if level in levels:
                drawn.append((_shown(guide, z), _shown(guide, model.step.denoiser(z, level).mean)))
    strips = [torch.stack([x, *(pair[k] for pair in drawn)], 1) for k in (0, 1)]
    strip = torch.stack(strips, 1).flatten(0, 1)
    return sheet(
        strip,
        data,
        title="Noise fills the data level by level; below, what the denoiser expects to be under it: E[x | z]",
        rows=["noise", "E[x | z]"] * (len(strip) // 2),
        columns=["x", *(f"z{level}" for level in levels)],
    )


@picture
def denoising(pair: Pair, data: Data, *, rows: int = 5, columns: int = 10, seed: int = 0) -> Figure:
    """Draw new data as they come out of noise: z of some levels, and the mean of p(x | z1) last.

    Args:
        rows: draws.
        columns: levels shown, evenly from the last to the first.
        seed: of the draws.
    """
    at_least(1, rows=rows)
    at_least(2, columns=columns)
    model, guide, top = _chain(pair)
    levels = _evenly(top, columns)[::-1]
    with evaluation(pair, seed):
        z = model.prior().expand((rows,)).sample()
        seen = [_shown(guide, z)]
        for level in range(top, 1, -1):
            z = model.step(z, level).sample()
            if level - 1 in levels:
                seen.append(_shown(guide, z))
        x = mean_of_x({"x": model.decoder(z).mean})
    return sheet(
        torch.stack([*seen, x], 1),
        data,
        title="Data come out of noise: z from the last level to the first, and the mean of p(x | z1)",
        columns=[*(f"z{level}" for level in levels), "x"],
    )


@picture
def few_steps(pair: Pair, data: Data, *, columns: int = 12, seed: int = 0) -> Figure:
    """Draw samples against the number of steps they are taken in; a row skips all other levels.

    Args:
        columns: samples.
        seed: of the draws, which start at the same noise in every row.
    """
    at_least(1, columns=columns)
    model, _, top = _chain(pair)
    counts = [n for n in dict.fromkeys((2, 5, 10, 20, 50, 100, 200, 500, 1000, top)) if 1 < n <= top] or [top]
    drawn = []
    for count in counts:
        with evaluation(pair, seed):
            z = model.prior().expand((columns,)).sample()
            drawn.append(mean_of_x({"x": model.decoder(_skipping(model.step, z, _evenly(top, count))).mean}))
    return sheet(
        torch.stack(drawn),
        data,
        title="Samples in fewer steps: mean of p(x | z1), the levels between skipped",
        rows=[f"{count} levels" for count in counts],
    )


@picture
def nats_per_level(pair: Pair, data: Data, *, count: int = 1000, split: str | None = None, seed: int = 0) -> Figure:
    """Draw where -ELBO comes from: nats per level against the log signal-to-noise ratio.

    A level's nats are KL(q(zl-1 | zl, x) || p(zl-1 | zl)); drawn per unit of log SNR, so that the
    area below the line is their sum. At the ends are the reconstruction term and
    KL(q(zT | x) || p(zT)).

    Args:
        count: number of data at most.
        split: train, valid or test; by default test, or valid or train if that is empty.
        seed: of the draws.
    """
    at_least(1, count=count)
    _, guide, top = _chain(pair)
    split = data.choose(split)
    count = min(count, data.size(split))
    table = elbo(pair, data.batch(split, count), seed=seed)
    steps = [-table.sites[f"z{level}"] for level in range(1, top)]
    ends = {"reconstruction": -table.sites["x"], "prior": -table.sites[f"z{top}"]}
    log_snr = guide.noise.log_snr.double().tolist()
    figure = page(4.6)
    axes = figure.add_subplot()
    widths = [above - below for above, below in pairwise(log_snr)]
    heights = [nats / width for nats, width in zip(steps, widths, strict=True)]
    axes.stairs(heights[::-1], log_snr[::-1], color=BLUE, fill=True, alpha=0.3)
    axes.stairs(heights[::-1], log_snr[::-1], color=BLUE, lw=1.6, label=f"KL of the steps, {sum(steps):.2f} in all")
    for place, (name, nats) in zip((log_snr[0], log_snr[-1]), ends.items(), strict=True):
        axes.plot([place], [0], "o", color=ORANGE, ms=7, clip_on=False, label=f"{name} term, {nats:.2f}")
    axes.axhline(0, color=GREY, lw=0.8)
    axes.invert_xaxis()
    axes.set_xlabel("log signal-to-noise ratio of the level, from x on the left to noise on the right", fontsize=NORMAL)
    axes.set_ylabel("nats per unit of log SNR", fontsize=NORMAL)
    axes.tick_params(labelsize=SMALL)
    axes.legend(fontsize=SMALL, frameon=False)
    headline(figure, f"Nats per level: -ELBO {-table.elbo:.2f}, {count:,} {split} data, {top} levels")
    return figure


def _chain(pair: Pair) -> tuple[Any, Any, int]:
    """Return model, guide and number of levels.

    Raises:
        NotDrawable: the pair is no chain of noise.
    """
    model, guide = pair.model, pair.guide
    if not isinstance(getattr(model, "step", None), Reverse) or not isinstance(getattr(guide, "noise", None), Noise):
        raise NotDrawable(
            "the model has no denoiser and the guide no noise in levels, so there are no steps to draw; "
            "draw `samples` or `levels`"
        )
    return model, guide, len(guide.noise)  # type: ignore[attr-defined]


def _evenly(top: int, count: int) -> list[int]:
    """Return levels from 1 to ``top``, each once."""
    return sorted(set(torch.linspace(1, top, count).round().int().tolist()))


def _skipping(step: Reverse, z: Tensor, levels: list[int]) -> Tensor:
    """Return z1 drawn from zT by way of some levels alone."""
    some = Noise(step.noise.log_snr[[level - 1 for level in levels]]).to(z)
    for place in range(len(levels), 1, -1):
        known = step.denoiser(z, levels[place - 1])
        z = Reverse(lambda *_, known=known: known, some, step.spread)(z, place).sample()
    return z


def _shown(guide: Any, s: Tensor) -> Tensor:
    """Return s, or z, in units of x."""
    return guide.units.mean + guide.units.std * s
