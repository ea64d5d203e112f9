"""Masked convolutions: what they say of a pixel depends on the pixels above it and to its left."""

from collections.abc import Iterator, Sequence
from math import prod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pyro_vae.nets.layers import Activation, activation_named, check_width
from pyro_vae.nets.masked import raster
from pyro_vae.options import Count, checked


class MaskedConv2d(nn.Conv2d):
    """A convolution that reads the pixels before each, of the raster order, and keeps the size.

    Args:
        sources: the image channel that each input belongs to, long ``(inputs,)``.
        targets: likewise of the outputs.
        radius: of the kernel, in pixels.
        std: of the first weights, as of `MaskedLinear`.
        strict: an output reads, at its own pixel, the image channels before its own; otherwise its
            own too.
        bias: whether there is one; 0 at first.
    """

    mask: Tensor

    def __init__(
        self, sources: Tensor, targets: Tensor, radius: int, std: float, *, strict: bool, bias: bool = True
    ) -> None:
        super().__init__(len(sources), len(targets), 2 * radius + 1, padding=radius, bias=bias)
        mask = torch.zeros_like(self.weight)
        mask[:, :, :radius] = 1
        mask[:, :, radius, :radius] = 1
        after, before = targets.unsqueeze(-1), sources
        mask[:, :, radius, radius] = ((before < after) if strict else (before <= after)).to(mask)
        self.register_buffer("mask", mask)
        with torch.no_grad():
            reads = mask.sum((1, 2, 3), keepdim=True).clamp(min=1)
            self.weight.normal_().mul_(mask * std * reads**-0.5)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, maps: Tensor) -> Tensor:
        """Return maps ``(data, outputs, height, width)``."""
        return F.conv2d(maps, self.weight * self.mask, self.bias, padding=self.padding)


class PixelCNN(nn.Module):
    """A convolutional net that says of every pixel what follows from those before it, in one pass.

    ``(..., channels * height * width) -> (..., kinds * channels * height * width)``, laid out as
    heads read it, without a bias. Pixel Recurrent Neural Networks (van den Oord, Kalchbrenner &
    Kavukcuoglu, 2016), arXiv 1601.06759, section 3.4: one layer that skips the pixel itself, then
    residual layers that read it. The channels of a pixel are drawn one after the other, and hidden
    channels belong to one of them each. As there, pixels far to the right in the rows just above
    are not seen.

    Args:
        image: ``(channels, height, width)``.
        kinds: numbers per feature that the head needs.
        hidden: channels of the layers, one at least.
        activation: a name in ``ACTIVATIONS``.
        field: how many pixels far a pixel sees, over all layers together; by default the first layer
            sees 3 pixels far and the others 1.

    Raises:
        ValueError: there is no layer, or one has fewer channels than the image.
    """

    order: Tensor

    @checked()
    def __init__(
        self,
        image: Sequence[int],
        kinds: Count = 1,
        hidden: Sequence[Count] = (32, 32, 32, 32, 32),
        activation: Activation = "relu",
        *,
        field: Count | None = None,
    ) -> None:
        super().__init__()
        if not hidden or min(hidden) < image[0]:
            raise ValueError(
                f"a PixelCNN needs at least one layer of at least {image[0]} channels, the image's, and got "
                f"{list(hidden)}: give such as [32, 32, 32]."
            )
        self.image, self.kinds = tuple(image), kinds
        self.inputs, self.outputs = prod(image), kinds * prod(image)
        self.register_buffer("order", raster(image))
        layers = len(hidden)
        radii = [3] + [1] * (layers - 1) if field is None else _radii(field, layers)
        self.reach = sum(radii)
        seen = min(image[1], self.reach + 1) * min(image[2], 2 * self.reach + 1)  # pixels of one step
        self.passes = image[0] * seen
        channels = torch.arange(image[0])
        groups = [channels, *(torch.arange(width) * image[0] // width for width in hidden)]
        self.activation = activation_named(activation)
        self.layers = nn.ModuleList(
            MaskedConv2d(groups[i], groups[i + 1], radii[i], 1.0, strict=i == 0) for i in range(layers)
        )
        self.last = MaskedConv2d(groups[-1], channels.repeat(kinds), 0, 0.1, strict=False, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(..., outputs)``: of each feature, what those before it say."""
        check_width(self, x, self.inputs)
        maps = self._maps(x.reshape(-1, *self.image))
        return maps.reshape(*x.shape[:-1], self.outputs)

    def _maps(self, image: Tensor) -> Tensor:
        h = self.layers[0](image)
        for layer in self.layers[1:]:
            said = layer(self.activation(h))
            h = h + said if said.shape == h.shape else said
        return self.last(self.activation(h))  # (data, kinds * channels, height, width)

    def steps(self, x: Tensor) -> Iterator[Tensor]:
        """Yield what is said of each feature, ``(..., kinds)``, in the order; the caller fills it in
        in ``x``, ``(..., features)``, before asking for the next.

        Every step is a pass over the pixels that the net can see from there.
        """
        channels, height, width = self.image
        for row in range(height):
            for column in range(width):
                top, left = max(0, row - self.reach), max(0, column - self.reach)
                for channel in range(channels):
                    seen = x.reshape(-1, *self.image)[:, :, top : row + 1, left : column + self.reach + 1]
                    maps = self._maps(seen)[:, :, -1, column - left].unflatten(1, (self.kinds, channels))
                    yield maps[..., channel].reshape(*x.shape[:-1], self.kinds)


def _radii(field: int, layers: int) -> list[int]:
    """Return how far each layer sees, ``field`` together: the first as far as 3, then one each, and
    again if more is left."""
    radii = [min(3, field)] + [0] * (layers - 1)
    for i in range(field - radii[0]):
        radii[(i + 1) % layers] += 1
    return radii
