"""Pairs whose log p(x) and p(z | x) are known, and ways of damaging a posterior: what every diagnostic is tried on.

``linear`` is linear-Gaussian with a posterior of correlation -0.8. ``neural`` is a small neural decoder of two latent dimensions, and
``exact_guide`` its posterior summed over a grid. ``state_space`` and ``hidden_markov`` are chains with their smoothers.
"""

import math
from typing import Any, ClassVar

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor, nn

import pyro_vae as pv
from pyro_vae.conditionals import (
    MLP,
    Bernoulli,
    Conditional,
    EachStep,
    LinearEmission,
    LinearMove,
    LinearSmoother,
    Normal,
    PathPrior,
    StandardNormal,
    TableMove,
    TableSmoother,
    from_scale,
)
from pyro_vae.guides.latent import LatentGuide
from pyro_vae.guides.markov import MarkovGuide
from pyro_vae.models.latent import LatentModel
from pyro_vae.models.linear import LinearModel
from pyro_vae.models.markov import MarkovModel

DAMAGES = ("scale", "shift", "correlation", "collapse")
WIDTH = 6.0  # of the grid, on either side of 0: REFERENCES item 9


def rand(*shape: int, seed: int = 0) -> Tensor:
    """Return standard normal numbers, the same ones for the same seed."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def linear() -> LinearModel:
    """Three features, two of them nearly the same mixture of z."""
    with torch.random.fork_rng():
        model = LinearModel(2, 3).double()
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 0.9], [0.9, 1.0], [0.2, -0.2]]))
        model.log_scale.fill_(math.log(0.7))
    return model


def data(model: LinearModel, count: int) -> dict[str, Tensor]:
    """Draw data from the model."""
    return {"x": model.marginal().sample((count,)).detach()}


def damaged(model: LinearModel, how: str) -> pv.Pair:
    """The model with its exact posterior, damaged in one way; "none" leaves it exact."""

    def guide(x):
        with pyro.plate("data", len(x)):
            exact = model.posterior(x)
            loc, tril = exact.loc.detach(), exact.scale_tril.detach()
            std = exact.variance.sqrt().detach()
            if how.startswith("scale"):
                tril = float(how.partition(" ")[2] or 0.7) * tril
            if how == "shift":
                loc = loc + 0.4 * std
            if how == "correlation":  # the same spread in every dimension
                tril = torch.diag_embed(std)
            if how == "collapse":  # the second dimension is its prior
                loc = loc * torch.tensor([1.0, 0.0]).double()
                tril = torch.diag_embed(torch.stack([std[..., 0], torch.ones_like(std[..., 0])], -1))
            pyro.sample("z", dist.MultivariateNormal(loc, scale_tril=tril))

    return pv.Pair(model, guide)


def neural(features: int = 8) -> pv.Pair:
    """A neural decoder with an encoder that is wider than the posterior."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        decoder = Conditional(MLP(2, features, (16,), "tanh"), Bernoulli(features)).double()
        head = Normal(2)
        encoder = Conditional(MLP(features, head.size, (16,), "tanh"), head).double()
        for parameter in decoder.parameters():
            parameter.data *= 1.5
        encoder.net.last.weight.data *= 0.2  # a guide wider than the posterior: weights of finite variance
        encoder.net.last.bias.data[2:] += 0.6
    return pv.Pair(LatentModel(StandardNormal(2).double(), decoder), LatentGuide(encoder))


def on_grid(pair: pv.Pair, x: Tensor, points: int = 200) -> tuple[Tensor, Tensor, float]:
    """Return the grid's points ``(points^2, 2)``, log p(x, z) at them ``(points^2, data)`` and the width of a cell."""
    line = torch.linspace(-WIDTH, WIDTH, points, dtype=torch.float64)
    z = torch.cartesian_prod(line, line)
    log_prior = dist.Normal(0.0, 1.0).expand([2]).to_event(1).log_prob(z)
    with torch.no_grad():
        logits = pair.model.decoder(z).base_dist.logits
    log_x = logits @ x.T - torch.nn.functional.softplus(logits).sum(-1, keepdim=True)
    return z, log_prior[:, None] + log_x, (line[1] - line[0]).item()


def grid_evidence(pair: pv.Pair, x: Tensor) -> Tensor:
    """log p(x) = logsumexp over the grid + log cell area: ``(data,)``."""
    _, log_joint, width = on_grid(pair, x)
    return log_joint.logsumexp(0) + 2 * math.log(width)


