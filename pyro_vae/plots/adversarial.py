"""Pictures of a generator and its critic: draws beside data, and what the critic says of both.

See ``pyro_vae.plots``.
"""

from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from pyro_vae.data import Data
from pyro_vae.objectives import divergence_bound
from pyro_vae.plots.calling import picture
from pyro_vae.plots.tiles import BLUE, GREY, NORMAL, ORANGE, SMALL, at_least, headline, is_image, page, sheet
from pyro_vae.posterior import NotDrawable, generate, repeat_batch
from pyro_vae.program import Pair, evaluation

MOST = 5000  # data that the critic is asked about
FURTHEST = 15.0  # nats: a critic may be surer than a picture can show


@picture
def beside(pair: Pair, data: Data, *, count: int = 48, split: str | None = None, seed: int = 0) -> Figure:
    """Draw new data above as many held-out data, in the order in which the critic believes in them.

    The first are those that it is surest to be drawn, the last those that it takes for data.

    Args:
        count: number of each; of tables 6 at most are drawn.
        split: whose data: by default test, or valid or train if that is empty.
        seed: of the draws.
    """
    at_least(1, count=count)
    split = data.choose(split)
    known = data.subset(split, min(count, data.size(split)))[0]
    ordered = [
        x[_critic(pair, known, x).argsort()] for x in (_drawn(pair, known, len(known["x"]), seed=seed), known["x"])
    ]
    across = min(count, 16 if is_image(data.spec) else 6)
    down = len(known["x"]) // across or 1
    rows = [part[: down * across].unflatten(0, (down, -1)) for part in ordered]
    title = f"Draws beside {split} data, each from drawn to real as the critic sees it"
    return sheet(torch.cat(rows), data, title=title, rows=["draws"] * down + ["data"] * down)


@picture
def critic(pair: Pair, data: Data, *, split: str | None = None, seed: int = 0) -> Figure:
    """Draw what the critic says of held-out data and of draws: how far the two can be told apart.

    Args:
        split: whose data: by default test, or valid or train if that is empty.
        seed: of the draws.
    """
    split = data.choose(split)
    known = data.subset(split, min(MOST, data.size(split)))[0]
    real = _critic(pair, known, known["x"])
    fake = _critic(pair, known, _drawn(pair, known, len(real), seed=seed))
    value, stderr = divergence_bound(real, fake)
    shown = [c.clamp(-FURTHEST, FURTHEST).numpy() for c in (real, fake)]
    figure = page(3.4)
    axes = figure.add_subplot()
    low, high = min(map(np.min, shown)), max(map(np.max, shown))
    bins = np.linspace(low, max(high, low + 1e-3), 41)
    for c, colour, name in zip(shown, (BLUE, ORANGE), (f"{split} data", "draws"), strict=True):
        axes.hist(c, bins=bins.tolist(), color=colour, alpha=0.55, density=True, label=name)
    axes.axvline(0, color=GREY, lw=1, ls=":")
    axes.set_xlabel("log p(x) / p_model(x) as the critic says, nats: above 0 it takes x for data", fontsize=NORMAL)
    axes.set_yticks([])
    axes.tick_params(labelsize=SMALL)
    axes.legend(fontsize=SMALL, frameon=False)
    headline(figure, f"Critic: Jensen-Shannon divergence at least {value:.3f} ± {stderr:.3f} of 0.693 nats")
    return figure


def _drawn(pair: Pair, known: dict[str, Tensor], count: int, *, seed: int) -> Tensor:
    _require_critic(pair)
    return generate(pair, repeat_batch(known, count), seed=seed, draw=True)["x"]


def _critic(pair: Pair, known: dict[str, Tensor], x: Tensor) -> Tensor:
    """Return log p / p_model at each x, as the pair's critic says."""
    _require_critic(pair)
    with evaluation(pair, 0):
        return pair.bound_guide({**repeat_batch(known, len(x)), "x": x}).cpu()


def _require_critic(pair: Pair) -> None:
    objective: Any = pair.objective
    if not hasattr(objective, "judge"):
        raise NotDrawable("the pair has no critic that tells draws from data, as `adversarial` has; draw `samples`")
