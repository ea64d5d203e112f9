"""Convolutional nets for images that travel flat."""

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor, nn

from pyro_vae.nets.layers import Activation, activation_named, check_width, initialise, start_linear
from pyro_vae.options import Count, Fraction, Whole, checked


class ResidualBlock(nn.Module):
    """``h + f(h)`` with f two 3x3 convolutions, each after an activation; shapes stay."""

    @checked()
    def __init__(self, channels: Count, activation: Activation) -> None:
        super().__init__()
        self.body = nn.Sequential(
            activation_named(activation),
            nn.Conv2d(channels, channels, 3, padding=1),
            activation_named(activation),
            nn.Conv2d(channels, channels, 3, padding=1),
        )
        initialise(self, activation)
        # near the identity at first, so that depth does not change the scale of what passes (in place of
        # normalisation)
        with torch.no_grad():
            for parameter in self.body[-1].parameters():
                parameter.mul_(0.1)

    def forward(self, h: Tensor) -> Tensor:
        """Return an image stack of the same shape as ``h``."""
        return h + self.body(h)


def sizes_of(image: Sequence[int], halvings: int) -> list[tuple[int, int]]:
    """Return (height, width) after 0, 1, ..., ``halvings`` halvings, each rounded up."""
    sizes = [(int(image[1]), int(image[2]))]
    for _ in range(halvings):
        height, width = sizes[-1]
        sizes.append(((height + 1) // 2, (width + 1) // 2))
    return sizes


def check_image(image: Sequence[int], channels: Sequence[int]) -> None:
    """Refuse what is no image's shape, and a net without convolutions.

    Raises:
        ValueError: it is either.
    """
    if not channels:
        raise ValueError("a convolutional net needs at least one entry in channels: without convolutions use MLP.")
    if len(image) != 3 or min(image) < 1:
        raise ValueError(f"an image shape is (channels, height, width), all positive, and got {tuple(image)}.")


class ConvEncoder(nn.Module):
    """A convolutional net, ``(..., channels * height * width [+ extra]) -> (..., outputs)``.

    Each entry of ``channels`` is a convolution that halves the image (rounding up), so that any
    size will do.

    Args:
        image: ``(channels, height, width)`` of the flat image.
        outputs: number of outputs.
        channels: channels after each halving.
        blocks: residual blocks after each halving; 0 gives a plain convolutional net, 1 or more a
            residual net.
        hidden: width of the fully connected layer between the convolutions and the output.
        extra: further numbers that follow the image in the input (a label, say); they join at the
            fully connected layer.
        activation: a name in ``ACTIVATIONS``.
        dropout: probability that a unit of the fully connected layer is left out of a training
            step.

    >>> ConvEncoder((1, 28, 28), 20)(torch.zeros(5, 3, 784)).shape
    torch.Size([5, 3, 20])
    """

    @checked()
    def __init__(
        self,
        image: Sequence[int],
        outputs: Count,
        channels: Sequence[Count] = (32, 64),
        *,
        blocks: Whole = 0,
        hidden: Count = 256,
        extra: Whole = 0,
        activation: Activation = "relu",
        dropout: Fraction = 0.0,
    ) -> None:
        super().__init__()
        check_image(image, channels)
        self.image, self.extra, self.outputs = tuple(image), extra, outputs
        self.inputs = prod(image) + extra
        layers: list[nn.Module] = []
        for width, next_width in zip([image[0], *channels], channels, strict=False):
            layers += [nn.Conv2d(width, next_width, 3, stride=2, padding=1)]
            initialise(layers[-1], activation)
            layers += [ResidualBlock(next_width, activation) for _ in range(blocks)]
            layers += [activation_named(activation)]
        self.convolutions = nn.Sequential(*layers)
        height, width = sizes_of(image, len(channels))[-1]
        self.flat = channels[-1] * height * width
        self.dense = nn.Sequential(nn.Linear(self.flat + extra, hidden), activation_named(activation))
        initialise(self.dense, activation)
        if dropout:
            self.dense.append(nn.Dropout(dropout))
        self.last = nn.Linear(hidden, outputs)

    def features(self, x: Tensor) -> Tensor:
        """Return the fully connected layer, ``(..., hidden)``."""
        check_width(self, x, self.inputs)
        lead = x.shape[:-1]
        image, extra = x.split([self.inputs - self.extra, self.extra], -1)
        maps = self.convolutions(image.reshape(-1, *self.image))  # (data, channels, height, width)
        flat = maps.reshape(*lead, self.flat)
        return self.dense(torch.cat([flat, extra], -1))

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(..., outputs)``."""
        return self.last(self.features(x))

    def start_at(self, bias: Tensor, shrink: float = 1.0) -> None:
        """Begin near ``bias``, ``(outputs,)``, for every input: see `start_at`."""
        start_linear(self.last, bias, shrink)


class ConvDecoder(nn.Module):
    """The mirror of `ConvEncoder`, ``(..., inputs) -> (..., outputs)``.

    The output is a stack of images, flat: ``outputs`` is the image's number of pixels, or a
    multiple of it when a likelihood needs several numbers per pixel (all of the first kind, then
    all of the second, as the heads read them). Each output has a bias of its own.

    Args:
        inputs: number of inputs.
        image: ``(channels, height, width)`` of the image.
        outputs: number of outputs, a multiple of ``channels * height * width``; that product itself
            if not given.
        channels: channels before each doubling.
        blocks: residual blocks before each doubling; 0 gives a plain convolutional net, 1 or more a
            residual net.
        hidden: width of the fully connected layer between the input and the convolutions.
        activation: a name in ``ACTIVATIONS``.

    Raises:
        ValueError: ``outputs`` is not a multiple of the image's size.

    >>> ConvDecoder(20, (1, 28, 28))(torch.zeros(5, 3, 20)).shape
    torch.Size([5, 3, 784])
    """

    @checked()
    def __init__(
        self,
        inputs: Count,
        image: Sequence[int],
        outputs: int | None = None,
        channels: Sequence[Count] = (64, 32),
        *,
        blocks: Whole = 0,
        hidden: Count = 256,
        activation: Activation = "relu",
    ) -> None:
        super().__init__()
        check_image(image, channels)
        pixels = prod(image)
        self.inputs, self.outputs = inputs, pixels if outputs is None else outputs
        if self.outputs % pixels or self.outputs < 1:
            raise ValueError(
                f"a decoder of images {tuple(image)} has a multiple of {pixels} outputs, not {self.outputs}: "
                "give the size of a head built for that many features."
            )
        self.sizes = sizes_of(image, len(channels))[::-1]  # smallest first
        self.first = channels[0]
        flat = self.first * prod(self.sizes[0])
        self.dense = nn.Sequential(
            nn.Linear(inputs, hidden),
            activation_named(activation),
            nn.Linear(hidden, flat),
        )
        initialise(self.dense, activation)
        stages: list[nn.Module] = []
        planes = image[0] * (self.outputs // pixels)
        for width, next_width in zip(channels, [*channels[1:], planes], strict=True):
            layers: list[nn.Module] = [ResidualBlock(width, activation) for _ in range(blocks)]
            layers += [activation_named(activation)]
            layers += [nn.ConvTranspose2d(width, next_width, 4, stride=2, padding=1, bias=False)]
            initialise(layers[-1], activation)
            stages.append(nn.Sequential(*layers))
        self.stages = nn.ModuleList(stages)
        self.bias = nn.Parameter(torch.zeros(self.outputs))

    def forward(self, z: Tensor) -> Tensor:
        """Return ``(..., outputs)``."""
        check_width(self, z, self.inputs)
        lead = z.shape[:-1]
        maps = self.dense(z).reshape(-1, self.first, *self.sizes[0])  # (data, channels, height, width)
        for stage, (height, width) in zip(self.stages, self.sizes[1:], strict=True):
            maps = stage(maps)[..., :height, :width]  # doubled; an odd size drops the last line
        return maps.reshape(*lead, self.outputs) + self.bias

    def start_at(self, bias: Tensor, shrink: float = 1.0) -> None:
        """Begin near ``bias``, ``(outputs,)``, for every input: see `start_at`."""
        if bias.shape != self.bias.shape:
            raise ValueError(
                f"a start of shape {tuple(bias.shape)} does not fit a net of {self.outputs} outputs: "
                f"give {self.outputs} numbers."
            )
        with torch.no_grad():
            for weight in [*self.stages[-1].children()][-1].parameters():
                weight.mul_(shrink)
            self.bias.copy_(bias)
