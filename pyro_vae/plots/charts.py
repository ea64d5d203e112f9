"""Figures about numbers: where codes lie, how training went, what dimensions and beta cost.

See ``pyro_vae.plots``.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from pyro_vae.data import Data, Spec
from pyro_vae.plots.calling import history_picture, picture, takes_axes
from pyro_vae.plots.tiles import (
    BLUE,
    CLASSES,
    CLEAR,
    GREEN,
    GREY,
    NORMAL,
    ORANGE,
    SMALL,
    headline,
    legend_beside,
    page,
    panel,
)
from pyro_vae.posterior import (
    ACTIVE_VARIANCE,
    NotDrawable,
    draw_latents,
    kl_by_dimension,
    latent_numbers,
    latent_vectors,
    posterior_means,
    refuse_chain,
    require_codes,
    variance_of_means,
)
from pyro_vae.program import Pair

DRAWS_OF_A_POINT = 64  # where q has no mean: they add a 64th of its variance, which no eye sees among the data

MARKERS = "osD^vP*X<>"


@picture
def scatter(
    pair: Pair,
    data: Data,
    *,
    site: str | None = None,
    method: Literal["auto", "pca", "tsne"] = "auto",
    count: int = 2000,
    split: str | None = None,
    seed: int = 0,
) -> Figure:
    """Draw where data lie in latent space: means of q(z | x) by label, and prior draws.

    Args:
        site: the latent vector; the model's top one by default.
        method: for more than two dimensions, pca (directions of most variance; distances mean
            something) or tsne (neighbours stay neighbours; distances and empty space mean nothing).
            auto is pca.
        count: number of data at most.
        split: train, valid or test; by default test, or valid or train if that is empty.
        seed: of the prior's draws, and of t-SNE.
    """
    split = data.choose(split)
    if count < 10:
        raise NotDrawable(f"count must be at least 10, got {count}")
    if method not in ("auto", "pca", "tsne"):
        raise NotDrawable(f"method must be auto, pca or tsne, got {method!r}")
    batch = data.batch(split, min(count, data.size(split)))
    site = _chosen(_sizes(pair, few := data.batch(split, 2)), site)
    require_codes(pair, few)
    means = posterior_means(pair, batch, num_samples=DRAWS_OF_A_POINT, seed=seed)[site].double()
    prior = draw_latents(pair, batch, {}, seed=seed)[site].double()
    prior = prior.unsqueeze(-1) if prior.dim() == 1 else prior.expand(len(means), -1)
    figure, axes = panel(5.6)
    how = ""
    if means.shape[1] == 1:
        _histogram(axes, means[:, 0], prior[:, 0], site)
    else:
        how, points, background, names = _flatten(means, prior, site, method, seed)
        _cloud(figure, axes, points, background, batch.get("y"), data.spec)
        axes.set_xlabel(names[0], fontsize=NORMAL)
        axes.set_ylabel(names[1], fontsize=NORMAL)
    headline(figure, f"Means of q({site} | x), {len(means):,} {split} data{how}")
    return figure


def _sizes(pair: Pair, batch: dict[str, Tensor]) -> dict[str, int]:
    """Return the sizes of the latent vectors, and 1 for each latent number."""
    return latent_vectors(pair, batch) | dict.fromkeys(latent_numbers(pair, batch), 1)


def _chosen(sizes: Mapping[str, int], site: str | None) -> str:
    """Return the site to draw: the one asked for, or the top one."""
    if not sizes:
        raise NotDrawable("the model has no continuous latent vector per datum, so there is nowhere to place the data")
    refuse_chain(sizes)
    site = site or next(iter(sizes))
    if site not in sizes:
        raise NotDrawable(f"there is no latent vector {site!r}; the model has {', '.join(map(repr, sizes))}")
    return site


def _cloud(
    figure: Any, axes: Any, points: np.ndarray, background: np.ndarray | None, y: Tensor | None, spec: Spec
) -> None:
    """Draw points in the plane, by label, above draws from the prior."""
    if background is not None:
        name = "draws from the prior"
        axes.scatter(background[:, 0], background[:, 1], s=12, color=GREY, alpha=0.4, lw=0, label=name)
    mapped = _by_label(axes, points, y, spec)
    if mapped is not None:
        figure.colorbar(mapped, ax=axes, label="y", aspect=40, pad=0.01)
    axes.set_aspect("equal", "datalim")
    axes.tick_params(labelsize=SMALL)
    legend_beside(figure, axes, markerscale=1.8)


@history_picture
def curves(history: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw how training went: loss, and the ELBO and its parts on the validation split.

    Args:
        history: one row per epoch, as in ``Fitted.history`` or a run's ``history.csv``.
    """
    if not history:
        raise NotDrawable("the history is empty: no epoch was finished yet")
    column = {key: np.array([float(row[key]) for row in history]) for key in history[0]}
    epoch = column["epoch"]
    if "figure" in column:
        return _of_own_figure(epoch, column)
    parts = bool(np.isfinite(column["kl"]).any())
    figure = page(5.6 if parts else 3.6)
    rows: Any = [["elbo", "elbo"], ["reconstruction", "kl"]] if parts else [["elbo"]]
    top, *below = figure.subplot_mosaic(rows, height_ratios=[3, 2][: len(rows)]).values()
    best = int(np.where(np.isfinite(column["elbo"]), column["elbo"], -np.inf).argmax())
    tempered = bool((column["beta"] != 1).any())
    name = f"- loss in training{f', beta {column["beta"][-1]:g} at the end' if tempered else ''}"
    top.plot(epoch, -column["loss"], color=ORANGE, ls="--", lw=1.4, label=name)
    top.plot(epoch, column["elbo"], color=BLUE, lw=1.8, label="ELBO, validation split, beta = 1")
    top.plot(epoch[best], column["elbo"][best], "o", color=BLUE, ms=6, label=f"best: {column['elbo'][best]:.2f}, kept")
    _focus(top, column["elbo"], *([] if tempered else [-column["loss"]]))
    top.legend(fontsize=SMALL, frameon=False, loc="lower right")
    told = (
        ("reconstruction", GREEN, "reconstruction: E log p(x | z)"),
        ("kl", ORANGE, "KL(q(z | x) || p(z))"),
    )
    for axes, (key, colour, what) in zip(below, told, strict=False):  # without parts there is no panel below
        axes.plot(epoch, column[key], color=colour, lw=1.6)
        axes.set_title(what, fontsize=NORMAL, loc="left")
        _focus(axes, column[key])
    for axes in (top, *below):
        _by_epoch(axes, len(epoch))
    headline(figure, f"Training: ELBO{' = reconstruction - KL' if parts else ''}; higher is better")
    return figure


