"""Data drawn in rows and columns: images, drawings and piano rolls as tiles, other tables and
sequences as curves.

Figures without pyplot: no display needed.
"""

import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from torch import Tensor

from pyro_vae.data import Data, Spec
from pyro_vae.plots.panels import in_box, is_drawing, is_roll, lines_of, roll_images
from pyro_vae.posterior import NotDrawable

INCHES = 7.0  # width of a figure: a page's column, legible at half size
MAX_HEIGHT = 8.5  # inches, so that a figure fits a page and a screen
DPI = 160
BLUE, ORANGE, GREY = "#0072b2", "#d55e00", "#999999"  # told apart by colour-blind eyes (Okabe & Ito)
GREEN, PURPLE, SKY = "#009e73", "#cc79a7", "#56b4e9"
CLASSES = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#000000", "#999999", "#b8a800", "#7f4b1e")
SMALL, NORMAL = 10, 11  # points: five at half size
CLEAR = {"fc": "white", "ec": "none", "pad": 0.5}  # behind words that a line would strike through


_HOST: ContextVar[Axes | None] = ContextVar("_HOST", default=None)


@contextmanager
def drawn_into(ax: Axes | None) -> Iterator[None]:
    """Let the picture that is drawn meanwhile go into the user's own axes, where there are some."""
    token = _HOST.set(ax)
    try:
        yield
    finally:
        _HOST.reset(token)


def panel(height: float, width: float = INCHES) -> tuple[Any, Axes]:
    """Return the figure and the only axes of a picture: of a size in inches, or the user's own."""
    if (host := _HOST.get()) is not None:
        return host.figure, host
    figure = page(height, width)
    return figure, figure.add_subplot()


def legend_beside(figure: Any, axes: Axes, **options: Any) -> None:
    """Name what is drawn beside the axes; within them where they are the user's own."""
    found = axes.get_legend_handles_labels()
    if _HOST.get() is None:
        figure.legend(*found, loc="outside right center", fontsize=SMALL, frameon=False, **options)
    else:
        axes.legend(*found, fontsize=SMALL, **options)


def page(height: float, width: float = INCHES) -> Figure:
    """Return an empty figure of a size in inches, for a picture of several panels.

    Raises:
        NotDrawable: there is one axes to draw into.
    """
    if _HOST.get() is not None:
        raise NotDrawable("this picture has several panels here, which one axes cannot hold; draw it without ax")
    return Figure(figsize=(width, height), dpi=DPI, layout="constrained")


def is_image(spec: Spec) -> bool:
    """Return whether x is a two-dimensional picture; a line of pixels is drawn as a curve."""
    return spec.image is not None and min(spec.image[1:]) > 1


def is_tiled(spec: Spec) -> bool:
    """Return whether `sheet` draws a tile for each datum, and not a curve."""
    return is_image(spec) or is_drawing(spec) or is_roll(spec)


