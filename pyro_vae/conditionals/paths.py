"""Markov chains and their posteriors: sequences of states, and of what is seen of each.

    prior       mask -> p(z)            `PathPrior` of a `GatedMove`, `LinearMove` or `TableMove`
    emission    z, mask -> p(x | z)     `EachStep` of any conditional of one state
    encoder     x, mask -> q(z | x)     `PathEncoder`, learned; or exact:
                                        `pyro_vae.conditionals.smoothers`

All steps of a sequence lie side by side in one event; ``mask`` is bool ``(..., steps)``.
"""

from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from pyro_vae.conditionals.scales import from_scale, to_scale
from pyro_vae.distributions import Path, Recurrent, Steps
from pyro_vae.nets import MLP, scan
from pyro_vae.options import Count, checked

__all__ = [
    "EachStep",
    "GatedMove",
    "LinearEmission",
    "LinearMove",
    "PathEncoder",
    "PathPrior",
    "TableMove",
]


class _Gaussian(nn.Module):
    """What moves of real states share: a Normal p(z_1), learned, and the padding."""

    def __init__(self, latent: int) -> None:
        super().__init__()
        self.latent = latent
        self.first_loc, self.first_raw_scale = (nn.Parameter(torch.zeros(latent)) for _ in range(2))

    def idle(self) -> TorchDistribution:
        """Return what padded states are drawn from: N(0, I)."""
        return dist.Normal(torch.zeros_like(self.first_loc), 1.0).to_event(1)

    def first(self) -> TorchDistribution:
        """Return p(z_1), event shape ``(latent,)``."""
        return dist.Normal(self.first_loc, to_scale(self.first_raw_scale)).to_event(1)


class GatedMove(_Gaussian):
    """p(z_t | z_(t-1)) of a deep Markov model: a gate chooses, dimension by dimension, between a
    linear move and one by a net.

    It begins as a walk that forgets little: loc near z_(t-1), scale 1/2.

    Args:
        latent: size of z_t.
        hidden: width of the hidden layers.
    """

    @checked()
    def __init__(self, latent: Count, hidden: Count = 64) -> None:
        super().__init__(latent)
        self.gate, self.move = MLP(latent, latent, (hidden,)), MLP(latent, latent, (hidden,))
        self.linear, self.raw_scale = nn.Linear(latent, latent), MLP(latent, latent, (hidden,))
        with torch.no_grad():
            self.linear.weight.copy_(torch.eye(latent))
            self.linear.bias.zero_()

    def forward(self, previous: Tensor) -> TorchDistribution:
        """Return p(z_t | z_(t-1)) for ``previous``, ``(..., latent)``."""
        gate = torch.sigmoid(self.gate(previous) - 1.0)
        loc = (1 - gate) * self.linear(previous) + gate * self.move(previous)
        return dist.Normal(loc, to_scale(self.raw_scale(previous) - 0.7)).to_event(1)


class LinearMove(_Gaussian):
    """p(z_t | z_(t-1)) = Normal(A z_(t-1), diag(scale)^2), and p(z_1) a Normal of its own.

    It begins with A = .9 I.

    Args:
        latent: size of z_t.
    """

    @checked()
    def __init__(self, latent: Count) -> None:
        super().__init__(latent)
        self.matrix = nn.Parameter(0.9 * torch.eye(latent))
        self.raw_scale = nn.Parameter(from_scale(torch.full((latent,), 0.5)))

    @property
    def scale(self) -> Tensor:
        """Of the move, ``(latent,)``."""
        return to_scale(self.raw_scale)

    def forward(self, previous: Tensor) -> TorchDistribution:
        """Return p(z_t | z_(t-1)) for ``previous``, ``(..., latent)``."""
        return dist.Normal(previous @ self.matrix.T, self.scale).to_event(1)


