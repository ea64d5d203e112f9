"""Pictures of sequences: steps across and features down, or lines of a pen; and states beside the
true ones.

See ``pyro_vae.plots``.
"""

from typing import Any

import torch
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from torch import Tensor

from pyro_vae.data import Data
from pyro_vae.plots.calling import picture
from pyro_vae.plots.panels import is_drawing, lines_of
from pyro_vae.plots.tiles import BLUE, GREY, NORMAL, ORANGE, SMALL, at_least, headline, mean_of_x, page
from pyro_vae.posterior import NotDrawable, generate, latent_vectors, posterior_means, reconstruct, shown
from pyro_vae.program import Pair

FEW = 4  # features that are drawn as curves


@picture
def rolls(pair: Pair, data: Data, *, count: int = 2, split: str | None = None, seed: int = 0) -> Figure:
    """Draw sequences, their reconstructions and draws of the model of the same lengths.

    They are piano rolls, steps across and features down, lines of a pen where they are strokes, or
    curves where there are few features.

    Args:
        count: number of sequences, side by side.
        split: train, valid or test; by default test, or valid or train if that is empty.
        seed: of the draws.
    """
    at_least(1, count=count)
    split = data.choose(split)
    shape = _shape(data)
    batch = data.batch(split, count)
    there = batch["mask"] if "mask" in batch else torch.ones(len(batch["x"]), shape[0]).bool()
    found = {
        "data": batch["x"],
        "rebuilt": mean_of_x(reconstruct(pair, batch, seed=seed)),
        "new": mean_of_x(generate(pair, batch, seed=seed, draw=True)),
    }
    few = shape[1] <= FEW
    figure = page(1.0 + len(found) * (1.5 if few else 1.8))
    axes = figure.subplots(len(found), len(there), squeeze=False, sharey=True)
    low, high = _range(batch["x"], shape, there)
    for row, (name, x) in zip(axes, found.items(), strict=True):
        row[0].set_ylabel(name, fontsize=NORMAL)
        for one, each, seen in zip(row, x, there, strict=True):
            steps = each.detach().cpu().reshape(shape)[seen.cpu()]
            if is_drawing(data.spec):
                _lines(one, steps)
            else:
                _curves(one, steps) if few else _roll(one, steps[:, low : high + 1], low)
            one.tick_params(labelsize=SMALL)
    figure.supxlabel("dx summed" if is_drawing(data.spec) else "step", fontsize=NORMAL)
    what = shown(pair, batch)
    headline(figure, f"Sequences ({split} split), the {what} p(x | z) at the centre of q(z | x), and draws of p(x)")
    return figure


@picture
def states(pair: Pair, data: Data, *, count: int = 3, split: str | None = None, seed: int = 0) -> Figure:
    """Draw the true state of every step beside what the posterior's mean says of it.

    That is a linear function, fitted to training data, of the mean of q(z_t | x).

    Args:
        count: number of sequences.
        split: train, valid or test; by default test, or valid or train if that is empty.
        seed: of the draws, for guides without a mean.
    """
    at_least(1, count=count)
    split = data.choose(split)
    steps, _ = _shape(data)
    if "state" not in data.spec.fields:
        raise NotDrawable(
            f"{data.spec.name} has no field 'state', the true state of every step, to draw beside; draw `rolls`"
        )
    known, batch = data.batch("train", min(500, data.size("train"))), data.batch(split, count)
    told = [_told(pair, part, steps, seed) for part in (known, batch)]
    true = [part["state"].unflatten(-1, (steps, -1)).double() for part in (known, batch)]
    there = known["mask"] if "mask" in known else torch.ones(len(known["x"]), steps).bool()
    weight = torch.linalg.lstsq(told[0][there], true[0][there]).solution
    guess, size = told[1] @ weight, true[1].shape[-1]
    seen = batch["mask"] if "mask" in batch else torch.ones(len(batch["x"]), steps).bool()
    share = 1 - (guess - true[1])[seen].var(0) / true[1][seen].var(0)
    figure = page(1.2 + 1.4 * size)
    axes = figure.subplots(size, len(seen), squeeze=False, sharex=True, sharey="row")
    for k, row in enumerate(axes):
        row[0].set_ylabel(f"state {k + 1}", fontsize=NORMAL)
        for i, one in enumerate(row):
            one.plot(true[1][i, seen[i], k], color="black", ls="--", lw=1.3, label="true")
            one.plot(guess[i, seen[i], k], color=ORANGE, lw=1, label="from the mean of q(z | x)")
            one.tick_params(labelsize=SMALL)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower right", ncols=2, fontsize=SMALL)
    figure.supxlabel("step", fontsize=NORMAL)
    words = ", ".join(f"{100 * part:.0f} %" for part in share.tolist())
    headline(figure, f"States, true and as a linear function of the mean of q(z | x), which explains {words}")
    return figure


def _told(pair: Pair, batch: Any, steps: int, seed: int) -> Tensor:
    """Return the posterior's mean of every state and a 1, ``(batch, steps, size + 1)``, float64."""
    names = [name for name, size in latent_vectors(pair, batch).items() if size % steps == 0]
    if len(names) != 1:
        raise NotDrawable("states need one latent site with a state for each step, such as that of `markov`")
    mean = posterior_means(pair, batch, seed=seed)[names[0]].double().unflatten(-1, (steps, -1))
    return torch.cat([mean, torch.ones_like(mean[..., :1])], -1)


def _shape(data: Data) -> tuple[int, int]:
    if data.spec.sequence is None:
        raise NotDrawable(f"{data.spec.name} are no sequences; draw `samples` or `reconstructions`")
    return data.spec.sequence


def _range(x: Tensor, shape: tuple[int, int], there: Tensor) -> tuple[int, int]:
    """Return the first and the last feature that is anywhere other than 0, and a little around."""
    used = (x.reshape(len(x), *shape)[there] != 0).any(0).nonzero().flatten()
    if not len(used):
        return 0, shape[1] - 1
    return max(0, int(used[0]) - 2), min(shape[1] - 1, int(used[-1]) + 2)


def _roll(axes: Any, steps: Tensor, low: int) -> None:
    extent = (-0.5, len(steps) - 0.5, low - 0.5, low + steps.shape[1] - 0.5)
    axes.imshow(
        steps.T.numpy(),
        cmap="gray_r",
        vmin=0,
        vmax=1,
        origin="lower",
        aspect="auto",
        interpolation="nearest",
        extent=extent,
    )


def _lines(axes: Any, steps: Tensor) -> None:
    axes.add_collection(LineCollection([line.numpy() for line in lines_of(steps)], colors="black", linewidths=1))
    axes.autoscale()
    axes.set(aspect="equal", adjustable="datalim")
    axes.yaxis.set_inverted(True)


def _curves(axes: Any, steps: Tensor) -> None:
    for k, color in zip(range(steps.shape[1]), (BLUE, ORANGE, GREY, "black"), strict=False):
        axes.plot(steps[:, k].numpy(), color=color, lw=1)
