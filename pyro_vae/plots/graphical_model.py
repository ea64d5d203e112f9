"""The graphical model of a pair, drawn without any program besides matplotlib.

See ``pyro_vae.plots``.
"""

import math
from typing import Any

from matplotlib.figure import Figure
from matplotlib.patches import Ellipse, FancyArrowPatch, FancyBboxPatch, Rectangle

from pyro_vae.data import Data
from pyro_vae.plots.calling import picture
from pyro_vae.plots.tiles import BLUE, CLEAR, NORMAL, SMALL, headline, page
from pyro_vae.program import Node, Pair, structure

WIDE, HIGH = 1.75, 1.25  # inches from node to node
RADIUS = 0.3
# inches beyond the centres of the outermost nodes, for words and frames
LEFT, RIGHT, ABOVE, BELOW = 0.8, 1.75, 0.6, 0.75


@picture
def graph(pair: Pair, data: Data) -> Figure:
    """Draw the graphical model and the guide, as found by running them, like ``pyro.render_model``.

    Circles are random variables, shaded when observed; squares are fields that are given and have
    no distribution; a frame is a plate, whose variables are there once for each of its elements.
    """
    batch = data.batch("train", min(3, data.size("train")))
    sides = [
        (title, structure(pair, program, batch), program.name)
        for title, program in (("Model p", pair.bound_model), ("Guide q", pair.bound_guide))
    ]
    places = [places_of(nodes) for _, nodes, _ in sides]
    across = [
        WIDE * (max(xs, default=0.0) - min(xs, default=0.0)) + LEFT + RIGHT
        for xs in ([x for x, _ in place.values()] for place in places)
    ]
    down = HIGH * max(y for place in places for _, y in place.values()) + ABOVE + BELOW
    figure = page(down + 0.9, sum(across) + 0.3)
    panels = figure.subplots(1, 2, width_ratios=across, squeeze=False)[0]
    for axes, (title, nodes, name), place in zip(panels, sides, places, strict=True):
        _draw(axes, nodes, place, pair.data_plate)
        axes.set_title(f"{title}: {name.rsplit('.', 1)[-1]}", fontsize=NORMAL)
    headline(figure, "Graphical model", figure.get_figwidth())
    return figure


def places_of(nodes: list[Node]) -> dict[str, tuple[float, float]]:
    """Return (x, y) of each node, y downwards: every node lies a layer below all its parents."""
    layer: dict[str, int] = {}
    for node in nodes:
        layer[node.name] = 1 + max((layer[parent] for parent in node.parents), default=-1)
    parents = {node.name: node.parents for node in nodes}
    for node in nodes:  # what has no parents stands right above its first child, not on top of everything
        children = [layer[other.name] for other in nodes if node.name in other.parents]
        if not node.parents and children:
            layer[node.name] = min(children) - 1
    rows: dict[int, list[str]] = {}
    for name, depth in layer.items():
        rows.setdefault(depth, []).append(name)
    x: dict[str, float] = {}
    for depth in sorted(rows):
        known = {name: [x[p] for p in parents[name] if p in x] for name in rows[depth]}
        order = sorted(rows[depth], key=lambda name: sum(known[name]) / len(known[name]) if known[name] else 0.0)
        for i, name in enumerate(order):
            x[name] = (i - (len(order) - 1) / 2) * 1.0
    # an arrow that skips a layer would run through the nodes between: shift one-node layers that it
    # crosses
    for name, above in parents.items():
        for parent in above:
            for depth in range(layer[parent] + 1, layer[name]):
                for between in rows[depth]:
                    share = (depth - layer[parent]) / (layer[name] - layer[parent])
                    if abs(x[between] - (x[parent] + share * (x[name] - x[parent]))) < 0.3:
                        x[between] -= 0.6
    return {name: (x[name], float(layer[name])) for name in layer}


def _draw(axes: Any, nodes: list[Node], place: dict[str, tuple[float, float]], data_plate: str) -> None:
    at = {name: (x * WIDE, -y * HIGH) for name, (x, y) in place.items()}
    if not nodes:
        axes.text(0.5, 0.5, "draws nothing", ha="center", va="center", fontsize=NORMAL, transform=axes.transAxes)
    for node in nodes:
        for parent in node.parents:
            axes.add_patch(_arrow(at[parent], at[node.name]))
    for node in nodes:
        x, y = at[node.name]
        face = {"observed": "#cccccc", "given": "#cccccc"}.get(node.kind, "white")
        if node.kind == "given":
            shape: Any = Rectangle((x - 0.24, y - 0.24), 0.48, 0.48, fc=face, ec="black", lw=1.2, zorder=2)
        else:
            style = "--" if node.kind == "auxiliary" else "-"
            shape = Ellipse((x, y), 2 * RADIUS, 2 * RADIUS, fc=face, ec="black", lw=1.2, ls=style, zorder=2)
        axes.add_patch(shape)
        axes.text(x, y, node.name, ha="center", va="center", fontsize=NORMAL + 1, style="italic", zorder=3)
        size = "x".join(map(str, node.size)) or "1"
        words = f"{node.distribution}\n{size}" if node.distribution else f"given\n{size}"
        axes.text(x + RADIUS + 0.06, y, words, ha="left", va="center", fontsize=SMALL - 0.5, zorder=2.5, bbox=CLEAR)
    plates = {plate: depth for node in nodes for depth, plate in enumerate(node.plates)}
    deepest = max(plates.values(), default=0)
    for plate, depth in plates.items():
        inside = [at[node.name] for node in nodes if plate in node.plates]
        pad = 0.42 + 0.14 * (deepest - depth)
        left, right = min(x for x, _ in inside) - pad, max(x for x, _ in inside) + pad + RIGHT - 0.75
        low, high = min(y for _, y in inside) - pad - 0.14, max(y for _, y in inside) + pad
        axes.add_patch(
            FancyBboxPatch(
                (left, low), right - left, high - low, boxstyle="round,pad=0,rounding_size=0.12", fc="none", ec=BLUE
            )
        )
        label = "each datum" if plate == data_plate else f"each of {plate}"
        axes.text(right - 0.07, low + 0.05, label, ha="right", va="bottom", fontsize=SMALL, color=BLUE)
    xs, ys = zip(*(at.values() or [(0.0, 0.0)]), strict=True)
    axes.set_xlim(min(xs) - LEFT, max(xs) + RIGHT)
    axes.set_ylim(min(ys) - BELOW, max(ys) + ABOVE)
    axes.set_aspect("equal")
    axes.set_axis_off()


def _arrow(start: tuple[float, float], end: tuple[float, float]) -> FancyArrowPatch:
    """From the rim of one node to the rim of the other."""
    dx, dy = end[0] - start[0], end[1] - start[1]
    share = (RADIUS + 0.03) / math.hypot(dx, dy)
    return FancyArrowPatch(
        (start[0] + share * dx, start[1] + share * dy),
        (end[0] - share * dx, end[1] - share * dy),
        arrowstyle="-|>",
        mutation_scale=13,
        shrinkA=0,
        shrinkB=0,
        lw=1.2,
        color="black",
    )
