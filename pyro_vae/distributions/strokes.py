"""A step of a pen: where it moves, and whether it leaves the paper."""

import math
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor

__all__ = ["Stroke"]


class Stroke(TorchDistribution):
    """(dx, dy, pen up): a mixture of Gaussians for the move and, independent of it, a Bernoulli for
    the pen, as in *A Neural Representation of Sketch Drawings (Ha & Eck, 2017)*, arXiv 1704.03477.

    A move's log-probability is that of a density and may be positive; the pen's is of a
    probability.

    Args:
        logits: of the components, ``(..., components)``.
        loc: of their moves, ``(..., components, 2)``.
        scale: of their moves, ``(..., components, 2)``, positive.
        correlation: of dx and dy in each, ``(..., components)``, within -1 and 1.
        pen: logit of the pen's leaving the paper after the move, ``(...)``.
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012 (torch's own attribute)
    support = constraints.independent(constraints.cat([constraints.real, constraints.boolean], -1, [2, 1]), 1)
    has_rsample = False

    def __init__(self, logits: Tensor, loc: Tensor, scale: Tensor, correlation: Tensor, pen: Tensor) -> None:
        self.logits, self.loc, self.scale, self.correlation, self.pen = logits, loc, scale, correlation, pen
        super().__init__(pen.shape, torch.Size([3]), validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "Stroke":
        """Return the same distribution with a larger batch shape."""
        shape, components = torch.Size(batch_shape), self.logits.shape[-1:]
        return Stroke(
            self.logits.expand(shape + components),
            self.loc.expand((*shape, *components, 2)),
            self.scale.expand((*shape, *components, 2)),
            self.correlation.expand(shape + components),
            self.pen.expand(shape),
        )

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log density of the move and of the pen's state together, in nats."""
        x, y = ((value[..., None, :2] - self.loc) / self.scale).unbind(-1)
        free = 1 - self.correlation.square()
        square = (x.square() + y.square() - 2 * self.correlation * x * y) / free
        each = -0.5 * (square + free.log()) - self.scale.log().sum(-1) - math.log(2 * math.pi)
        move = (torch.log_softmax(self.logits, -1) + each).logsumexp(-1)
        return move + dist.Bernoulli(logits=self.pen).log_prob(value[..., 2])

    @property
    def mean(self) -> Tensor:
        """The mean move, and the probability that the pen leaves the paper: ``(..., 3)``."""
        move = (torch.softmax(self.logits, -1).unsqueeze(-1) * self.loc).sum(-2)
        return torch.cat([move, torch.sigmoid(self.pen).unsqueeze(-1)], -1)

    @property
    def mode(self) -> Tensor:
        """The mean move of the component that is densest there, and the pen's likelier state, ``(...,
        3)``.
        """
        peak = torch.log_softmax(self.logits, -1) - self.scale.log().sum(-1)
        best = (peak - 0.5 * (1 - self.correlation.square()).log()).argmax(-1)[..., None, None]
        move = self.loc.gather(-2, best.expand(*self.batch_shape, 1, 2)).squeeze(-2)
        return torch.cat([move, (self.pen > 0).to(move).unsqueeze(-1)], -1)

    @property
    def variance(self) -> Tensor:
        """Of each of the three, ``(..., 3)``."""
        weight = torch.softmax(self.logits, -1).unsqueeze(-1)
        square = (weight * (self.scale.square() + self.loc.square())).sum(-2)
        up = torch.sigmoid(self.pen)
        return torch.cat([square - self.mean[..., :2].square(), (up * (1 - up)).unsqueeze(-1)], -1)

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008 (torch's own default)
        """Return draws, ``sample_shape + batch_shape + (3,)``."""
        with torch.no_grad():
            wide = self.expand(torch.Size([*sample_shape, *self.batch_shape]))
            chosen = dist.Categorical(logits=wide.logits).sample()[..., None, None].expand(*wide.batch_shape, 1, 2)
            loc, scale = (each.gather(-2, chosen).squeeze(-2) for each in (wide.loc, wide.scale))
            tilt = wide.correlation.gather(-1, chosen[..., 0]).squeeze(-1)
            first, other = torch.randn_like(loc).unbind(-1)
            noise = torch.stack([first, tilt * first + (1 - tilt.square()).sqrt() * other], -1)
            up = dist.Bernoulli(logits=wide.pen).sample()
            return torch.cat([loc + scale * noise, up.unsqueeze(-1)], -1)
