"""A step whose matrices are updated while their gradients are added up, where those are products of two factors.

The graph of a step is cut in two: what ends with the factors is inductor's, the rest (products, the optimizer's rule, writing) is code of
`factored_code`. Only where that was measured to be faster: on a CPU with AVX-512, for batches that are small beside the
matrices. A gradient that is anything but one product, or is clipped by the norm of all, stays with inductor.
"""

import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.autograd.graph import increment_version
from torch.fx import Graph, GraphModule, Node

from pyro_vae.factored_code import C_TYPES, Matrix, rule_in_cpp, source
from pyro_vae.optim_graph import Update
from pyro_vae.recording import memory

MOST_DATA = 64  # added up in a gradient: for more, a library's product and an update after it are as fast
_aten = torch.ops.aten
_SAME = (_aten.detach.default, _aten.alias.default)
_VIEWS = (*_SAME, _aten.view.default, _aten._unsafe_view.default, _aten.unsqueeze.default, _aten.squeeze.dim)


class Layout(NamedTuple):
    """Where a step's inputs and results are.

    Attributes:
        parameters: where those are that the update trains, in its order.
        state: where the update's state begins; after it come its numbers, then data.
        results: how many come before the gradients; the last tells whether the loss is finite.
    """

    parameters: Sequence[int]
    state: int
    results: int


class Factored(NamedTuple):
    """A step in two parts.

    Attributes:
        first: the graph of what is computed before the updates; returns the results, then factors.
        kernel: makes the updates: takes matrices with their states, numbers, whether the loss was finite, and the factors.
        held: where matrices, their states and the numbers are among the inputs.
        given: where factors are that are data.
        results: how many results there are.
    """

    first: GraphModule
    kernel: Callable[..., None]
    held: list[int]
    given: list[int]
    results: int

    def joined(self, code: Callable[..., Sequence[Tensor]]) -> Callable[..., Sequence[Tensor]]:
        """Return the whole step, given code for its first part."""
        _, kernel, indices, given, count = self
        held_among = operator.itemgetter(*indices)

        def step(*inputs: Tensor) -> Sequence[Tensor]:
            out = code(*inputs)
            held = held_among(inputs)
            kernel(*held, out[count - 1], *out[count:], *[inputs[i] for i in given])
            increment_version(held[:-1])
            return out[:count]

        return step


class Product(NamedTuple):
    """A gradient left^T right: factors held row by row, (depth, height) and (depth, width)."""

    depth: int
    left: Node
    right: Node


def factored(graph: GraphModule, update: Update, layout: Layout, inputs: Sequence[Tensor]) -> Factored | None:
    """Return a step in which some updates come with their gradients, None where no update can.

    Args:
        graph: returns results, then the gradient of each parameter of the update, or none.
        update: what is written where the loss is finite.
        layout: where what is.
        inputs: like those that it will be called with.
    """
    holders = [node for node in graph.graph.nodes if node.op == "placeholder"]
    numbers = layout.state + len(update.state)
    in_one_memory = len({memory(inputs[k]) for k in layout.parameters}) < len(layout.parameters)
    if update.clip is not None or in_one_memory or not _wide(inputs):
        return None
    unfit = {*holders[: numbers + 1], *_written_later(graph)}  # what is updated itself is no factor
    outputs = _outputs(graph)
    if len(outputs) == layout.results:
        return None
    dtype = inputs[layout.parameters[0]].dtype
    found: list[tuple[int, list[int], Product]] = []
    first = layout.state
    for i, (place, gradient) in enumerate(zip(layout.parameters, outputs[layout.results :], strict=True)):
        states = range(first, first := first + update.states[i])
        product = _product(gradient)
        if product is None or not unfit.isdisjoint((product.left, product.right)):
            continue
        if _fits(product, [inputs[k] for k in (place, *states)], dtype):
            found.append((i, [place, *states], product))
    if not found:
        return None
    nodes = dict.fromkeys(node for _, _, product in found for node in (product.left, product.right))
    made, given = [n for n in nodes if n not in holders], [n for n in nodes if n in holders]
    index = {node: k for k, node in enumerate([*made, *given])}
    matrices = []
    for i, (place, *_), p in found:
        height, width = inputs[place].shape
        row, count = update.cohort[i], update.states[i]
        matrices.append(Matrix(p.depth, height, width, index[p.left], index[p.right], row, count))
    rules = {update.cohort[i]: rule_in_cpp(update.cohort[i], update.rule(i), update.states[i]) for i, _, _ in found}
    written = [k for _, tensors, _ in found for k in tensors]
    try:
        kernel = _load(*source(dtype, list(rules.values()), matrices, torch.get_num_threads()))
    except Exception:  # no compiler would take it, or this torch has no such loader; the whole is inductor's then
        return None
    first_part = _without(graph, [holders[k] for k in written], [*outputs[: layout.results], *made])
    return Factored(first_part, kernel, [*written, numbers], [holders.index(node) for node in given], layout.results)


