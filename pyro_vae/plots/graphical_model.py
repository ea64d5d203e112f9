"""The graphical model of a pair, drawn without any program besides matplotlib.

See ``pyro_vae.plots``.
"""

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

from matplotlib.figure import Figure
from matplotlib.patches import Ellipse, FancyArrowPatch, FancyBboxPatch, Rectangle

from pyro_vae.data import Data
from pyro_vae.plots.calling import picture
from pyro_vae.plots.tiles import BLUE, CLEAR, NORMAL, SMALL, headline, page
from pyro_vae.program import Node, Pair, structure

WIDE, HIGH = 1.75, 1.25  # inches from node to node, at least
RADIUS = 0.3
LETTER = 0.078  # inches, of the words beside a node
EDGE = 0.3  # inches around what is drawn
ROOM = 0.2  # inches, for a frame's name


class Box(NamedTuple):
    """A rectangle, in inches, y upwards."""

    left: float
    right: float
    low: float
    high: float

    @classmethod
    def around(cls, boxes: Iterable["Box"], pad: float = 0.0) -> "Box":
        """Return the least box that holds the others, with room around them."""
        left, right, low, high = zip(*boxes, strict=True)
        return cls(min(left) - pad, max(right) + pad, min(low) - pad, max(high) + pad)

    def meets(self, other: "Box") -> bool:
        """Return whether two boxes have a point in common."""
        return self.left < other.right and other.left < self.right and self.low < other.high and other.low < self.high


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
    layouts = [_layout(nodes) for _, nodes, _ in sides]
    frames = [_frames(nodes, at) for (_, nodes, _), at in zip(sides, layouts, strict=True)]
    wholes = [
        Box.around(
            [*framed.values(), *(_extent(node, at[node.name]) for node in nodes)] or [Box(-1, 1, -0.5, 0.5)], EDGE
        )
        for (_, nodes, _), at, framed in zip(sides, layouts, frames, strict=True)
    ]
    across = [whole.right - whole.left for whole in wholes]
    high = max(whole.high - whole.low for whole in wholes)
    figure = page(high + 0.9, sum(across) + 0.3)
    panels = figure.subplots(1, 2, width_ratios=across, squeeze=False)[0]
    for axes, (title, nodes, name), at, framed, whole in zip(panels, sides, layouts, frames, wholes, strict=True):
        _draw(axes, nodes, at, framed, pair.data_plate)
        axes.set(xlim=(whole.left, whole.right), ylim=(whole.high - high, whole.high), aspect="equal")
        axes.set_axis_off()
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


def _layout(nodes: list[Node]) -> dict[str, tuple[float, float]]:
    """Return (x, y) of each node in inches: words have room beside it, and nothing lies in a plate
    that it does not belong to.
    """
    wide = max([WIDE, *(_half(node)[0] * 2 + _words_width(node) + 0.2 for node in nodes)])
    at = {name: (x * wide, -y * HIGH) for name, (x, y) in places_of(nodes).items()}
    for plate in {plate: None for node in nodes for plate in node.plates}:
        inside = [_extent(node, at[node.name]) for node in nodes if plate in node.plates]
        box = Box.around(inside, 0.25)
        for node in nodes:
            mine = _extent(node, at[node.name])
            if plate not in node.plates and mine.meets(box):
                x, y = at[node.name]
                left = x <= (box.left + box.right) / 2
                at[node.name] = (x + (box.left - mine.right if left else box.right - mine.left), y)
    return at


def _half(node: Node) -> tuple[float, float]:
    """Return half the width and height of a node, which holds its name."""
    return max(0.24 if node.kind == "given" else RADIUS, 0.055 * len(node.name) + 0.06), (
        0.24 if node.kind == "given" else RADIUS
    )


def _words(node: Node) -> str:
    if node.distribution == "Unit":  # what pyro.factor makes
        return "factor"
    return f"{node.distribution or 'given'}\n{'x'.join(map(str, node.size)) or '1'}"


