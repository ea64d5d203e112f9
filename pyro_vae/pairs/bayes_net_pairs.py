"""Pairs that are a graph of tables: any of its nodes may be missing in any datum."""

from typing import Any, Literal

import torch
from pyro.infer import TraceEnum_ELBO

from pyro_vae.conditionals import Seen, Table
from pyro_vae.data import Spec
from pyro_vae.guides.nothing import Nothing
from pyro_vae.models.bayes_net import BayesNetModel
from pyro_vae.pairs.graphs import described, nodes_of, unidentified
from pyro_vae.pairs.registry import pair, takes_missing
from pyro_vae.program import Pair, PairError
from pyro_vae.warning import warn


@takes_missing
@pair
def bayes_net(spec: Spec, *, graph: str | dict | None = None, start: Literal["given", "random"] | None = None) -> Pair:
    """Nodes -> x: a graph of tables, each node seen or missing in each datum (NaN in the data).

    Args:
        graph: a file .yaml or .json of nodes, or an example: sprinkler (the default for four
            features), chain (the default for others: each the parent of the next) or star (the
            first the parent of all others).
        start: tables as given (the default where the graph gives them all) or at random.
    """
    chosen = graph if graph is not None else "sprinkler" if spec.features == 4 else "chain"
    told = described(chosen, spec)
    nodes = nodes_of(told)
    if len(nodes) != spec.features:
        raise PairError(
            f"the graph has {len(nodes)} nodes ({', '.join(nodes)}), and x of {spec.name} has {spec.features} features; "
            "give a graph with a node for each feature, in their order"
        )
    if spec.support not in ("binary", "real"):
        raise PairError(
            f"nodes take whole numbers from 0, and x of {spec.name} is {spec.support} in [0, 1]; save x as int64 or "
            "float32 of whole numbers"
        )
    lacking = [name for name, node in nodes.items() if node.probs is None]
    if start == "given" and lacking:
        raise PairError(f"start given needs the tables of all nodes, and {lacking[0]!r} has no probs; use start random")
    tables, sizes = {}, {name: node.values for name, node in nodes.items()}
    for name, node in nodes.items():
        drawn = torch.softmax(torch.randn(*(sizes[parent] for parent in node.parents), node.values).double(), -1)
        tables[name] = drawn if node.probs is None or start == "random" else node.probs
    for name in unidentified(nodes, tables):
        warn(
            f"the start is symmetric in node {name!r}: none of its children's tables depends on it, so where it is "
            "missing, neither EM nor gradients will ever tell its values apart; use other tables, or start random"
        )
    parents = {name: node.parents for name, node in nodes.items()}
    model = BayesNetModel(parents, {name: Table(probs.float()) for name, probs in tables.items()}, Seen())
    recipe: dict[str, Any] | None = None
    if isinstance(chosen, str) and chosen.endswith((".yaml", ".yml", ".json")):
        recipe = {"name": "bayes_net", "options": {"graph": told, "start": start}}  # the file may change
    return Pair(model, Nothing(), TraceEnum_ELBO(max_plate_nesting=1), recipe=recipe)
