"""Nets over the steps of a sequence whose recurrence is linear in the state, so that all steps are
computed at once: log2(steps) operations instead of a loop.

h_t = a_t h_(t-1) + b_t with a and b given by the inputs alone: the gated recurrence of *Parallelizing
Linear Recurrent Neural Nets Over Sequence Length (Martin & Cundy, 2018)*, arXiv 1709.04057. A loop
over 160 steps would be recorded as 160 copies of its operations; this is eight.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pyro_vae.options import Count, checked

__all__ = ["RecurrentNet", "scan"]


def scan(gate: Tensor, update: Tensor) -> Tensor:
    """Return h, ``(..., steps, width)``, with ``h_t = gate_t h_(t-1) + update_t`` and ``h_0 = 0``.

    By doubling (Hillis & Steele, 1986): after k rounds every h_t has the updates of the last 2^k
    steps.

    Args:
        gate: ``(..., steps, width)``; that of the first step counts for nothing.
        update: ``(..., steps, width)``.
    """
    steps, reach = update.shape[-2], 1
    while reach < steps:
        earlier = F.pad(update[..., :-reach, :], (0, 0, reach, 0))
        update = update + gate * earlier
        reach *= 2
        if reach < steps:
            gate = gate * F.pad(gate[..., : -reach // 2, :], (0, 0, reach // 2, 0))
    return update


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
        if self.backward_:
            return scan(gate.flip(-2), update.flip(-2)).flip(-2)
        return scan(gate, update)


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
        self.outputs = outputs
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
