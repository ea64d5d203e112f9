"""What a program asks of tensors that are there before it runs: part of what must be equal for its recording to serve.

`if x.mean() > 0`, `range(lengths.max())`, the lengths of packed sequences: such an answer depends on data, parameters
or buffers, and on no draw. The operations that lead to it are cut out of the recording and run before each step; where
the answer is another one, so is the recording.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node


class Questions:
    """The questions of one recorded call.

    Args:
        graph: the call's operations, whose last outputs are the tensors that were read; they are cut off, in place.
        lines: for each of those, the line that read it.
        inputs: what the call was recorded with.

    Attributes:
        graph: the operations that lead to those tensors, with the same inputs.
        answers: what they were.
    """

    def __init__(self, graph: GraphModule, lines: Sequence[str], inputs: Sequence[Tensor]) -> None:
        self.lines = lines
        self.graph = _cut_off(graph, len(lines))
        self.answers = self.ask(inputs)

    def ask(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Return the answers for other inputs."""
        with torch.no_grad():
            return [t.clone() for t in self.graph(*inputs)] if self.lines else []


def _cut_off(graph: GraphModule, count: int) -> GraphModule:
    """Cut the last outputs off a graph, with what nothing else needs; return a graph of them alone."""
    output = graph.graph.output_node()
    results: Any = output.args[0]
    kept = len(results) - count
    leading: set[Node] = set(results[kept:])
    for node in reversed(graph.graph.nodes):
        if node in leading:
            leading.update(node.all_input_nodes)
    alone = Graph()
    copy: dict[Node, Node] = {}
    for node in graph.graph.nodes:
        if node in leading or node.op == "placeholder":
            copy[node] = alone.node_copy(node, copy.__getitem__)
    alone.output(tuple(copy[node] for node in results[kept:]))
    output.args = (type(results)(results[:kept]),)
    for node in reversed(graph.graph.nodes):
        if node in leading and not node.users and node.op != "placeholder":
            graph.graph.erase_node(node)
    graph.recompile()
    return GraphModule(graph, alone)