def _wide(inputs: Sequence[Tensor]) -> bool:
    """Tell whether all is on a processor with AVX-512, for which the tiles were measured."""
    from torch._inductor.cpu_vec_isa import pick_vec_isa

    return all(t.device.type == "cpu" for t in inputs) and bool(isa := pick_vec_isa()) and isa.bit_width() == 512


def _load(types: list[str], code: str) -> Callable[..., None]:
    from torch._inductor.codecache import CppPythonBindingsCodeCache

    loaded: Callable[..., None] = CppPythonBindingsCodeCache.load_pybinding(types, code, needs_vec_isa=True)
    return loaded


def _written_later(graph: GraphModule) -> set[Node]:
    """Return what lies in memory that another operation writes after it."""
    written, later = set[Node](), set[Node]()  # the former by what made the memory
    for node in reversed(graph.graph.nodes):
        origin: Any = node
        while origin.op == "call_function" and _aliases(origin):
            origin = origin.args[0]
        if origin in written:
            later.add(node)
        if node.op == "call_function" and getattr(getattr(node.target, "_schema", None), "is_mutable", False):
            written.add(origin)
    return later


def _aliases(node: Any) -> bool:
    """Tell whether an operation returns the memory of its first argument, as views do and what writes in place."""
    schema = getattr(node.target, "_schema", None)
    return node.target is operator.getitem or (schema is not None and any(r.alias_info for r in schema.returns))


def _product(gradient: Any) -> Product | None:
    """Return the factors whose product a gradient is, or its transpose."""
    node, transposed = _without_transposes(gradient, False)
    if node.target is not _aten.mm.default:
        return None
    one, two = node.args
    depth = one.meta["val"].shape[1]
    left, right = (_rows(two, False), _rows(one, True)) if transposed else (_rows(one, True), _rows(two, False))
    return None if left is None or right is None else Product(depth, left, right)


def _rows(node: Any, transposed: bool) -> Node | None:
    """Return what holds a matrix, or its transpose, row by row in memory; None where nothing does."""
    node, transposed = _without_transposes(node, transposed)
    while node.target in _VIEWS:
        node = node.args[0]
    held = node.op in ("placeholder", "call_function") and node.meta["val"].is_contiguous()
    return node if held and not transposed else None


def _without_transposes(node: Any, transposed: bool) -> tuple[Any, bool]:
    """Return what a node is the transpose of, of the transpose of, and so on, and whether it is one in the end."""
    while node.target in _SAME or _transposes(node):
        node, transposed = node.args[0], transposed != _transposes(node)
    return node, transposed


def _transposes(node: Any) -> bool:
    if node.target is _aten.permute.default:
        return [d % 2 for d in node.args[1]] == [1, 0]
    return node.target is _aten.t.default or (node.target is _aten.transpose.int and node.meta["val"].dim() == 2)


def _fits(product: Product, tensors: Sequence[Tensor], dtype: torch.dtype) -> bool:
    """Tell whether a matrix and its states lie as the code takes them."""
    like = all(t.dtype == dtype and t.is_contiguous() and t.shape == tensors[0].shape for t in tensors)
    factors = all(node.meta["val"].dtype == dtype for node in (product.left, product.right))
    of_some_size = tensors[0].dim() == 2 and tensors[0].numel() > 0 and 0 < product.depth <= MOST_DATA
    return dtype in C_TYPES and like and factors and of_some_size


def _outputs(graph: GraphModule) -> list[Node]:
    (outputs,) = graph.graph.output_node().args
    return list(cast(Sequence[Node], outputs))


def returning(graph: GraphModule, results: int) -> GraphModule:
    """Return the graph without what it returns beyond the results."""
    return _without(graph, [], _outputs(graph)[:results])


def _without(graph: GraphModule, written: Sequence[Node], outputs: Sequence[Node]) -> GraphModule:
    """Return a copy of a graph that leaves some of its inputs as they are, and returns these nodes."""
    rest, copies = Graph(), dict[Node, Any]()
    rest.graph_copy(graph.graph, copies)
    rest.output([copies[node] for node in outputs])
    for node in written:
        for user in list(copies[node].users):
            if user.target is _aten.copy_.default and user.args[0] is copies[node]:
                rest.erase_node(user)
    rest.eliminate_dead_code()
    return GraphModule(graph, rest)
