"""Whether what runs in a program's place does what the program does: comparisons of graphs and of results."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule

from pyro_vae.compiled._torch import tree_leaves
from pyro_vae.compiled.state import copies, like, undisturbed

# How far a recording may be from eager Pyro: relative, in the norm of each output. The operations are the same, so
# this is for sums that several threads add in another order; a wrong recording is off by far more.
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 5e-3}
OTHER_DRAWS = 8_191  # a seed
_WRAPPINGS = ("Trace Shapes:", "Param Sites:", "Sample Sites:", "The following operation failed", "Traceback of Torch")


def resampled(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return data that is as valid: each datum of the second half of the batch twice, in reverse; laid out as it was."""
    sizes = [len(t) for t in tensors if t.dim()]
    batch = max(set(sizes), key=sizes.count) if sizes else 0
    rows = batch - 1 - torch.arange(batch) // 2
    return [like(t, t[rows.to(t.device)] if t.dim() and len(t) == batch else t) for t in tensors]


def outcome(
    run: Callable[..., Sequence[Tensor]], inputs: Sequence[Tensor], written: Sequence[Tensor], seed: int | None = None
) -> list[Tensor]:
    """Return what a run returns, then what it leaves in the tensors that it writes; leave no trace.

    Its draws are those of the seed, or the present ones.
    """
    with undisturbed(copies(written)):
        if seed is not None:
            torch.manual_seed(seed)
        return [*run(*inputs), *(t.detach().clone() for t in written)]


def in_short(error: Exception) -> str:
    """Return an error's kind and the beginning of what it says, without what Pyro and TorchScript put around it."""
    lines = (line.strip() for line in str(error).splitlines())
    said = [line for line in lines if line and not line.startswith(_WRAPPINGS)]
    return f"{type(error).__name__}: {(said or [''])[0][:200]}"


def furthest(wanted: Sequence[Tensor], got: Sequence[Tensor], least: float = 0.0) -> float:
    """Return the largest distance between two lists of tensors in units of `TOLERANCE`, or of `least` where that is
    larger: up to 1 is rounding.

    Relative to each tensor's own norm, with one hundredth of the largest norm as floor (a gradient that
    cancels to nothing has only rounding left); numbers on their own are compared on their own. NaN equals
    NaN.
    """
    if len(wanted) != len(got) or any(a.shape != b.shape for a, b in zip(wanted, got, strict=True)):
        return float("inf")
    norms = [float(a.double().nan_to_num(0.0).norm()) for a in wanted]
    floor = max((n for n, a in zip(norms, wanted, strict=True) if a.dim()), default=0.0) / 100
    worst = 0.0
    for a, b, norm in zip(wanted, got, norms, strict=True):
        b = b.to(a.device)
        if not a.is_floating_point():
            worst = max(worst, 0.0 if torch.equal(a, b) else float("inf"))
            continue
        if not torch.equal(a.isfinite(), b.isfinite()):
            return float("inf")
        gap = float((a - b).double().nan_to_num(0.0, 0.0, 0.0).norm())
        scale = max(norm, floor if a.dim() else 0.0)
        worst = max(worst, gap / (max(TOLERANCE[a.dtype], TOLERANCE[b.dtype], least) * scale) if gap else 0.0)
    return worst


def differences(one: GraphModule, other: GraphModule) -> str | None:
    """Say in which operation or constant two recordings of one call differ; None if they are the same."""
    nodes, others = list(one.graph.nodes), list(other.graph.nodes)
    if len(nodes) != len(others):
        return f"two recordings of one call differ: {len(nodes)} and {len(others)} operations"
    number = {node: i for i, node in enumerate(nodes)} | {node: i for i, node in enumerate(others)}
    for a, b in zip(nodes, others, strict=True):
        if a.op == b.op == "get_attr":
            x, y = getattr(one, a.target), getattr(other, b.target)
            if isinstance(x, Tensor) and not (x.shape == y.shape and torch.equal(x, y)):
                return f"two recordings of one call hold different constants: {_short(x)} and {_short(y)}"
        elif a.op != b.op or (a.op == "call_function" and a.target is not b.target):
            return f"two recordings of one call differ: {a.target} and {b.target}"
        elif not _same((a.args, a.kwargs), (b.args, b.kwargs), number):
            values = f"{_numbers(a)} and {_numbers(b)}"
            return f"two recordings of one call hold different constants in {a.target}: {values}"
    return None


def _same(a: Any, b: Any, number: dict[Any, int]) -> bool:
    if isinstance(a, torch.fx.Node):
        return isinstance(b, torch.fx.Node) and number[a] == number[b]
    if isinstance(a, (tuple, list)):
        return isinstance(b, (tuple, list)) and len(a) == len(b) and all(map(_same, a, b, [number] * len(a)))
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(_same(a[k], b[k], number) for k in a)
    return bool(a == b) or (a != a and b != b)


def _numbers(node: torch.fx.Node) -> str:
    return (
        ", ".join(f"{v:.6g}" for v in tree_leaves((node.args, node.kwargs)) if isinstance(v, int | float)) or "others"
    )


def _short(tensor: Tensor) -> str:
    return f"{tensor.reshape(-1)[0].item():.6g}{', ...' if tensor.numel() > 1 else ''}" if tensor.numel() else "[]"
