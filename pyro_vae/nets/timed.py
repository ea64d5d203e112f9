"""The net of a denoiser: one for all levels of a chain, told which by a number."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pyro_vae.nets.layers import check_width, start_linear
from pyro_vae.options import Count, checked

WAVES = 8  # sines and as many cosines that the time becomes


class TimedMLP(nn.Module):
    """A residual perceptron of a vector and a time, ``(..., inputs), (...) -> (..., outputs)``.

    The time enters every layer, as sines and cosines of 1 to 8 quarter turns. It begins near 0 for
    every input.

    Args:
        inputs: size of the vector.
        outputs: number of outputs; the last layer is linear.
        width: of the hidden layers.
        blocks: residual layers after the first hidden one.

    >>> TimedMLP(784, 784)(torch.zeros(5, 784), torch.rand(5, 1)).shape
    torch.Size([5, 784])
    """

    waves: Tensor

    @checked()
    def __init__(self, inputs: Count, outputs: Count, width: Count = 512, blocks: Count = 2) -> None:
        super().__init__()
        self.inputs, self.outputs = inputs, outputs
        self.first = nn.Linear(inputs + 2 * WAVES, width)
        self.blocks = nn.ModuleList(nn.Linear(width + 2 * WAVES, width) for _ in range(blocks))
        self.last = nn.Linear(width + 2 * WAVES, outputs)
        self.register_buffer("waves", math.pi / 2 * torch.arange(1, WAVES + 1))
        self.start_at(torch.zeros(outputs), 0.1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """Return ``(..., outputs)``; ``time``, from 0 to 1, is one for all or ``(..., 1)``."""
        check_width(self, x, self.inputs)
        angles = time * self.waves
        waves = torch.cat([angles.sin(), angles.cos()], -1).expand(*x.shape[:-1], 2 * WAVES)
        h = F.silu(self.first(torch.cat([x, waves], -1)))
        for block in self.blocks:
            h = h + F.silu(block(torch.cat([h, waves], -1)))
        return self.last(torch.cat([h, waves], -1))

    def start_at(self, bias: Tensor, shrink: float = 1.0) -> None:
        """Begin near ``bias``, ``(outputs,)``, for every input: see `start_at`."""
        start_linear(self.last, bias, shrink)