def _words_width(node: Node) -> float:
    return 0.06 + LETTER * max(map(len, _words(node).split("\n")))


def _extent(node: Node, at: tuple[float, float]) -> Box:
    """Return the box of a node with the words beside it."""
    (x, y), (across, up) = at, _half(node)
    return Box(x - across, x + across + _words_width(node), y - up, y + up)


def _frames(nodes: list[Node], at: dict[str, tuple[float, float]]) -> dict[str, Box]:
    """Return the frame of each plate: one that holds another's variables holds its frame too.

    Of plates around the same variables the outermost holds the others.
    """
    members = {plate: {n.name for n in nodes if plate in n.plates} for node in nodes for plate in node.plates}
    order = {plate: depth for node in nodes for depth, plate in enumerate(node.plates)}
    frames: dict[str, Box] = {}
    for plate in sorted(members, key=lambda plate: (len(members[plate]), -order[plate])):
        held = [box for other, box in frames.items() if members[other] <= members[plate]]
        own = [_extent(node, at[node.name]) for node in nodes if plate in node.plates]
        around = Box.around([*own, *held], 0.14)
        frames[plate] = around._replace(low=around.low - ROOM)
    return frames


def _draw(
    axes: Any, nodes: list[Node], at: dict[str, tuple[float, float]], frames: dict[str, Box], data_plate: str
) -> None:
    if not nodes:
        axes.text(0.5, 0.5, "draws nothing", ha="center", va="center", fontsize=NORMAL, transform=axes.transAxes)
    known = {node.name: node for node in nodes}
    for node in nodes:
        for parent in node.parents:
            axes.add_patch(_arrow(known[parent], node, at))
    for node in nodes:
        (x, y), (across, up) = at[node.name], _half(node)
        face = {"observed": "#cccccc", "given": "#cccccc"}.get(node.kind, "white")
        if node.kind == "given":
            shape: Any = Rectangle((x - across, y - up), 2 * across, 2 * up, fc=face, ec="black", lw=1.2, zorder=2)
        else:
            style = "--" if node.kind == "auxiliary" else "-"
            shape = Ellipse((x, y), 2 * across, 2 * up, fc=face, ec="black", lw=1.2, ls=style, zorder=2)
        axes.add_patch(shape)
        axes.text(x, y, node.name, ha="center", va="center", fontsize=NORMAL + 1, style="italic", zorder=3)
        place = (x + across + 0.06, y)
        axes.text(*place, _words(node), ha="left", va="center", fontsize=SMALL - 0.5, zorder=1.5, bbox=CLEAR)
    for plate, box in frames.items():
        size = box.right - box.left, box.high - box.low
        style = "round,pad=0,rounding_size=0.12"
        axes.add_patch(FancyBboxPatch((box.left, box.low), *size, boxstyle=style, fc="none", ec=BLUE))
        label = "each datum" if plate == data_plate else f"each of {plate}"
        axes.text(box.right - 0.07, box.low + 0.05, label, ha="right", va="bottom", fontsize=SMALL, color=BLUE)


def _arrow(start: Node, end: Node, at: dict[str, tuple[float, float]]) -> FancyArrowPatch:
    """From the rim of one node to the rim of the other."""
    (x, y), (to_x, to_y) = at[start.name], at[end.name]
    dx, dy = to_x - x, to_y - y
    leaves, arrives = _rim(start, dx, dy), _rim(end, dx, dy)
    return FancyArrowPatch(
        (x + leaves * dx, y + leaves * dy),
        (to_x - arrives * dx, to_y - arrives * dy),
        arrowstyle="-|>",
        mutation_scale=13,
        shrinkA=0,
        shrinkB=0,
        lw=1.2,
        color="black",
    )


def _rim(node: Node, dx: float, dy: float) -> float:
    """Return the share of a line from a node's centre that lies within it."""
    across, up = (half + 0.03 for half in _half(node))
    if node.kind == "given":
        return min(across / abs(dx) if dx else math.inf, up / abs(dy) if dy else math.inf)
    return 1 / math.hypot(dx / across, dy / up)
