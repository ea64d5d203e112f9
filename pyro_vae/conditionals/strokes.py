"""A head for strokes of a pen: (dx, dy, pen up)."""

import math
from collections.abc import Sequence

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from pyro_vae import distributions
from pyro_vae.conditionals.head import EDGE, Head
from pyro_vae.conditionals.scales import bounded, from_scale, to_scale
from pyro_vae.options import Count, checked

__all__ = ["Strokes"]

FINEST = 0.05  # of a move's unit, the smallest scale: many moves are exactly 0, where a density has no bound otherwise
STEEPEST = 0.99  # correlation of dx and dy


class Strokes(Head):
    """A step of a pen: a mixture of Gaussians for the move, a Bernoulli for the pen. See
    `pyro_vae.distributions.Stroke`.

    Args:
        components: of the mixture.
        loc: what the move is measured from, ``(2,)``, in units of the data; 0 by default.
        unit: what a move of 1 is, ``(2,)``, positive; 1 by default. No scale is below a twentieth
            of it.
    """

    loc: Tensor
    unit: Tensor

    @checked()
    def __init__(self, components: Count = 10, loc: Tensor | None = None, unit: Tensor | None = None) -> None:
        super().__init__(3, 6 * components + 1)
        self.components = components
        self.register_buffer("loc", torch.zeros(2) if loc is None else loc.detach().clone())
        self.register_buffer("unit", torch.ones(2) if unit is None else unit.detach().clone())

    def forward(self, parameters: Tensor) -> TorchDistribution:
        """Return the distribution over ``(..., 3)`` for ``parameters``, ``(..., size)``."""
        self.check_size(parameters)
        kinds = parameters[..., :-1].unflatten(-1, (6, self.components))
        logits, *loc, raw_x, raw_y, tilt = kinds.unbind(-2)
        scale = FINEST + to_scale(torch.stack([raw_x, raw_y], -1))
        return distributions.Stroke(
            logits,
            self.loc + self.unit * torch.stack(loc, -1),
            self.unit * scale,
            STEEPEST * bounded(tilt, 1.0),
            parameters[..., -1],
        )

    def part(self, keep: Sequence[int]) -> Head:
        """Refuse: dx and dy depend on each other.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError("dx, dy and the pen are one step of a stroke")

    def start(self, mean: Tensor, std: Tensor | None = None) -> Tensor:
        """Return the parameters, ``(size,)``, of moves about the data's mean, their components
        around a circle, and the pen's mean; ``mean`` and ``std`` are those of (dx, dy, pen up).
        """
        spread = torch.ones(2) if std is None else std[:2].cpu() / self.unit.cpu()
        angle = torch.arange(self.components) * (2 * math.pi / self.components)
        ring = float(self.components > 1)  # its mean square, along each axis, is a half
        circle = ring * torch.stack([angle.cos(), angle.sin()]) * spread.unsqueeze(-1)
        centre = ((mean[:2].cpu() - self.loc.cpu()) / self.unit.cpu()).unsqueeze(-1) + circle
        scale = ((1 - ring / 2) ** 0.5 * spread - FINEST).clamp(min=FINEST)
        raw_scale = from_scale(scale).unsqueeze(-1).expand(2, self.components)
        zeros = torch.zeros(1, self.components)
        pen = torch.logit(mean[2:].cpu().clamp(EDGE, 1 - EDGE))
        kinds = torch.cat([zeros, centre, raw_scale, zeros]).flatten()
        return torch.cat([kinds, pen]).to(mean)

    def extra_repr(self) -> str:
        """Return what the printed head shows in parentheses."""
        return f"components={self.components}"
