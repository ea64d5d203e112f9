"""p(x, v) = prod_i p(v_i | parents of v_i), and x is a copy of what is seen of v

    v_i ~ p(v_i | parents)      a whole number from 0, for every node of the graph
    x   = v                     nodes; those not seen may be anything

Every node is summed over, so that log p(x) is exact with any pattern of missing nodes, and the
guide has nothing to draw.
"""

from collections.abc import Mapping, Sequence

import pyro
from pyro.nn import PyroModule
from torch import Tensor, nn


class BayesNetModel(PyroModule):
    """``parents -> node`` for every node of a graph, ``nodes -> x``.

    Args:
        graph: the parents of each node, in the order of x's features.
        tables: ``parents -> p(node | parents)``, by node; the values are whole numbers from 0.
        copy: ``nodes, seen -> p(x | nodes)``, event shape ``(nodes,)``.

    Raises:
        ValueError: the graph has a circle, or a parent that is no node.
    """

    def __init__(self, graph: Mapping[str, Sequence[str]], tables: Mapping[str, nn.Module], copy: nn.Module) -> None:
        super().__init__()
        self.graph = {name: tuple(parents) for name, parents in graph.items()}
        self.order = parents_first(self.graph)
        self.tables = nn.ModuleDict(tables)
        self.copy = copy

    def forward(self, x: Tensor, seen: Tensor | None = None) -> Tensor:
        """Return ``x``, ``(..., batch, nodes)``, drawn or observed; ``seen`` is bool, of x's shape."""
        v: dict[str, Tensor] = {}
        with pyro.plate("data", len(x)):
            for node in self.order:
                p_v = self.tables[node](*(v[parent] for parent in self.graph[node]))
                v[node] = pyro.sample(node, p_v, infer={"enumerate": "parallel"})
            return pyro.sample("x", self.copy([v[node] for node in self.graph], seen), obs=x)


def parents_first(graph: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """Return the nodes in an order in which parents come first.

    Raises:
        ValueError: the graph has a circle, or a parent that is no node.
    """
    order: list[str] = []
    path: list[str] = []

    def visit(node: str, child: str) -> None:
        if node in order:
            return
        if node not in graph:
            raise ValueError(
                f"node {child!r} has the parent {node!r}, which the graph (nodes {', '.join(graph)}) does not have; "
                "add it, or correct the name"
            )
        if node in path:
            circle = " -> ".join([*path[path.index(node) :], node][::-1])
            raise ValueError(f"the graph has a circle: {circle}; no node can be its own ancestor, so drop an arrow")
        path.append(node)
        for parent in graph[node]:
            visit(parent, node)
        path.pop()
        order.append(node)

    for node in graph:
        visit(node, node)
    return tuple(order)