def tiles_across(spec: Spec) -> int:
    """Return how many tiles a row has room for."""
    if is_image(spec) or spec.sequence is None:
        return 16
    return 12 if is_drawing(spec) else max(2, 112 // spec.sequence[0])


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

    Images, drawings and piano rolls become tiles. Anything else becomes a panel per row with a
    curve per column over the features, coloured by column, above the range that holds 90 % of the
    data.
    """
    x = x.detach().cpu().float()
    labels = _Labels(title, rows, columns, xlabel, ylabel)
    if is_image(data.spec):
        return _tiles(x, data.spec.image, labels)  # type: ignore[arg-type]
    if is_roll(data.spec):
        return _tiles(*roll_images(x, data.spec), labels)
    return _drawings(x, data.spec, labels) if is_drawing(data.spec) else _curves(x, data, labels)


class _Labels(NamedTuple):
    """What is written on a sheet."""

    title: str
    rows: Sequence[str] | None
    columns: Sequence[str] | None
    xlabel: str
    ylabel: str


def _tiles(x: Tensor, image: tuple[int, int, int], labels: _Labels) -> Figure:
    channels, height, width = image
    gap = max(1, height // 14)
    picture = _joined(x, image, gap)
    figure, axes = _tiled_axes(x.shape[:2], (height, width), gap, labels)
    shown = (picture[..., 0] if channels == 1 else picture).numpy()
    axes.imshow(shown, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    return figure


def _drawings(x: Tensor, spec: Spec, labels: _Labels) -> Figure:
    """Draw each datum with a pen, as large as its tile."""
    down, across = x.shape[:2]
    side, gap = 28, 3
    figure, axes = _tiled_axes((down, across), (side, side), gap, labels)
    steps = x.unflatten(-1, spec.sequence)  # type: ignore[arg-type]
    lines = [
        line.numpy()
        for i, j in ((i, j) for i in range(down) for j in range(across))
        for line in in_box(list(lines_of(steps[i, j])), side, (j * (side + gap), i * (side + gap)))
    ]
    axes.add_collection(LineCollection(lines, colors="black", linewidths=0.8, capstyle="round"))
    axes.set(xlim=(0, across * (side + gap) - gap), ylim=(down * (side + gap) - gap, 0), aspect="equal")
    return figure


def _tiled_axes(counts: Sequence[int], size: tuple[int, int], gap: int, labels: _Labels) -> tuple[Figure, Any]:
    """Return a figure with axes for ``counts``, down and across, of tiles of a size, height and
    width, with what is written around them.
    """
    (down, across), (height, width) = counts, size
    # inches beside the tiles, where the rows' labels are
    edge = 0.35 + max([1.0, *(0.088 * len(row) for row in labels.rows)] if labels.rows else [0.0])
    largest = 0.9  # inches: a few tiles need not fill the page
    tile_width = min((INCHES - edge) / across, largest, (MAX_HEIGHT - 1) / down * width / height)
    inches = max(INCHES if len(labels.title) > 40 else 4.0, tile_width * across + edge)
    words = 0.2 * len(broken(labels.title, inches)) + 0.32 * (bool(labels.columns) + bool(labels.xlabel))
    figure, axes = panel(tile_width * height / width * down + 0.35 + words, inches)
    centres = [(width - 1) / 2 + j * (width + gap) for j in range(across)]
    axes.set_xticks(centres if labels.columns else [], labels.columns or [], fontsize=SMALL)
    centres = [(height - 1) / 2 + i * (height + gap) for i in range(down)]
    axes.set_yticks(centres if labels.rows else [], labels.rows or [], fontsize=SMALL)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlabel(labels.xlabel, fontsize=NORMAL)
    axes.set_ylabel(labels.ylabel, fontsize=NORMAL)
    headline(figure, labels.title, inches)
    return figure, axes


def _joined(x: Tensor, image: tuple[int, int, int], gap: int) -> Tensor:
    """Return all tiles as one picture ``(height, width, channels)`` with white gaps."""
    channels, height, width = image
    down, across = x.shape[:2]
    picture = torch.ones(down * (height + gap) - gap, across * (width + gap) - gap, channels)
    for i, j in ((i, j) for i in range(down) for j in range(across)):
        top, left = i * (height + gap), j * (width + gap)
        tile = x[i, j].reshape(channels, height, width).permute(1, 2, 0)
        picture[top : top + height, left : left + width] = tile.clamp(0, 1)
    return picture


def _curves(x: Tensor, data: Data, labels: _Labels) -> Figure:
    down, across, features = x.shape
    shift, scale, unit = _unit(data.spec)
    x = (x - shift) / scale
    shown = min(down, 6)  # more panels than that are too flat to read
    # room for what stands beside one or two panels
    inches = min(MAX_HEIGHT, 1.2 + max(2.4, 1.3 * shown))
    if shown == 1:
        figure, axes = panel(inches)
        panels = [axes]
    else:
        figure = page(inches)
        panels = [*figure.subplots(shown, 1, sharex=True, sharey=True)]
    looks = _looks(labels.columns, across)
    for i, axes in enumerate(panels):
        shade_range(axes, data, label="90 % of the data" if i == 0 else None)
        for j, look in enumerate(looks):
            named = look if i == 0 else {key: value for key, value in look.items() if key != "label"}
            axes.plot(range(features), x[i, j].numpy(), **named)
        if labels.rows:
            name = f"{f'{labels.ylabel}: ' if labels.ylabel else ''}{labels.rows[i]}"
            axes.set_title(name.replace("\n", " "), fontsize=SMALL, loc="left")
        axes.tick_params(labelsize=SMALL)
    name_features(panels[-1], data.spec)
    if _HOST.get() is None:
        figure.supylabel(unit, fontsize=NORMAL)
        figure.legend(loc="outside lower right", ncols=3, fontsize=SMALL, frameon=False)
    else:
        panels[0].set_ylabel(unit, fontsize=NORMAL)
        panels[0].legend(fontsize=SMALL)
    if labels.columns:
        _add_colour_bar(figure, panels, labels.columns, labels.xlabel)
    headline(figure, labels.title)
    return figure


def _unit(spec: Spec) -> tuple[Tensor, Tensor, str]:
    """Return where values are counted from, in what, and its name: the data's unit, or each
    feature's own where those of a table spread so differently that one hides the others.
    """
    zeros, ones = torch.zeros(spec.features), torch.ones(spec.features)
    spread = spec.std[spec.std > 0]
    if spec.image is not None or spec.sequence is not None or not len(spread) or spread.max() < 10 * spread.min():
        return zeros, ones, "value, in the data's unit"
    return spec.mean, torch.where(spec.std > 0, spec.std, ones), "standard deviations from the mean"


def name_features(axes: Any, spec: Spec) -> None:
    """Write the features' names below their axis, where they have some and there is room."""
    names = spec.feature_names
    axes.set_xlabel("feature", fontsize=NORMAL)
    if names and len(names) <= 40:
        turned = sum(map(len, names)) > 60
        shown = [textwrap.shorten(name, 24, placeholder="...") for name in names]
        axes.set_xticks(range(len(names)), shown, rotation=90 if turned else 0, fontsize=SMALL)


def _looks(columns: Sequence[str] | None, across: int) -> list[dict[str, Any]]:
    """Return how the curve of each column is drawn: data in black, the rest coloured by column."""
    if columns is None:
        return [{"color": BLUE, "lw": 1, "alpha": 0.85}] * across
    shades = colormaps["viridis"]([0.9 * j / max(1, across - 1) for j in range(across)])
    made = across - list(columns).count("data")
    looks: list[dict[str, Any]] = []
    for j, column in enumerate(columns):
        look: dict[str, Any] = {"color": shades[j], "lw": 1, "alpha": 0.85}
        if column == "data":
            look |= {"color": "black", "ls": "--", "lw": 1.3}
            look |= {} if "data" in columns[:j] else {"label": "data"}
        elif made == 1:
            look |= {"color": ORANGE, "label": column}
        looks.append(look)
    return looks


def _add_colour_bar(figure: Figure, panels: Any, columns: Sequence[str], xlabel: str) -> None:
    """Name the columns that were made, beside those that hold data, where there are several."""
    across, made = len(columns), [j for j, column in enumerate(columns) if column != "data"]
    if len(made) < 2:
        return
    scale = ScalarMappable(Normalize(0, max(1, across - 1) / 0.9), "viridis")
    bar = figure.colorbar(scale, ax=panels, aspect=40, pad=0.01)
    few = made[:: max(1, math.ceil(len(made) / (6 if len(panels) < 3 else 11)))]
    bar.set_ticks([float(j) for j in few], labels=[columns[j] for j in few], fontsize=SMALL)
    bar.ax.set_ylim(made[0], made[-1])
    bar.set_label(xlabel, fontsize=NORMAL)


def shade_range(axes: Any, data: Data, label: str | None) -> None:
    """Shade where 90 % of the test data lie, feature by feature."""
    shift, scale, _ = _unit(data.spec)
    known = (data.batch(data.choose())["x"] - shift) / scale
    low, high = known.quantile(0.05, 0), known.quantile(0.95, 0)
    axes.fill_between(range(data.spec.features), low.numpy(), high.numpy(), color=GREY, alpha=0.25, lw=0, label=label)


def headline(figure: Any, title: str, inches: float = INCHES) -> None:
    """Write the title above the figure, or above the user's own axes, broken so that it fits the
    width.
    """
    if (host := _HOST.get()) is not None:
        wide = host.get_window_extent().width / host.figure.dpi
        host.set_title("\n".join(broken(title, wide)), fontsize=NORMAL)
        return
    figure.suptitle("\n".join(broken(title, inches)), fontsize=NORMAL + 1)


def broken(title: str, inches: float) -> list[str]:
    """Return the lines of a title that fit the width; none ends within q(z | x)."""
    return textwrap.wrap(title.replace(" | ", "\u00a0|\u00a0"), max(12, int(11.5 * inches)))


def mean_of_x(values: Mapping[str, Tensor], spec: Spec | None = None) -> Tensor:
    """Return what was found for the site ``x``, or for the only observed site, of the size of x,
    ready to be drawn.
    """
    if "x" not in values and spec is not None and len(values) == 1:
        (only,) = values.values()
        if only.shape[1:] == (spec.features,):
            return only.detach().cpu().float()
    if "x" not in values:
        raise NotDrawable(
            f"the model observes {', '.join(map(repr, values)) or 'nothing'} and no 'x' to be drawn; "
            "draw `completions`, `scatter` or `kl`"
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