def exact_guide(pair: pv.Pair, scale: float = 1.0) -> pv.Pair:
    """The pair's model with its posterior on the grid as guide; with a scale, narrowed around its mean."""

    def guide(x):
        z, log_joint, width = on_grid(pair, x, 100)
        with pyro.plate("data", len(x)):
            pyro.sample("z", OnGrid(z, (log_joint - log_joint.logsumexp(0)).T, width, scale))

    return pv.Pair(pair.model, guide)


class OnGrid(TorchDistribution):
    """Constant within the cells of a square grid of two dimensions, and scaled around its mean.

    Args:
        points: centres of the cells, ``(cells, 2)``.
        log_mass: of each, ``(data, cells)``.
        width: of a cell.
        scale: factor on the distance from the mean.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = constraints.real_vector

    def __init__(self, points: Tensor, log_mass: Tensor, width: float, scale: float, batch_shape: Any = None) -> None:
        self.points, self.log_mass, self.width, self.scale = points, log_mass, width, scale
        self.centre = log_mass.exp() @ points  # (data, 2)
        super().__init__(torch.Size(batch_shape or log_mass.shape[:1]), points.shape[-1:], validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "OnGrid":
        """Add dimensions of independent draws on the left."""
        return OnGrid(self.points, self.log_mass, self.width, self.scale, batch_shape)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draw a cell, and a point in it."""
        shape = torch.Size(sample_shape) + self.batch_shape
        cell = self.log_mass.exp().multinomial(shape[:-1].numel(), replacement=True).T.reshape(shape)
        z = self.points[cell]
        z = z + (torch.rand_like(z) - 0.5) * self.width
        return self.centre + self.scale * (z - self.centre)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density, -inf beyond the grid."""
        z = self.centre + (value - self.centre) / self.scale
        side = math.isqrt(len(self.points))
        index = ((z + WIDTH) / self.width).round().long()
        inside = ((index >= 0) & (index < side)).all(-1)
        cell = (index[..., 0] * side + index[..., 1]).clamp(0, side**2 - 1)
        mass = self.log_mass.expand(*cell.shape, -1).gather(-1, cell[..., None])[..., 0]
        return torch.where(inside, mass - 2 * math.log(self.width * self.scale), -math.inf)


A, Q, R, T = 0.9, 0.25, 0.49, 20
KALMAN = -24.192472256490, -6.168853353786  # of sin t, t = 1 .. 20 and 1 .. 5


def state_space() -> pv.Pair:
    """z_1 ~ N(0, 1), z_t = .9 z_(t-1) + N(0, .5^2), x_t = z_t + N(0, .7^2)."""
    move, emission = LinearMove(1).double(), LinearEmission(1, torch.zeros(1).double(), torch.ones(1).double()).double()
    with torch.no_grad():
        emission.weight.fill_(1.0)
        emission.raw_scale.copy_(from_scale(torch.tensor([R**0.5], dtype=torch.float64)))
        move.raw_scale.copy_(from_scale(torch.tensor([Q**0.5], dtype=torch.float64)))
        move.matrix.fill_(A)
    model = MarkovModel(1, PathPrior(move), EachStep(emission, 1)).double()
    return pv.Pair(model, MarkovGuide(1, LinearSmoother(move, emission)))


def sines(copies: int = 1, steps: int = T) -> dict[str, Tensor]:
    """Return sin t with 20 steps, and with 5 and something else behind them."""
    x = torch.sin(torch.arange(1.0, steps + 1).double()).repeat(2, 1)
    mask = torch.arange(steps) < torch.tensor([[T], [5]])
    x[1, 5:] = 7.0
    return {"x": x.repeat_interleave(copies, 0), "mask": mask.repeat_interleave(copies, 0)}


SEEN = torch.tensor([[0.1, 0.4, 0.5], [0.6, 0.3, 0.1]], dtype=torch.float64)


class Seen(nn.Module):
    """p(x_t | z_t) of walking, shopping, cleaning."""

    def forward(self, z: Tensor) -> dist.OneHotCategorical:
        return dist.OneHotCategorical(probs=z @ SEEN.to(z))


def hidden_markov() -> pv.Pair:
    move = TableMove(2).double()
    with torch.no_grad():
        move.first_logits.copy_(torch.tensor([0.6, 0.4], dtype=torch.float64).log())
        move.logits.copy_(torch.tensor([[0.7, 0.3], [0.4, 0.6]], dtype=torch.float64).log())
    model = MarkovModel(3, PathPrior(move), EachStep(Seen(), 2)).double()
    return pv.Pair(model, MarkovGuide(3, TableSmoother(move, model.emission.one)))
