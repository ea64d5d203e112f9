"""Figures of several models as bars."""

import math
from collections.abc import Mapping

from matplotlib.figure import Figure

from pyro_vae.plots.tiles import BLUE, NORMAL, SMALL, page


def bars(panels: Mapping[str, Mapping[str, float]], *, columns: int = 2) -> Figure:
    """Draw a panel for each figure, with a bar for each model that has it, in one order and colour.

    Args:
        panels: figures by title; each holds values by the name of a model.
        columns: panels beside each other.
    """
    down = math.ceil(len(panels) / columns)
    most = max(map(len, panels.values()))
    figure = page(down * (0.6 + 0.24 * most))
    axes = figure.subplots(down, columns, squeeze=False).flatten()
    for panel, (title, values) in zip(axes, panels.items(), strict=False):
        names, heights = list(values), list(values.values())
        panel.barh(range(len(names)), heights, color=BLUE)
        panel.set_yticks(range(len(names)), names, fontsize=SMALL)
        panel.invert_yaxis()
        low, high = min(0.0, *heights), max(0.0, *heights)
        panel.set_xlim(low - 0.25 * (high - low) * (low < 0), high + 0.25 * (high - low) * (high > 0))
        for i, height in enumerate(heights):
            panel.annotate(
                f"{height:.3g}",
                (height, i),
                (3 if height >= 0 else -3, 0),
                textcoords="offset points",
                ha="left" if height >= 0 else "right",
                va="center",
                fontsize=SMALL,
            )
        panel.set_title(title, fontsize=NORMAL, loc="left")
        panel.spines[["top", "right"]].set_visible(False)
        panel.tick_params(axis="x", labelsize=SMALL)
    for panel in axes[len(panels) :]:
        panel.set_visible(False)
    return figure
