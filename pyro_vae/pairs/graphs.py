"""Graphs of Bayes nets as data: a name, a YAML or JSON file, or the dictionary that it holds.

    cloud:     {probs: [0.5, 0.5]}
    sprinkler: {parents: [cloud], probs: [[0.5, 0.5], [0.9, 0.1]]}
    rain:      {parents: [cloud]}
    wind:      {parents: [rain], values: 3}

Nodes are in the order of x's features. ``probs`` has a row for every combination of the parents'
values, nested in the parents' order, and a number for each of the node's own; without it the table
is drawn at random, for as many ``values`` as are given (2 by default).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from pyro_vae.data import SPRINKLER, Spec
from pyro_vae.models.bayes_net import parents_first
from pyro_vae.options import one_of, quoted
from pyro_vae.program import PairError

EXAMPLES = ("sprinkler", "chain", "star")
MOST = 2**16  # joint values of all nodes, over which a datum's probability is summed


@dataclass(frozen=True)
class Node:
    """A node of a graph: its parents, the number of its values, and its table, if it is given."""

    parents: tuple[str, ...]
    values: int
    probs: Tensor | None


def described(graph: str | Mapping[str, Any], spec: Spec) -> dict[str, Any]:
    """Return a graph as the dictionary that a file would hold.

    Raises:
        PairError: there is no such example, or the file cannot be read.
    """
    if not isinstance(graph, str):
        return dict(graph)
    if graph == "sprinkler":
        return dict(SPRINKLER)
    if graph in EXAMPLES:
        names = [f"v{i + 1}" for i in range(spec.features)]
        parents = [[names[i - 1 if graph == "chain" else 0]] if i else [] for i in range(len(names))]
        return {name: {"parents": above} for name, above in zip(names, parents, strict=True)}
    path = Path(graph)
    if path.suffix not in (".yaml", ".yml", ".json"):
        raise PairError(f"{one_of('graph', EXAMPLES, graph)}; a graph of your own is a file .yaml or .json")
    try:
        found = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise PairError(f"the graph {path} cannot be read: {reason}; give a YAML or JSON file of nodes") from None
    if not isinstance(found, dict) or not found:
        raise PairError(f"the graph {path} holds no nodes; write `name: {{parents: [...], probs: [...]}}` for each")
    return found


def nodes_of(graph: Mapping[str, Any]) -> dict[str, Node]:
    """Return the nodes of a graph, checked.

    Raises:
        PairError: a name, parent or table that cannot be; a circle.
    """
    entries = {name: _entry(name, entry) for name, entry in graph.items()}
    try:
        parents_first({name: entry["parents"] for name, entry in entries.items()})
    except ValueError as error:
        raise PairError(str(error)) from None
    values = {name: _values(name, entry) for name, entry in entries.items()}
    total = math.prod(values.values())
    if total > MOST:
        raise PairError(
            f"the graph's {len(values)} nodes have {total:,} joint values, and a datum's probability is summed over at "
            f"most {MOST:,}; leave nodes out, or give them fewer values"
        )
    return {
        name: Node(tuple(entry["parents"]), values[name], _table(name, entry, values))
        for name, entry in entries.items()
    }


def _entry(name: Any, entry: Any) -> dict[str, Any]:
    if not isinstance(name, str) or not name.isidentifier() or hasattr(torch.nn.ModuleDict(), name):
        raise PairError(f"a node cannot be called {quoted(name)}; give it a plain name")
    if name in ("x", "seen"):
        raise PairError(f"a node cannot be called {name!r}, as a field of the data is; give it another name")
    entry = {} if entry is None else entry
    if not isinstance(entry, Mapping) or entry.keys() - {"parents", "values", "probs"}:
        raise PairError(f"node {name!r} is {quoted(entry)}; it takes parents, values and probs")
    parents = entry.get("parents") or []
    if not isinstance(parents, list | tuple) or not all(isinstance(parent, str) for parent in parents):
        raise PairError(f"parents of node {name!r} are {quoted(parents)}; give a list of names")
    if len(set(parents)) < len(parents):
        raise PairError(f"node {name!r} has a parent twice ({', '.join(parents)}); name each once")
    return {**entry, "parents": list(parents)}


def _values(name: str, entry: Mapping[str, Any]) -> int:
    """Return how many values a node has."""
    told, rows = entry.get("values"), entry.get("probs")
    while isinstance(rows, list | tuple) and rows and isinstance(rows[0], list | tuple):
        rows = rows[0]
    found = len(rows) if isinstance(rows, list | tuple) else told if told is not None else 2
    if isinstance(found, bool) or not isinstance(found, int) or found < 2:
        raise PairError(f"node {name!r} has {quoted(found)} values; give a whole number from 2 on")
    if told not in (None, found):
        raise PairError(f"node {name!r} has values {told} and probs of {found}; make them agree, or leave values out")
    return found


def _table(name: str, entry: Mapping[str, Any], values: Mapping[str, int]) -> Tensor | None:
    """Return a node's table, float64 ``(parents' values ..., values)``."""
    if entry.get("probs") is None:
        return None
    shape = (*(values[parent] for parent in entry["parents"]), values[name])
    try:
        probs = torch.tensor(entry["probs"], dtype=torch.float64)
    except (TypeError, ValueError):
        probs = torch.empty(0)
    if tuple(probs.shape) != shape:
        said = f"of shape {tuple(probs.shape)}" if probs.numel() else "no table of numbers"
        raise PairError(
            f"probs of node {name!r} are {said}, and its parents' values and its own ask for {shape}; give a row for "
            "every combination of the parents' values"
        )
    if not bool(((probs >= 0) & (probs <= 1)).all()):
        odd = probs[~((probs >= 0) & (probs <= 1))][0].item()
        raise PairError(f"probs of node {name!r} hold {odd:g}, which is no probability; give numbers from 0 to 1")
    sums = probs.sum(-1)
    wrong = (sums - 1).abs() > 1e-6
    if wrong.any():
        row = tuple(wrong.nonzero()[0].tolist())
        where = ", ".join(f"{parent} = {v}" for parent, v in zip(entry["parents"], row, strict=True)) or "no parents"
        raise PairError(
            f"probs of node {name!r} sum to {sums[row].item():g} at {where}, not to 1; correct that row of the table"
        )
    return probs / sums.unsqueeze(-1)


def unidentified(nodes: Mapping[str, Node], probs: Mapping[str, Tensor]) -> list[str]:
    """Return the nodes with children whose values make no difference to any of these.

    Where such a node is missing, no method that climbs the likelihood ever tells its values apart.
    """
    found = []
    for name in nodes:
        children = [child for child, node in nodes.items() if name in node.parents]
        if children and not any(_differs(probs[child], nodes[child].parents.index(name)) for child in children):
            found.append(name)
    return found


def _differs(table: Tensor, axis: int) -> bool:
    return not torch.allclose(table, table.narrow(axis, 0, 1).expand_as(table), rtol=0, atol=1e-9)
