"""The order of a step's kernels on a CPU: what an operation gives is used while the cache holds it.

Inductor leaves a step's updates to the end, after the gradients of all parameters: by then they have left the cache, and so have the
activations that they are products of. Here whatever has least to come after it is done as soon as it can be. A gradient is computed
when the one that it needs arrives, and its parameter is updated next: 4 % of a step of a VAE at batch 128.
"""

import heapq
from collections.abc import Sequence
from typing import Any

NEGLIGIBLE = (
    100  # bytes that two updates read in common (the step's numbers) and that are no reason to make one kernel of them
)


def settings() -> dict[str, Any]:
    """Return inductor's settings for it."""
    return {
        "_post_fusion_custom_pass": soonest,
        "reorder_for_peak_memory": False,
        "score_fusion_memory_threshold": NEGLIGIBLE,
    }


def soonest(nodes: list[Any]) -> list[Any]:
    """Return inductor's nodes in this order. Draws stay in theirs: each depends on the one before.

    Args:
        nodes: each after those that it depends on.
    """
    makers = {name: i for i, node in enumerate(nodes) for name in node.get_buffer_names()}
    needs = [
        {makers[d.name] for d in node.unmet_dependencies if d.name in makers} - {i} for i, node in enumerate(nodes)
    ]
    return [nodes[i] for i in least_to_come_first(needs)]


def least_to_come_first(needs: Sequence[set[int]]) -> list[int]:
    """Return an order in which each comes after those that it needs and, of those that can come, the one with the shortest way to the end.

    Args:
        needs: those that each needs, all of them before it.

    Raises:
        ValueError: one needs itself or one that is not before it.
    """
    if any(others and max(others) >= i for i, others in enumerate(needs)):
        raise ValueError("the nodes are not given in an order that they can be run in")
    users: list[list[int]] = [[] for _ in needs]
    for i, others in enumerate(needs):
        for j in others:
            users[j].append(i)
    to_come = [0] * len(needs)
    for i in reversed(range(len(needs))):
        to_come[i] = 1 + max((to_come[j] for j in users[i]), default=0)
    missing = [len(others) for others in needs]
    ready = [(to_come[i], i) for i, count in enumerate(missing) if count == 0]
    heapq.heapify(ready)
    order = []
    while ready:
        _, i = heapq.heappop(ready)
        order.append(i)
        for j in users[i]:
            missing[j] -= 1
            if missing[j] == 0:
                heapq.heappush(ready, (to_come[j], j))
    return order