def _of_own_figure(epoch: np.ndarray, column: Mapping[str, np.ndarray]) -> Figure:
    """Draw the curves of an objective whose figure is no ELBO: there are no parts, and no best
    epoch is marked.
    """
    figure, axes = panel(3.6)
    axes.plot(epoch, -column["loss"], color=ORANGE, ls="--", lw=1.4, label="- loss in training")
    axes.plot(epoch, column["figure"], color=BLUE, lw=1.8, label="the objective's figure, validation split")
    _focus(axes, column["figure"], -column["loss"])
    axes.legend(fontsize=SMALL, frameon=False)
    _by_epoch(axes, len(epoch))
    headline(figure, "Training: the objective's own figure, which is no likelihood: no epoch is the best by it")
    return figure


def _by_epoch(axes: Axes, epochs: int) -> None:
    axes.set_xlabel("epoch", fontsize=NORMAL)
    axes.set_ylabel("nats per datum", fontsize=NORMAL)
    axes.tick_params(labelsize=SMALL)
    axes.grid(color=GREY, alpha=0.25)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if epochs == 1:
        axes.lines[-1].set_marker("o")


@picture
def kl(pair: Pair, data: Data, *, count: int = 2000, split: str | None = None, seed: int = 0) -> Figure:
    """Draw the KL of each latent dimension, largest first; 0 means collapsed to the prior.

    Where q or p is correlated between dimensions a dimension has no KL of its own: Var_x E[z_j | x]
    is shown then.

    Args:
        count: number of data at most.
        split: train, valid or test; by default test, or valid or train if that is empty.
        seed: of the draws.
    """
    split = data.choose(split)
    batch = data.batch(split, min(count, data.size(split)))
    vectors = _sizes(pair, data.batch(split, 2))
    if not vectors:
        raise NotDrawable("the model has no continuous latent vector per datum, so there are no dimensions to compare")
    refuse_chain(vectors)
    nats = kl_by_dimension(pair, [batch], seed=seed)
    spread = variance_of_means(pair, batch)
    if len(nats) == 1:
        figure, axes = panel(3.3)
        panels = [axes]
    else:
        figure = page(0.7 + 2.6 * len(nats))
        panels = [*figure.subplots(len(nats), 1)]
    for axes, (site, each) in zip(panels, nats.items(), strict=True):
        value = spread[site] if each is None else each
        order = value.argsort(descending=True)
        shown = order[:60]
        active = spread[site][shown] > ACTIVE_VARIANCE
        bars = axes.bar(range(len(shown)), value[shown].numpy(), color=[BLUE if a else ORANGE for a in active])
        for bar, on in zip(bars, active, strict=True):
            bar.set_hatch(None if on else "///")
        few = range(0, len(shown), max(1, len(shown) // 20))
        axes.set_xticks(list(few), [str(shown[i].item()) for i in few], fontsize=SMALL)
        axes.set_xlabel(f"dimension of {site}, largest first", fontsize=NORMAL)
        axes.set_ylabel("Var of E[z | x]" if each is None else "KL, nats per datum", fontsize=NORMAL)
        axes.tick_params(labelsize=SMALL)
        total = "no KL per dimension: q or p is correlated" if each is None else f"{each.sum():.2f} nats in all"
        on = int((spread[site] > ACTIVE_VARIANCE).sum())
        hidden = f", first {len(shown)} of {len(order)}" if len(order) > len(shown) else ""
        axes.set_title(
            f"{site}: {total}; {on} of {len(order)} dimensions active{hidden}",
            fontsize=SMALL,
            loc="left",
        )
    idle = any(bool((spread[site] <= ACTIVE_VARIANCE).any()) for site in nats)
    note = f"; hatched: inactive, variance of E[z | x] at most {ACTIVE_VARIANCE}" if idle else ""
    headline(figure, f"What each latent dimension holds, {len(batch['x']):,} {split} data{note}")
    return figure


@takes_axes
def rate_distortion(points: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw rate against distortion over runs that differ in beta: what more nats in z buy.

    Fixing a Broken ELBO (Alemi et al., 2018), arXiv 1711.00464. A dashed line joins what has the
    same ELBO.

    Args:
        points: for each run ``kl`` (the rate) and ``reconstruction`` (minus the distortion) at beta
            = 1, in nats per datum, and the ``beta`` that trained it.
    """
    if len(points) < 2:
        raise NotDrawable(
            f"rate-distortion compares runs with different beta, and {len(points)} run is given; "
            "name more with --others"
        )
    ordered = sorted(points, key=lambda point: point["beta"])
    rate = np.array([point["kl"] for point in ordered])
    distortion = np.array([-point["reconstruction"] for point in ordered])
    figure, axes = panel(4.6)
    axes.plot(rate, distortion, "o-", color=BLUE, lw=1.4, ms=6)
    elbos = -(rate + distortion)
    for point, x, y, elbo in zip(ordered, rate, distortion, elbos, strict=True):
        words = f"beta {point['beta']:g}\nELBO {elbo:.1f}"
        axes.annotate(
            words, (x, y), (8, 3), textcoords="offset points", fontsize=SMALL, annotation_clip=False, bbox=CLEAR
        )
    axes.margins(0.2, 0.2)
    low, high = axes.get_xlim()
    bottom, ceiling = axes.get_ylim()
    for elbo in elbos:
        axes.plot([low, high], [-elbo - low, -elbo - high], color=GREY, ls="--", lw=0.8, zorder=0)
    axes.set_xlim(low, high)
    axes.set_ylim(bottom, ceiling)
    axes.set_xlabel("rate: KL(q(z | x) || p(z)), nats per datum", fontsize=NORMAL)
    axes.set_ylabel("distortion: - E log p(x | z), nats per datum", fontsize=NORMAL)
    axes.tick_params(labelsize=SMALL)
    headline(figure, "Rate and distortion over beta; dashed: equal ELBO (better to the lower left)")
    return figure


def _histogram(axes: Any, means: Tensor, prior: Tensor, site: str) -> None:
    low, high = min(means.min(), prior.min()).item(), max(means.max(), prior.max()).item()
    edges = np.linspace(low, high, 60).tolist()
    axes.hist(prior.numpy(), edges, color=GREY, alpha=0.5, label="draws from the prior")
    axes.hist(means.numpy(), edges, color=BLUE, alpha=0.7, label="means of the data")
    axes.set_xlabel(site, fontsize=NORMAL)
    axes.set_ylabel("number of data", fontsize=NORMAL)
    axes.legend(fontsize=SMALL, frameon=False)


def _flatten(
    means: Tensor, prior: Tensor, site: str, method: str, seed: int
) -> tuple[str, np.ndarray, np.ndarray | None, tuple[str, str]]:
    """Return a note on the projection, the points, the prior's draws, and names for the axes."""
    if means.shape[1] == 2:
        return "", means.numpy(), prior.numpy(), (f"{site}[0]", f"{site}[1]")
    if method == "tsne":
        from sklearn.manifold import TSNE

        perplexity = min(30.0, (len(means) - 1) / 3)
        points = TSNE(2, perplexity=perplexity, init="pca", random_state=seed).fit_transform(means.numpy())
        return (
            f", {means.shape[1]} dimensions by t-SNE: only neighbourhoods mean something",
            points,
            None,
            ("t-SNE 1, no unit", "t-SNE 2, no unit"),
        )
    centred = means - means.mean(0)
    _, values, directions = torch.linalg.svd(centred, full_matrices=False)
    share = (values.square() / values.square().sum().clamp(min=1e-12)).tolist()
    project = directions[:2].T
    names = tuple(f"principal component {i + 1} of {site} ({100 * share[i]:.0f} % of the variance)" for i in range(2))
    return (
        f", {means.shape[1]} dimensions by PCA",
        (centred @ project).numpy(),
        ((prior - means.mean(0)) @ project).numpy(),
        (names[0], names[1]),
    )


def _by_label(axes: Any, points: np.ndarray, y: Tensor | None, spec: Spec) -> Any:
    """Draw the points by class or by a number; return what a colour bar needs for a number."""
    if y is None or (y.dim() > 1 and y.shape[1] != 1):
        axes.scatter(points[:, 0], points[:, 1], s=12, color=BLUE, lw=0, label="data")
        return None
    y = y.reshape(len(y))
    if not spec.classes:
        return axes.scatter(points[:, 0], points[:, 1], s=12, c=y.numpy(), cmap="viridis", lw=0, label="data")
    present = y.unique().tolist()
    if len(present) > 20:
        axes.scatter(points[:, 0], points[:, 1], s=12, color=BLUE, lw=0, label=f"data of {len(present)} classes")
        return None
    for i, label in enumerate(present):
        some = points[(y == label).numpy()]
        colour, marker = CLASSES[i % len(CLASSES)], MARKERS[(i + i // len(CLASSES)) % len(MARKERS)]
        name = f"class {spec.class_label(label)}"
        axes.scatter(some[:, 0], some[:, 1], s=20, color=colour, marker=marker, lw=0, alpha=0.75, label=name)
        axes.text(
            *np.median(some, 0),
            str(label),
            fontsize=NORMAL + 2,
            weight="bold",
            ha="center",
            va="center",
            bbox={"boxstyle": "circle,pad=0.15", "fc": "white", "ec": colour, "lw": 1.4},
        )
    return None


def _focus(axes: Any, *series: np.ndarray) -> None:
    """Fit the axis to the later epochs: the leap of the first would flatten all the rest."""
    joined = np.concatenate([values[math.ceil(len(values) / 20) if len(values) > 4 else 0 :] for values in series])
    joined = joined[np.isfinite(joined)]
    if len(joined) and joined.max() > joined.min():
        room = 0.08 * (joined.max() - joined.min())
        axes.set_ylim(joined.min() - room, joined.max() + room)
