"""Pictures of one feature after the other: how draws grow, and what each pixel costs. See
``pyro_vae.plots``.
"""

import torch
from matplotlib.figure import Figure
from torch import Tensor

from pyro_vae.data import Data
from pyro_vae.distributions import Autoregressive, by_feature
from pyro_vae.evidence import meaning_of
from pyro_vae.plots.calling import picture
from pyro_vae.plots.tiles import NORMAL, SMALL, at_least, headline, is_image, mean_of_x, page, sheet
from pyro_vae.posterior import NotDrawable, distribution_of_x, generate, repeat_batch
from pyro_vae.program import Batch, Pair, innermost

HIDDEN = 0.5  # grey: what is not given, or not drawn yet


@picture
def growth(pair: Pair, data: Data, *, count: int = 8, steps: int = 9, seed: int = 0) -> Figure:
    """Draw how samples grow, one pixel after the other; pixels to come are grey.

    Args:
        count: number of draws.
        steps: how many stages of each are shown.
        seed: of the draws.
    """
    at_least(1, count=count)
    at_least(2, steps=steps)
    batch = repeat_batch(data.batch(data.choose(), count), count)
    order = autoregressive_of(pair, batch).net.order.tolist()
    if not is_image(data.spec):
        raise NotDrawable(f"growth is a picture of images, and x of {data.spec.name} is none; draw `samples`")
    x = mean_of_x(generate(pair, batch, seed=seed, draw=True), data.spec)
    drawn = [round(stage * len(order) / (steps - 1)) for stage in range(steps)]
    stages = [torch.where(until(order, number), x, HIDDEN) for number in drawn]
    given = " | z), z ~ p(z)" if meaning_of(pair, batch).latent else ")"
    return sheet(
        torch.stack(stages, 1),
        data,
        title=f"Growth: draws from p(x{given}, one pixel after the other",
        columns=[str(number) for number in drawn],
        xlabel="pixels drawn",
    )


@picture
def nats(pair: Pair, data: Data, *, count: int = 8, split: str | None = None, seed: int = 0) -> Figure:
    """Draw data above what each pixel costs in nats, -log p: surprising ones are bright.

    A pixel's p is that given z ~ q(z | x), where there is a z, and given the pixels before it,
    where they are drawn one after the other; the sum is -log p(x | z), or -log p(x).

    Args:
        count: number of data.
        split: train, valid or test; by default test, or valid or train if that is empty.
        seed: of the draws of z.
    """
    at_least(1, count=count)
    if not is_image(data.spec):
        raise NotDrawable(f"nats are drawn of images, and x of {data.spec.name} is none; `pyro-vae evaluate` sums them")
    split = data.choose(split)
    batch = data.batch(split, count)
    fn, value = distribution_of_x(pair, batch, seed=seed)
    with torch.no_grad():
        log_p = None if fn is None else by_feature(fn, value)
    if log_p is None or log_p.shape != batch["x"].shape:
        raise NotDrawable("log p(x) of this model is no sum over the pixels of x, so no pixel has a share of it")
    latent = bool(meaning_of(pair, batch).latent)
    before = isinstance(innermost(fn), Autoregressive)
    given = " | " * (latent or before) + ", ".join(["the pixels before it"] * before + ["z"] * latent)
    return _costs(batch, -log_p, data, f"Nats per pixel: -log p(pixel{given}), {split} split")


def _costs(batch: Batch, cost: Tensor, data: Data, title: str) -> Figure:
    """Draw the data in the first row, their costs in the second, with the sums below."""
    assert data.spec.image is not None
    x, cost = batch["x"].detach().cpu().float(), cost.detach().cpu().float()
    count = len(x)
    figure = page(3.4)
    panels = figure.subplots(2, count, squeeze=False)
    high = float(cost.quantile(0.999)) if cost.numel() < 2**24 else float(cost.max())
    for j in range(count):
        shapes = [part.reshape(data.spec.image).permute(1, 2, 0) for part in (x[j].clamp(0, 1), cost[j])]
        panels[0, j].imshow(shapes[0].squeeze(-1).numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        # of a coloured pixel the sum over its channels
        shown = panels[1, j].imshow(shapes[1].sum(-1).numpy(), cmap="magma", vmax=high, interpolation="nearest")
        panels[1, j].set_xlabel(f"{float(cost[j].sum()):.1f}", fontsize=SMALL)
    for axes in panels.flat:
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_visible(False)
    panels[0, 0].set_ylabel("data", fontsize=NORMAL)
    panels[1, 0].set_ylabel("nats", fontsize=NORMAL)
    bar = figure.colorbar(shown, ax=panels[1, :], aspect=10, pad=0.01)
    bar.ax.tick_params(labelsize=SMALL)
    figure.supxlabel("sum over the pixels, nats", fontsize=NORMAL)
    headline(figure, title)
    return figure


def autoregressive_of(pair: Pair, batch: Batch) -> Autoregressive:
    """Return p(x | ...) whose features are drawn one after the other.

    Raises:
        NotDrawable: they are not.
    """
    found = innermost(distribution_of_x(pair, batch)[0])
    if not isinstance(found, Autoregressive):
        raise NotDrawable(
            "the model does not draw x one feature after the other, as the pair `autoregressive` does; draw `samples`"
        )
    return found


def until(order: list[int], number: int) -> Tensor:
    """Return whether each feature is among the first ``number`` of an order, ``(features,)``."""
    found = torch.zeros(len(order), dtype=torch.bool)
    found[order[:number]] = True
    return found
