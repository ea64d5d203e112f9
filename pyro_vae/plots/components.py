"""Mixtures: what each component looks like, which data it has, and how it came to that."""

from typing import Any

import numpy as np
import pyro.poutine as poutine
import torch
from matplotlib.figure import Figure
from pyro.distributions import constraints
from torch import Tensor

from pyro_vae.data import Data
from pyro_vae.plots.calling import history_picture, picture
from pyro_vae.plots.tiles import BLUE, GREY, NORMAL, SMALL, at_least, headline, is_image, mean_of_x, page, panel, sheet
from pyro_vae.posterior import NotDrawable, decode
from pyro_vae.program import Pair, PairError, PerDatum, Wrapped, evaluation, is_latent
from pyro_vae.training import EM, owners_of

MOST = 20  # components side by side


@picture
def components(pair: Pair, data: Data, *, count: int = 8, split: str | None = None) -> Figure:
    """Draw the mean of p(x | k) for every k, and q(k | x) of some data as bars.

    Of many components the 20 most probable have their means drawn.

    Args:
        count: number of data.
        split: train, valid or test; by default test, or valid or train if that is empty.
    """
    at_least(1, count=count)
    site, number = _component_site(pair, data)
    batch = data.batch(data.choose(split), count)
    means = _means(pair, data, site, number)
    with evaluation(pair, 0):
        fn = poutine.trace(pair.bound_guide).get_trace(batch).nodes[site]["fn"]
        share = fn.mean.reshape(-1, number)[: len(batch["x"])].cpu()
        weights = poutine.trace(pair.bound_model).get_trace(batch).nodes[site]["fn"].mean.reshape(-1, number)[0].cpu()
    figure = page(0.8 * (1 + len(share)) + 0.8)
    width = 3 if is_image(data.spec) else 1
    kept = range(number) if number <= MOST else weights.argsort(descending=True)[:MOST].tolist()
    grid = figure.add_gridspec(1 + len(share), len(kept) + width)
    title = "{k}: {share:.2f}" if len(kept) <= 10 else "{k}\n{share:.0%}"  # as there is room
    for place, k in enumerate(kept):
        axes = figure.add_subplot(grid[0, width + place])
        _draw_datum(axes, means[k], data)
        axes.set_title(title.format(k=k, share=weights[k].item()), fontsize=SMALL)
    for i, (x, q) in enumerate(zip(batch["x"].cpu(), share, strict=True)):
        _draw_datum(figure.add_subplot(grid[1 + i, :width]), x, data)
        axes = figure.add_subplot(grid[1 + i, width:])
        axes.bar(range(number), q.numpy(), color=BLUE)
        axes.set(ylim=(0, 1.05), xlim=(-0.5, number - 0.5), yticks=(0, 1))
        axes.set_xticks(range(0, number, 1 if number <= MOST else 10))
        axes.tick_params(labelsize=SMALL)
    which = "" if number <= MOST else f", the {MOST} most probable of {number}"
    headline(figure, f"Components {site}{which}: mean of p(x | {site}) and p({site}); below, data and q({site} | x)")
    return figure


@picture
def frames(pair: Pair, data: Data, *, steps: int = 6, seed: int = 0) -> Figure:
    """Draw EM, or k-means where q(k | x) is a point, frame by frame, from data for means.

    Of many components the first 20 are drawn.

    Args:
        steps: how many are taken; the last row is where they lead.
        seed: decides which training data the means begin at.
    """
    at_least(1, steps=steps)
    site, number = _component_site(pair, data)
    try:
        owners = owners_of(pair)
    except PairError as error:
        raise NotDrawable(str(error)) from None
    begin = next((owner for owner in owners.values() if hasattr(owner, "start_at")), None)
    if begin is None:
        raise NotDrawable("frames begin with data for means, and no part of the model has start_at(x); draw `curves`")
    before = {name: value.clone() for name, value in pair.state_dict().items()}
    like = next(iter(pair.named_parameters().values()))
    batch, _ = data.subset("train", 2000)
    batch = {name: value.to(like.dtype) if value.is_floating_point() else value for name, value in batch.items()}
    chosen = torch.randperm(len(batch["x"]), generator=torch.Generator().manual_seed(seed))[:number]
    rows, labels = [], []
    try:
        begin.start_at(batch["x"][chosen])  # type: ignore[operator]
        weighted: Any = lambda: PerDatum(len(batch["x"]), pair.data_plate)  # noqa: E731
        optim = torch.optim.SGD(list(pair.named_parameters().values()), lr=1.0)
        model, guide = Wrapped(pair.bound_model, weighted), Wrapped(pair.bound_guide, weighted)
        em = EM(model, guide, optim, pair.objective, owners=owners, stepwise=False)
        for step in range(steps + 1):
            rows.append(_means(pair, data, site, number)[:MOST])
            labels.append(f"{step}: {-em.update(batch):.2f}")
    finally:
        pair.load_state_dict(before)
    return sheet(
        torch.stack(rows),
        data,
        title=f"EM frame by frame: means of p(x | {site}) after each step, from data; ELBO in nats per datum",
        rows=labels,
        columns=[str(k) for k in range(min(number, MOST))],
        xlabel=site,
    )


