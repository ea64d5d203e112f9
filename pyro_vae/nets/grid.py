"""Convolutional nets between an image and a small grid of vectors, one at each place."""

from collections.abc import Sequence
from math import prod

from torch import Tensor, nn

from pyro_vae.nets.convolution import ConvDecoder, check_image, sizes_of
from pyro_vae.nets.layers import Activation, activation_named, check_width, initialise
from pyro_vae.options import Count, checked


def grid_of(image: Sequence[int], halvings: int = 2) -> tuple[int, int]:
    """Return the height and width of an image halved so often, each rounded up."""
    return sizes_of(image, halvings)[-1]


class GridEncoder(nn.Module):
    """An image to a vector at each place of a grid: ``(..., pixels) -> (..., places * size)``.

    Places are in rows, each place's vector in one piece. A vector sees the part of the image around
    its place.

    Args:
        image: ``(channels, height, width)`` of the flat image.
        size: of each vector.
        channels: channels after each halving.
        activation: a name in ``ACTIVATIONS``.

    >>> GridEncoder((1, 28, 28), 8).outputs  # 7 * 7 places
    392
    """

    @checked()
    def __init__(
        self,
        image: Sequence[int],
        size: Count,
        channels: Sequence[Count] = (32, 64),
        *,
        activation: Activation = "relu",
    ) -> None:
        super().__init__()
        check_image(image, channels)
        self.image, self.inputs = tuple(image), prod(image)
        self.outputs = prod(grid_of(image, len(channels))) * size
        layers: list[nn.Module] = []
        for width, next_width in zip([image[0], *channels], channels, strict=False):
            layers += [nn.Conv2d(width, next_width, 3, stride=2, padding=1), activation_named(activation)]
        layers += [nn.Conv2d(channels[-1], channels[-1], 3, padding=1), activation_named(activation)]
        self.convolutions = nn.Sequential(*layers)
        initialise(self.convolutions, activation)
        self.last = nn.Conv2d(channels[-1], size, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(..., places * size)``."""
        check_width(self, x, self.inputs)
        maps = self.last(self.convolutions(x.reshape(-1, *self.image)))  # (data, size, height, width)
        return maps.movedim(-3, -1).reshape(*x.shape[:-1], self.outputs)


class _Maps(nn.Module):
    """Vectors side by side to maps, ``(..., places * size) -> (data, size, height, width)``."""

    def __init__(self, grid: tuple[int, int], size: int) -> None:
        super().__init__()
        self.grid, self.size = grid, size

    def forward(self, z: Tensor) -> Tensor:
        """Return the maps."""
        return z.reshape(-1, *self.grid, self.size).movedim(-1, -3)


class GridDecoder(ConvDecoder):
    """The mirror of `GridEncoder`, ``(..., places * size) -> (..., outputs)``: a `ConvDecoder` that
    begins at the grid.

    Args:
        size: of each place's vector.
        image: ``(channels, height, width)`` of the image.
        outputs: as for `ConvDecoder`.
        channels: channels before each doubling.
        activation: a name in ``ACTIVATIONS``.

    >>> GridDecoder(8, (1, 28, 28)).inputs
    392
    """

    @checked()
    def __init__(
        self,
        size: Count,
        image: Sequence[int],
        outputs: int | None = None,
        channels: Sequence[Count] = (64, 32),
        *,
        activation: Activation = "relu",
    ) -> None:
        check_image(image, channels)
        grid = grid_of(image, len(channels))
        super().__init__(prod(grid) * size, image, outputs, channels, hidden=1, activation=activation)
        self.dense = nn.Sequential(_Maps(grid, size), nn.Conv2d(size, channels[0], 3, padding=1))
        initialise(self.dense, activation)
