"""Nets over the steps of a sequence whose recurrence is linear in the state.

h_t = a_t h_(t-1) + b_t with a and b given by the inputs alone, as in *Parallelizing Linear Recurrent
Neural Nets Over Sequence Length (Martin & Cundy, 2018)*, arXiv 1709.04057. All else is computed for
all steps at once, and the recurrence is one operation of torch's, `scan`, with a gradient of its
own: a loop in Python over 160 steps would be recorded as 160 copies of its operations.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pyro_vae.options import Count, checked

__all__ = ["RecurrentNet", "scan"]


def scan(gate: Tensor, update: Tensor, *, backward: bool = False) -> Tensor:
    """Return h, ``(..., steps, width)``, with ``h_t = gate_t h_(t-1) + update_t`` and ``h_0 = 0``.

    Args:
        gate: ``(..., steps, width)``; that of the first step counts for nothing.
        update: ``(..., steps, width)``.
        backward: from the last step to the first: ``h_t = gate_t h_(t+1) + update_t``.
    """
    gate, update = torch.broadcast_tensors(gate, update)
    return _scan(gate, update, backward)


def _scan(gate: Tensor, update: Tensor, backward: bool) -> Tensor:
    return torch.ops.pyro_vae.scan(gate, update, backward)


# not `torch.library.custom_op`, whose first call imports torch's compiler, for seconds
torch.library.define("pyro_vae::scan", "(Tensor gate, Tensor update, bool backward) -> Tensor")


@torch.library.impl("pyro_vae::scan", "CompositeExplicitAutograd")
def _states(gate: Tensor, update: Tensor, backward: bool) -> Tensor:
    states = torch.empty_like(update, memory_format=torch.contiguous_format)
    kept, added, into = (each.unbind(-2)[:: -1 if backward else 1] for each in (gate, update, states))
    for first, start in zip(into[:1], added[:1], strict=True):
        first.copy_(start)
    for before, t in pairwise(range(len(into))):
        torch.addcmul(added[t], kept[t], into[before], out=into[t])
    return states


@torch.library.register_fake("pyro_vae::scan")
def _(gate: Tensor, update: Tensor, backward: bool) -> Tensor:
    return torch.empty_like(update, memory_format=torch.contiguous_format)


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor, bool], output: Tensor) -> None:
    ctx.save_for_backward(inputs[0], output)
    ctx.backward = inputs[2]


def _gradients(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
    """Return what the states' gradient is by gate and by update: itself a recurrence, the other way."""
    gate, states = ctx.saved_tensors
    later, earlier = ((0, 0, 1, -1), (0, 0, -1, 1)) if ctx.backward else ((0, 0, -1, 1), (0, 0, 1, -1))
    by_update = _scan(F.pad(gate, later), grad, not ctx.backward)
    return by_update * F.pad(states, earlier), by_update, None


torch.library.register_autograd("pyro_vae::scan", _gradients, setup_context=_keep)


class GatedScan(nn.Module):
    """A state that each step moves some of the way to a value of its own: ``h_t = (1 - g_t) h_(t-1)
    + g_t v_t``, with g and v of the step's inputs.

    Args:
        width: of inputs and state.
        backward: from the last step to the first.
    """

    def __init__(self, width: int, *, backward: bool) -> None:
        super().__init__()
        self.inward = nn.Linear(width, 2 * width)
        self.backward_ = backward

    def forward(self, x: Tensor, there: Tensor) -> Tensor:
        """Return the states, ``(..., steps, width)``; where ``there``, ``(..., steps)``, is False the
        state stays what it was.
        """
        raw, value = self.inward(x).chunk(2, -1)
        moved = torch.sigmoid(raw) * there.unsqueeze(-1)
        gate, update = 1 - moved, moved * value
        return scan(gate, update, backward=self.backward_)

    def step(self, x: Tensor, state: Tensor | float) -> Tensor:
        """Return the state after one step of inputs ``x``, ``(..., width)``."""
        raw, value = self.inward(x).chunk(2, -1)
        moved = torch.sigmoid(raw)
        return (1 - moved) * state + moved * value


class RecurrentNet(nn.Module):
    """Layers of gated states, over the steps forwards and, if ``both``, backwards too.

    What stands in padded steps changes nothing at any other step.

    Args:
        inputs: numbers in at each step.
        outputs: numbers out at each step.
        hidden: width of the layers.
        layers: how many.
        both: whether a step sees later ones too; else the steps up to itself.
    """

    @checked()
    def __init__(self, inputs: Count, outputs: Count, hidden: Count = 64, layers: Count = 2, *, both: bool) -> None:
        super().__init__()
        self.inputs, self.outputs, self.both = inputs, outputs, both
        self.first = nn.Linear(inputs, hidden)
        directions = (False, True) if both else (False,)
        self.scans = nn.ModuleList(
            nn.ModuleList(GatedScan(hidden, backward=way) for way in directions) for _ in range(layers)
        )
        self.mixes = nn.ModuleList(nn.Linear((1 + len(directions)) * hidden, hidden) for _ in range(layers))
        self.last = nn.Linear(hidden, outputs)

    def forward(self, x: Tensor, there: Tensor) -> Tensor:
        """Return ``(..., steps, outputs)`` for ``x``, ``(..., steps, inputs)``, of which the steps
        count that are ``there``, bool ``(..., steps)``.
        """
        h = F.silu(self.first(x))
        for ways, mix in zip(self.scans, self.mixes, strict=True):
            assert isinstance(ways, nn.ModuleList)
            h = h + F.silu(mix(torch.cat([h, *(way(h, there) for way in ways)], -1)))
        return self.last(h)

    def step(self, x: Tensor, states: Sequence[Tensor] | None) -> tuple[Tensor, list[Tensor]]:
        """Return what `forward` does at the next step, ``(..., outputs)``, for its inputs ``x``,
        ``(..., inputs)``, and the layers' states after it; ``states`` are None at the first.

        Raises:
            ValueError: the net runs backwards too, and so needs all steps at once.
        """
        if self.both:
            raise ValueError("a net of both directions has no next step: build it with both=False.")
        h, after = F.silu(self.first(x)), []
        for i, (ways, mix) in enumerate(zip(self.scans, self.mixes, strict=True)):
            after.append(ways[0].step(h, states[i] if states else 0.0))  # type: ignore[index, operator]
            h = h + F.silu(mix(torch.cat([h, after[-1]], -1)))
        return self.last(h), after