@history_picture
def steps(history: Any) -> Figure:
    """Draw EM step by step: the E step lifts the ELBO to log p(x), the M step lifts both.

    Args:
        history: one row per step, as in ``Fitted.history`` or a run's ``history.csv``.
    """
    if not history or "m_step" not in history[0]:
        raise NotDrawable("steps are of expectation maximisation, and this run has none; train with --optimizer em")
    at_e, after_m = np.array([[-row["loss"], row["m_step"]] for row in history]).T
    number = np.arange(len(at_e))
    figure, axes = panel(4.2)
    path = np.stack([at_e, after_m], 1).reshape(-1)
    axes.plot(np.stack([number, number + 1], 1).reshape(-1), path, color=GREY, lw=1, label="ELBO, q held in an M step")
    axes.plot(number, at_e, "o-", color=BLUE, ms=4, lw=1.6, label="ELBO at the E step: log p(x) with an exact q")
    axes.plot(number + 1, after_m, "v", color=GREY, ms=4, label="ELBO after the M step, under the q before it")
    low = np.quantile(path, 0.1)
    axes.set_ylim(low - 0.05 * (path.max() - low), path.max() + 0.05 * (path.max() - low) + 1e-9)
    axes.set_xlabel("step", fontsize=NORMAL)
    axes.set_ylabel("training data, nats per datum", fontsize=NORMAL)
    axes.legend(fontsize=SMALL, frameon=False, loc="lower right")
    axes.tick_params(labelsize=SMALL)
    headline(figure, "Expectation maximisation: each E step touches, each M step climbs")
    return figure


def _component_site(pair: Pair, data: Data) -> tuple[str, int]:
    """Return the one-hot latent site that both programs have, and its size."""
    few = data.batch("train", 2)
    with evaluation(pair, 0):
        model = poutine.trace(pair.bound_model).get_trace(few).nodes
        guide = poutine.trace(pair.bound_guide).get_trace(few).nodes
    for name, site in model.items():
        if is_latent(site) and name in guide and isinstance(site["fn"].support, type(constraints.one_hot)):
            return name, site["fn"].event_shape[-1]
    raise NotDrawable("the model has no one-hot component per datum that the guide infers; draw `samples` or `graph`")


def _means(pair: Pair, data: Data, site: str, number: int) -> Tensor:
    """Return the mean of p(x | k) of each k, ``(components, features)``."""
    batch = {name: field[torch.zeros(number, dtype=torch.long)] for name, field in data.batch("train", 1).items()}
    like = next(iter(pair.state_dict().values()))
    return mean_of_x(decode(pair, batch, {site: torch.eye(number).to(like)}))


def _draw_datum(axes: Any, x: Tensor, data: Data) -> None:
    """Draw one datum in a small panel, an image as one."""
    if is_image(data.spec) and data.spec.image is not None:
        picture = x.reshape(data.spec.image).movedim(0, -1).clamp(0, 1)
        axes.imshow(picture.squeeze(-1).numpy(), cmap="gray", vmin=0, vmax=1)
    else:
        axes.plot(x.numpy(), color=BLUE, lw=1.2)
    axes.set(xticks=[], yticks=[])
