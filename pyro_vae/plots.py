"""Pictures of a trained pair; each function returns a matplotlib figure and needs no display."""

import math
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from pyro_vae.data import Data, Spec
from pyro_vae.pairing import Pair
from pyro_vae.predictive import generate, reconstruct, spread_over

INCHES = 7.0  # width of a figure: a page's column, legible at half size
BLUE, ORANGE, GREY = "#0072b2", "#d55e00", "#999999"  # told apart by colour-blind eyes (Okabe & Ito)


def samples(pair: Pair, data: Data, *, count: int = 80, seed: int = 0) -> Figure:
    """Draw data from the model: the mean of p(x | z) at z ~ p(z), a tile or a curve each."""
    batch = spread_over(data.batch("test"), count)
    x = generate(pair, batch, seed=seed)["x"]
    if data.spec.image is None:
        return _curves(data.spec, [("samples: mean of p(x | z), z ~ p(z)", x[:20], BLUE)], data)
    columns = 16
    figure, axes = _page(math.ceil(count / columns) / columns)
    _tiles(axes, x, data.spec, columns)
    axes.set_title("Samples: mean of p(x | z) at z ~ p(z)", fontsize=10)
    return figure


def reconstructions(pair: Pair, data: Data, *, count: int = 16, split: str = "test", seed: int = 0) -> Figure:
    """Draw data (upper rows) and their reconstructions (lower rows): the mean of p(x | z) at the centre of q(z | x)."""
    batch = data.batch(split, count)
    x, mean = batch["x"], reconstruct(pair, batch, seed=seed)["x"]
    if data.spec.image is None:
        pairs = [("data", x[:6], GREY), ("reconstructions", mean[:6], ORANGE)]
        return _curves(data.spec, pairs, data)
    columns = min(16, len(x))
    rows = [
        part
        for start in range(0, len(x), columns)
        for part in (x[start : start + columns], mean[start : start + columns])
    ]
    figure, axes = _page(len(rows) / columns)
    _tiles(axes, torch.cat(rows), data.spec, columns)
    axes.set_title(
        f"Data of the {split} split, and below each its reconstruction: mean of p(x | z) at the centre of q(z | x)",
        fontsize=8,
    )
    return figure


def _page(ratio: float) -> tuple[Figure, Any]:
    figure = Figure(figsize=(INCHES, INCHES * ratio + 0.3), dpi=160, layout="constrained")
    axes = figure.add_subplot()
    axes.set_axis_off()
    return figure, axes


def _tiles(axes: Any, x: Tensor, spec: Spec, columns: int) -> None:
    """Lay images ``(count, features)`` out in a grid with a thin line between them."""
    assert spec.image is not None
    channels, height, width = spec.image
    rows = math.ceil(len(x) / columns)
    gap = max(1, height // 14)
    sheet = torch.ones(rows * (height + gap) - gap, columns * (width + gap) - gap, channels)
    for i, image in enumerate(x.detach().cpu().float().clamp(0, 1).reshape(-1, channels, height, width)):
        top, left = i // columns * (height + gap), i % columns * (width + gap)
        sheet[top : top + height, left : left + width] = image.permute(1, 2, 0)
    if channels == 1:
        sheet = sheet[..., 0]
    axes.imshow(sheet.numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")


def _curves(spec: Spec, groups: list[tuple[str, Tensor, str]], data: Data) -> Figure:
    """Show rows of a table as curves over the features, on the data's own range."""
    figure = Figure(figsize=(INCHES, INCHES * 0.45), dpi=160, layout="constrained")
    axes = figure.add_subplot()
    known = data.batch("test")["x"]
    low, high = known.quantile(0.05, 0), known.quantile(0.95, 0)
    index = range(spec.features)
    axes.fill_between(index, low.numpy(), high.numpy(), color=GREY, alpha=0.25, lw=0, label="90 % of the data")
    for label, x, colour in groups:
        for i, row in enumerate(x.detach().cpu()):
            axes.plot(index, row.numpy(), color=colour, lw=0.8, alpha=0.8, label=label if i == 0 else None)
    axes.set_xlabel("feature")
    axes.set_ylabel("value, in the data's unit")
    axes.legend(fontsize=7, frameon=False)
    return figure
