"""Data drawn in rows and columns: images as tiles, tables and sequences as curves. Figures without pyplot: no display needed."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from torch import Tensor

from pyro_vae.data import Data, Spec
from pyro_vae.posterior import NotDrawable

INCHES = 7.0  # width of a figure: a page's column, legible at half size
TALLEST = 8.5  # inches, so that a figure fits a page and a screen
DPI = 160
BLUE, ORANGE, GREY = "#0072b2", "#d55e00", "#999999"  # told apart by colour-blind eyes (Okabe & Ito)
GREEN, PURPLE, SKY = "#009e73", "#cc79a7", "#56b4e9"
CLASSES = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#000000", "#999999", "#b8a800", "#7f4b1e")
SMALL, NORMAL = 10, 11  # points: five at half size
CLEAR = {"fc": "white", "ec": "none", "pad": 0.5}  # behind words that a line would strike through


def page(height: float, width: float = INCHES) -> Figure:
    """Return an empty figure of a size in inches."""
    return Figure(figsize=(width, height), dpi=DPI, layout="constrained")


def is_image(spec: Spec) -> bool:
    """Whether x is a picture with two dimensions; a single line of pixels reads better as a curve."""
    return spec.image is not None and min(spec.image[1:]) > 1


def sheet(
    x: Tensor,
    data: Data,
    *,
    title: str,
    rows: Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
    xlabel: str = "",
    ylabel: str = "",
) -> Figure:
    """Draw ``x``: (rows, columns, features), with a label for each row and column.

    Images become tiles. Anything else becomes a panel a row with a curve a column over the features, coloured by column, above
    the range that holds 90 % of the data.
    """
    x = x.detach().cpu().float()
    draw = _tiles if is_image(data.spec) else _curves
    return draw(x, data, title, rows, columns, xlabel, ylabel)


def _tiles(
    x: Tensor,
    data: Data,
    title: str,
    rows: Sequence[str] | None,
    columns: Sequence[str] | None,
    xlabel: str,
    ylabel: str,
) -> Figure:
    assert data.spec.image is not None
    channels, height, width = data.spec.image
    down, across = x.shape[:2]
    gap = max(1, height // 14)
    picture = torch.ones(down * (height + gap) - gap, across * (width + gap) - gap, channels)
    for i, j in ((i, j) for i in range(down) for j in range(across)):
        top, left = i * (height + gap), j * (width + gap)
        tile = x[i, j].reshape(channels, height, width).permute(1, 2, 0)
        picture[top : top + height, left : left + width] = tile.clamp(0, 1)
    edge = 0.35 + 1.0 * (rows is not None)  # inches beside the tiles
    largest = 0.9  # inches: a few tiles need not fill the page
    tile_width = min((INCHES - edge) / across, largest, (TALLEST - 1) / down * width / height)
    inches = max(INCHES if len(title) > 40 else 4.0, tile_width * across + edge)
    figure = page(
        tile_width * height / width * down
        + 0.35
        + 0.2 * len(broken(title, inches))
        + 0.32 * (bool(columns) + bool(xlabel)),
        inches,
    )
    axes = figure.add_subplot()
    axes.imshow(
        (picture[..., 0] if channels == 1 else picture).numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest"
    )
    centres = [(width - 1) / 2 + j * (width + gap) for j in range(across)]
    axes.set_xticks(centres if columns else [], columns or [], fontsize=SMALL)
    centres = [(height - 1) / 2 + i * (height + gap) for i in range(down)]
    axes.set_yticks(centres if rows else [], rows or [], fontsize=SMALL)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlabel(xlabel, fontsize=NORMAL)
    axes.set_ylabel(ylabel, fontsize=NORMAL)
    headline(figure, title, inches)
    return figure


def _curves(
    x: Tensor,
    data: Data,
    title: str,
    rows: Sequence[str] | None,
    columns: Sequence[str] | None,
    xlabel: str,
    ylabel: str,
) -> Figure:
    down, across, features = x.shape
    shown = min(down, 6)  # more panels than that are too flat to read
    figure = page(min(TALLEST, 1.2 + max(2.4, 1.3 * shown)))  # room for what stands beside one or two panels
    panels = figure.subplots(shown, 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    shades = colormaps["viridis"]([0.9 * j / max(1, across - 1) for j in range(across)])
    own = [
        columns is not None and columns[j] == "data" for j in range(across)
    ]  # what was measured, beside what was made
    made = [j for j in range(across) if not own[j]]
    for i, axes in enumerate(panels):
        shade_range(axes, data, label="90 % of the data" if i == 0 else None)
        for j in range(across):
            look: dict[str, Any] = {"color": shades[j] if columns else BLUE, "lw": 1, "alpha": 0.85}
            if columns and len(made) == 1:
                look |= {"color": ORANGE, "label": columns[j]}
            if own[j]:
                look |= {"color": "black", "ls": "--", "lw": 1.3, "label": "data"}
            if i or (own[j] and True in own[:j]):
                look.pop("label", None)
            axes.plot(range(features), x[i, j].numpy(), **look)
        if rows:
            axes.set_title(f"{f'{ylabel}: ' if ylabel else ''}{rows[i]}".replace("\n", " "), fontsize=SMALL, loc="left")
        axes.tick_params(labelsize=SMALL)
    panels[-1].set_xlabel("feature", fontsize=NORMAL)
    figure.supylabel("value, in the data's unit", fontsize=NORMAL)
    figure.legend(loc="outside lower right", ncols=3, fontsize=SMALL, frameon=False)
    if columns and len(made) > 1:
        scale = ScalarMappable(Normalize(0, max(1, across - 1) / 0.9), "viridis")
        bar = figure.colorbar(scale, ax=panels, aspect=40, pad=0.01)
        few = made[:: max(1, math.ceil(len(made) / (6 if shown < 3 else 11)))]
        bar.set_ticks([float(j) for j in few], labels=[columns[j] for j in few], fontsize=SMALL)
        bar.ax.set_ylim(made[0], made[-1])
        bar.set_label(xlabel, fontsize=NORMAL)
    headline(figure, title)
    return figure


def shade_range(axes: Any, data: Data, label: str | None) -> None:
    """Shade where 90 % of the test data lie, feature by feature."""
    known = data.batch("test")["x"]
    low, high = known.quantile(0.05, 0), known.quantile(0.95, 0)
    axes.fill_between(range(data.spec.features), low.numpy(), high.numpy(), color=GREY, alpha=0.25, lw=0, label=label)


def headline(figure: Figure, title: str, inches: float = INCHES) -> None:
    """Write the title above the figure, broken so that it fits the width."""
    figure.suptitle("\n".join(broken(title, inches)), fontsize=NORMAL + 1)


def broken(title: str, inches: float) -> list[str]:
    """Return the lines of a title that fit the width; none ends within q(z | x)."""
    return textwrap.wrap(title.replace(" | ", "\u00a0|\u00a0"), int(11.5 * inches))


def mean_of_x(values: Mapping[str, Tensor]) -> Tensor:
    """Return what was found for the site ``x``, ready to be drawn."""
    if "x" not in values:
        raise NotDrawable(
            f"the model observes {', '.join(map(repr, values)) or 'nothing'} and no 'x' to be drawn; draw `completions`, `scatter` or `kl`"
        )
    return values["x"].detach().cpu().float()


def at_least(least: int, **given: int) -> None:
    """Refuse a number that is too small, by its name."""
    for name, value in given.items():
        if value < least:
            raise NotDrawable(f"{name} must be at least {least}, got {value}")


def numbers(values: Tensor) -> list[str]:
    """Return labels with one decimal, and no minus before a zero."""
    return [f"{value:.1f}".replace("-0.0", "0.0") for value in values.tolist()]
