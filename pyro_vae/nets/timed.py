"""Nets of a denoiser: one for all levels of a chain, told which by a number, the time.

They begin near 0 for every input: the denoiser is then exact for independent features.
"""

import math
from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pyro_vae.nets.convolution import check_image, sizes_of
from pyro_vae.nets.layers import check_width, start_linear
from pyro_vae.options import Count, checked

WAVES = 8  # sines and as many cosines that the time becomes
TOLD = 64  # numbers that each layer hears of the time


class Clock(nn.Module):
    """A time from 0 to 1, ``(..., 1)`` or one for all, as ``(..., 64)``: sines and cosines of 1 to 8
    quarter turns, mixed.
    """

    waves: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.mixed = nn.Linear(2 * WAVES, TOLD)
        self.register_buffer("waves", math.pi / 2 * torch.arange(1, WAVES + 1))

    def forward(self, time: Tensor) -> Tensor:
        """Return ``(..., 64)``."""
        angles = (time if time.dim() else time.unsqueeze(0)) * self.waves
        return F.silu(self.mixed(torch.cat([angles.sin(), angles.cos()], -1)))


class Paced(nn.Module):
    """A normalised layer, each unit stretched and moved as the time says."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.normal = nn.LayerNorm(width, elementwise_affine=False)
        self.pace = nn.Linear(TOLD, 2 * width)

    def forward(self, h: Tensor, told: Tensor) -> Tensor:
        """Return ``(..., width)``."""
        stretch, shift = self.pace(told).chunk(2, -1)
        return self.normal(h) * (1 + stretch) + shift


class TimedBlock(nn.Module):
    """``h + f(h, time)``, f two layers, near 0 at first."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.paced = Paced(width)
        self.up, self.down = nn.Linear(width, width), nn.Linear(width, width)
        start_linear(self.down, torch.zeros(width), 0.3)

    def forward(self, h: Tensor, told: Tensor) -> Tensor:
        """Return ``(..., width)``."""
        return h + self.down(F.silu(self.up(self.paced(h, told))))


class TimedMLP(nn.Module):
    """A residual perceptron of a vector and a time, ``(..., inputs), (..., 1) -> (..., outputs)``.

    Args:
        inputs: size of the vector.
        outputs: number of outputs; the last layer is linear.
        width: of the hidden layers.
        blocks: residual blocks of two layers each, after the first layer.

    >>> TimedMLP(784, 784)(torch.zeros(5, 784), torch.rand(5, 1)).shape
    torch.Size([5, 784])
    """

    @checked()
    def __init__(self, inputs: Count, outputs: Count, width: Count = 512, blocks: Count = 2) -> None:
        super().__init__()
        self.inputs, self.outputs = inputs, outputs
        self.clock = Clock()
        self.first = nn.Linear(inputs, width)
        self.blocks = nn.ModuleList(TimedBlock(width) for _ in range(blocks))
        self.paced = Paced(width)
        self.last = nn.Linear(width, outputs)
        start_linear(self.last, torch.zeros(outputs), 0.1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """Return ``(..., outputs)``; ``time``, from 0 to 1, is one for all or ``(..., 1)``."""
        check_width(self, x, self.inputs)
        told = self.clock(time)
        h = self.first(x)
        for block in self.blocks:
            h = block(h, told)
        return self.last(F.silu(self.paced(h, told)))


class TimedConv(nn.Module):
    """Convolutions that halve an image twice, perceptrons where it is smallest, and convolutions
    back to its size, each beside what it came from (a small U-Net); flat images, any size.

    *U-Net: Convolutional Networks for Biomedical Image Segmentation* (Ronneberger, Fischer & Brox,
    2015), arXiv 1505.04597.

    Args:
        image: ``(channels, height, width)`` of the flat image.
        images: images that come out, one after the other.
        channels: of the half-size image; the quarter-size one has twice as many.
        width: of the perceptron in the middle.
        blocks: residual blocks of that perceptron, of two layers each.

    >>> TimedConv((1, 28, 28))(torch.zeros(5, 784), torch.rand(5, 1)).shape
    torch.Size([5, 784])
    """

    @checked()
    def __init__(
        self, image: Sequence[int], images: Count = 1, channels: Count = 16, width: Count = 256, blocks: Count = 1
    ) -> None:
        super().__init__()
        check_image(image, [channels])
        self.image, self.inputs, self.outputs = tuple(image), prod(image), images * prod(image)
        _, self.middle, self.quarter = sizes_of(image, 2)
        wide = 2 * channels
        inner = wide * prod(self.quarter)
        self.clock = Clock()
        self.down = nn.ModuleList([nn.Conv2d(image[0], channels, 3, 2, 1), nn.Conv2d(channels, wide, 3, 2, 1)])
        self.paces = nn.ModuleList([nn.Linear(TOLD, channels), nn.Linear(TOLD, wide)])
        self.inner = TimedMLP(inner, inner, width, blocks)
        self.join = nn.ModuleList([nn.Conv2d(2 * wide, wide, 3, 1, 1), nn.Conv2d(wide, channels, 3, 1, 1)])
        self.up = nn.ConvTranspose2d(wide, channels, 4, 2, 1)
        self.last = nn.ConvTranspose2d(channels, images * image[0], 4, 2, 1)
        self.offset = nn.Parameter(torch.zeros(self.outputs))
        with torch.no_grad():
            self.last.weight.mul_(0.1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """Return ``(..., outputs)``; ``time``, from 0 to 1, is one for all or ``(..., 1)``."""
        check_width(self, x, self.inputs)
        lead = x.shape[:-1]
        time = time.expand(*lead, 1).reshape(-1, 1)
        told = self.clock(time)
        half, quarter = (pace(told)[..., None, None] for pace in self.paces)
        half = F.silu(self.down[0](x.reshape(-1, *self.image)) + half)
        quarter = F.silu(self.down[1](half) + quarter)
        seen = self.inner(quarter.flatten(1), time).reshape(quarter.shape)
        quarter = F.silu(self.join[0](torch.cat([quarter, seen], 1)))
        seen = F.silu(self.up(quarter)[..., : self.middle[0], : self.middle[1]])
        half = F.silu(self.join[1](torch.cat([half, seen], 1)))
        out = self.last(half)[..., : self.image[1], : self.image[2]]
        return out.reshape(*lead, self.outputs) + self.offset
