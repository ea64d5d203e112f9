"""A graph of tables: every node with the probabilities of its values given its parents'."""

import itertools

from matplotlib.figure import Figure
from torch import Tensor

from pyro_vae.conditionals import Table
from pyro_vae.data import Data
from pyro_vae.plots.calling import picture
from pyro_vae.plots.graphical_model import places_of
from pyro_vae.plots.tiles import GREY, SMALL, headline, page
from pyro_vae.posterior import NotDrawable
from pyro_vae.program import Pair, structure

WIDE, HIGH = 2.6, 1.9  # inches from node to node
MOST_ROWS = 8


@picture
def tables(pair: Pair, data: Data) -> Figure:
    """Draw the graph of a model made of tables, each node with its table."""
    found = {
        name.rsplit(".", 1)[-1]: part
        for path, module in pair.modules().items()
        for name, part in module.named_modules(prefix=path)
        if isinstance(part, Table)
    }
    nodes = [n for n in structure(pair, pair.bound_model, data.batch("train", 2)) if n.name in found]
    if not nodes:
        raise NotDrawable("the model has no tables of probabilities; draw `graph`")
    parents = {node.name: [p for p in node.parents if p in found] for node in nodes}
    nodes = [node._replace(parents=tuple(parents[node.name])) for node in nodes]
    place = places_of(nodes)
    at = {name: (x * WIDE, -y * HIGH) for name, (x, y) in place.items()}
    xs, ys = [x for x, _ in at.values()], [y for _, y in at.values()]
    figure = page(max(ys) - min(ys) + 2.2, max(5.0, max(xs) - min(xs) + 3.0))
    axes = figure.subplots()
    boxes = {}
    for name, (x, y) in at.items():
        words = "\n".join([name, *_lines(found[name].probs, parents[name])])
        box = {"fc": "white", "ec": "black", "boxstyle": "round,pad=0.35"}
        boxes[name] = axes.text(
            x, y, words, ha="center", va="center", fontsize=SMALL - 1, family="monospace", bbox=box, zorder=3
        )
    for name, above in parents.items():
        for parent in above:
            ends = {"patchA": boxes[parent].get_bbox_patch(), "patchB": boxes[name].get_bbox_patch()}
            arrow = {"arrowstyle": "-|>", "shrinkA": 2, "shrinkB": 2, "color": GREY, **ends}
            axes.annotate("", at[name], at[parent], arrowprops=arrow)
    axes.set_xlim(min(xs) - 1.5, max(xs) + 1.5)
    axes.set_ylim(min(ys) - 0.9, max(ys) + 0.9)
    axes.set_axis_off()
    headline(figure, "Graph and tables: P(node | parents)", figure.get_figwidth())
    return figure


def _lines(probs: Tensor, parents: list[str]) -> list[str]:
    """Return a table's rows in words: the parents' values, and P(1) or the P of all values."""
    rows = list(itertools.product(*(range(size) for size in probs.shape[:-1])))
    lines = []
    for row in rows[:MOST_ROWS]:
        given = ",".join(f"{parent}={value}" for parent, value in zip(parents, row, strict=True))
        numbers = [f"{p:.3f}" for p in probs[row].tolist()]
        one = f"P(1|{given}) = {numbers[1]}" if given else f"P(1) = {numbers[1]}"
        lines.append(one if len(numbers) == 2 else f"P(.|{given}) = {' '.join(numbers)}")
    return lines + [f"... {len(rows)} rows"] * (len(rows) > MOST_ROWS)