class TableMove(nn.Module):
    """p(z_t | z_(t-1)) of a hidden Markov model: a row of a table; states are one-hot.

    It begins near equal probabilities, and not at them, which no training would leave.

    Args:
        latent: number of states.
    """

    @checked()
    def __init__(self, latent: Count) -> None:
        super().__init__()
        self.latent = latent
        self.logits = nn.Parameter(torch.eye(latent) + 0.5 * torch.randn(latent, latent))
        self.first_logits = nn.Parameter(torch.zeros(latent))

    def idle(self) -> TorchDistribution:
        """Return what padded states are drawn from: any state."""
        return dist.OneHotCategorical(logits=torch.zeros_like(self.first_logits))

    def first(self) -> TorchDistribution:
        """Return p(z_1), one-hot, event shape ``(latent,)``."""
        return dist.OneHotCategorical(logits=self.first_logits)

    @property
    def log_table(self) -> Tensor:
        """log p(z_t = column | z_(t-1) = row), ``(latent, latent)``."""
        return torch.log_softmax(self.logits, -1)

    def forward(self, previous: Tensor) -> TorchDistribution:
        """Return p(z_t | z_(t-1)) for ``previous``, one-hot ``(..., latent)``."""
        return dist.OneHotCategorical(logits=previous @ self.log_table)


class PathPrior(nn.Module):
    """p(z) of all steps: a path of a Markov chain.

    Args:
        transition: ``z_(t-1) -> p(z_t)``, with ``first()``, p(z_1), and ``idle()``, of padding.
    """

    def __init__(self, transition: nn.Module) -> None:
        super().__init__()
        self.transition = transition

    def forward(self, there: Tensor) -> TorchDistribution:
        """Return p(z) for steps that are ``there``, bool ``(..., steps)``."""
        part: Any = self.transition
        return Path(part.first(), lambda previous, where: part(previous), there, part.idle())


class EachStep(nn.Module):
    """p(x | z), each step from its own state.

    Args:
        one: ``z_t -> p(x_t | z_t)``, event shape ``(features,)``.
        latent: size of z_t.
    """

    @checked()
    def __init__(self, one: nn.Module, latent: Count) -> None:
        super().__init__()
        self.one, self.latent = one, latent

    def forward(self, z: Tensor, there: Tensor) -> TorchDistribution:
        """Return p(x | z) for ``z``, ``(..., steps * latent)``, and the steps that are ``there``."""
        return Steps(self.one(z.unflatten(-1, (-1, self.latent))), there)


class LinearEmission(nn.Module):
    """p(x_t | z_t) = Normal(C z_t + loc, diag(scale)^2).

    It begins at the data's mean and deviation.

    Args:
        latent: size of z_t.
        mean: of x_t, ``(features,)``.
        std: of x_t, ``(features,)``, positive.
    """

    @checked()
    def __init__(self, latent: Count, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.register_buffer("unit", std.detach().clone())
        self.weight = nn.Parameter(torch.randn(len(mean), latent) / latent**0.5)
        self.loc = nn.Parameter(torch.zeros_like(mean))
        self.raw_scale = nn.Parameter(torch.full_like(mean, -0.7))
        self.register_buffer("zero", mean.detach().clone())

    unit: Tensor
    zero: Tensor

    def in_data_units(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return C ``(features, latent)``, loc and scale ``(features,)``."""
        return (
            self.unit[:, None] * self.weight,
            self.zero + self.unit * self.loc,
            self.unit * to_scale(self.raw_scale),
        )

    def forward(self, z: Tensor) -> TorchDistribution:
        """Return p(x_t | z_t) for ``z``, ``(..., latent)``."""
        weight, loc, scale = self.in_data_units()
        return dist.Normal(z @ weight.T + loc, scale).to_event(1)


class PathEncoder(nn.Module):
    """q(z | x) of real states, learned: z_t = gate_t z_(t-1) + loc_t + scale_t noise, all three by a
    net over the steps. ``gated=False`` gives a mean field: every gate is 0.

    Args:
        net: ``x, mask -> (..., steps, outputs)`` of 3 numbers for each dimension of z_t, or 2 for
            a mean field: `pyro_vae.nets.RecurrentNet`, of both directions for a smoother, or of one
            for a filter.
        latent: size of z_t.
        read: what x_t goes through first, such as units of its own.
    """

    @checked()
    def __init__(self, net: nn.Module, latent: Count, read: nn.Module | None = None) -> None:
        super().__init__()
        self.net, self.latent, self.read = net, latent, read or nn.Identity()

    def forward(self, x: Tensor, there: Tensor) -> TorchDistribution:
        """Return q(z | x) for ``x``, ``(..., steps, features)``, and the steps ``there``."""
        loc, raw_scale, *raw_gate = self.net(self.read(x), there).split(self.latent, -1)
        gate = torch.sigmoid(raw_gate[0]) if raw_gate else torch.zeros_like(loc)
        return Recurrent(gate, loc, to_scale(raw_scale - 0.7), there, scan)
