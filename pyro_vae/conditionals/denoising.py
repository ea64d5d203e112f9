"""Noise undone: what s was, given zl, and from it p(zl-1 | zl) and p(x | z1).

A denoiser says the mean and the variance of s given zl, and begins where they are exact for
independent features of the data's mean and spread: the net adds what features know of each other.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple, cast

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from pyro_vae.conditionals.noise import Level, Noise
from pyro_vae.conditionals.scales import to_scale
from pyro_vae.distributions import CategoricalLevels, Rescaled
from pyro_vae.options import checked

__all__ = [
    "AtLevel",
    "BinaryDecoder",
    "BinaryDenoiser",
    "GaussianDecoder",
    "GaussianDenoiser",
    "LevelsDecoder",
    "Moments",
    "Reverse",
]

Spread = Literal["matched", "forward", "posterior"]


class Moments(NamedTuple):
    """Mean and variance of each feature of s, ``(..., features)``."""

    mean: Tensor
    variance: Tensor


class BinaryDenoiser(nn.Module):
    """s = -1 or 1: E[s | z] = tanh(alpha z / sigma^2 + base + net(z)).

    Args:
        net: ``(..., features), time -> (..., features)``.
        noise: of the chain.
        base: half the data's log-odds, ``(features,)``: exact for independent features at net 0.
    """

    base: Tensor

    def __init__(self, net: nn.Module, noise: Noise, base: Tensor) -> None:
        super().__init__()
        self.net, self.noise = net, noise
        self.register_buffer("base", base.detach().clone())

    def forward(self, z: Tensor, level: Level) -> Moments:
        """Return the moments of s given ``z``, ``(..., features)``, of a level."""
        skip = self.noise.of("alpha", level) / self.noise.of("sigma", level).square() * z
        mean = torch.tanh(skip + self.base + self.net(z, self.noise.time(level)))
        return Moments(mean, 1 - mean.square())


class GaussianDenoiser(nn.Module):
    """Real s: the posterior under N(mean, std^2), moved and stretched by the net.

    Args:
        net: ``(..., features), time -> (..., features)``, which moves the mean, in units of the
            posterior's deviation; or twice as many numbers, the others its log deviation.
        noise: of the chain.
        mean: of s, ``(features,)``.
        std: of s, ``(features,)``, positive.
    """

    mean: Tensor
    variance: Tensor

    def __init__(self, net: nn.Module, noise: Noise, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.net, self.noise = net, noise
        self.register_buffer("mean", mean.detach().clone())
        self.register_buffer("variance", std.detach().square())

    def forward(self, z: Tensor, level: Level) -> Moments:
        """Return the moments of s given ``z``, ``(..., features)``, of a level."""
        mean, variance = posterior(self.noise, self.mean, self.variance, z, level)
        moved, *stretched = self.net(z, self.noise.time(level)).unflatten(-1, (-1, z.shape[-1])).unbind(-2)
        mean = mean + variance.sqrt() * moved
        return Moments(mean, variance * to_scale(stretched[0]).square() if stretched else variance.expand_as(mean))


def posterior(noise: Noise, mean: Tensor, variance: Tensor, z: Tensor, level: Level) -> Moments:
    """Return the moments of s ~ N(mean, variance) given ``z`` of a level."""
    alpha, noisy = noise.of("alpha", level), noise.of("sigma", level).square()
    total = alpha.square() * variance + noisy
    return Moments((mean * noisy + alpha * variance * z) / total, variance * noisy / total)


class Reverse(nn.Module):
    """p(zl-1 | zl): q(zl-1 | zl, s) at the denoiser's mean of s, for any level above the first.

    Args:
        denoiser: ``z, level -> Moments``.
        noise: of the chain.
        spread: its variance: "matched", q's plus what s varies by, which is exact for independent
            Gaussian features; "forward", what the forward step adds (DDPM's beta); "posterior",
            q's alone (VDM's, and DDPM's beta tilde).
    """

    @checked()
    def __init__(self, denoiser: Callable[..., Moments], noise: nn.Module, spread: Spread = "matched") -> None:
        super().__init__()
        self.denoiser, self.noise, self.spread = denoiser, cast(Noise, noise), spread

    def forward(self, z: Tensor, level: Level) -> TorchDistribution:
        """Return the distribution over ``(..., features)`` of the level below ``level``."""
        of = self.noise.of
        s = self.denoiser(z, level)
        mean = of("from_s", level) * s.mean + of("from_z", level) * z
        if self.spread == "forward":
            return dist.Normal(mean, of("added", level)).to_event(1)
        variance = of("lowest", level)
        if self.spread == "matched":
            variance = variance + of("from_s", level).square() * s.variance
        return dist.Normal(mean, variance.sqrt()).to_event(1)


class AtLevel(nn.Module):
    """A conditional of vector and level, at one level: ``z -> conditional(z, level)``.

    It does not hold the conditional's parameters, which all levels share: the program does.
    """

    def __init__(self, conditional: nn.Module, level: int) -> None:
        super().__init__()
        self.shared, self.level = (conditional,), level  # within a tuple: not a part of this module

    def forward(self, z: Tensor) -> TorchDistribution:
        """Return the distribution given ``z``."""
        return self.shared[0](z, self.level)


class BinaryDecoder(nn.Module):
    """p(x | z1) of x in {0, 1}: exact for independent features; what is left to say is little.

    Args:
        noise: of the chain.
        base: half the data's log-odds, ``(features,)``.
    """

    base: Tensor

    def __init__(self, noise: Noise, base: Tensor) -> None:
        super().__init__()
        self.noise = noise
        self.register_buffer("base", base.detach().clone())

    def forward(self, z: Tensor) -> TorchDistribution:
        """Return the distribution over ``(..., features)`` given z1."""
        skip = self.noise.of("alpha", 1) / self.noise.of("sigma", 1).square() * z
        return dist.Bernoulli(logits=2 * (skip + self.base)).to_event(1)


class LevelsDecoder(nn.Module):
    """p(x | z1) of x on ``levels`` equally spaced values of [0, 1], s = 2 x - 1: proportional to
    q(z1 | x).

    *Variational Diffusion Models*, arXiv 2107.00630, section 3.2.

    Args:
        noise: of the chain.
        levels: values that a feature takes.
    """

    values: Tensor

    def __init__(self, noise: Noise, levels: int) -> None:
        super().__init__()
        self.noise = noise
        self.register_buffer("values", torch.linspace(-1, 1, levels))

    def forward(self, z: Tensor) -> TorchDistribution:
        """Return the distribution over ``(..., features)`` given z1."""
        distance = (z.unsqueeze(-1) - self.noise.of("alpha", 1) * self.values) / self.noise.of("sigma", 1)
        return CategoricalLevels(-distance.square() / 2, 1.0).to_event(1)


class GaussianDecoder(nn.Module):
    """p(x | z1) of real x = loc + unit s: the posterior under N(mean, std^2), or that mean with the
    forward step's variance.

    Args:
        noise: of the chain.
        mean: of s, ``(features,)``.
        std: of s, ``(features,)``.
        loc: of x, ``(features,)``.
        unit: of x, ``(features,)``.
        spread: "forward" for DDPM's variance, beta of the first level; else the posterior's.
    """

    mean: Tensor
    variance: Tensor
    loc: Tensor
    unit: Tensor

    @checked()
    def __init__(
        self, noise: nn.Module, mean: Tensor, std: Tensor, loc: Tensor, unit: Tensor, spread: Spread = "matched"
    ) -> None:
        super().__init__()
        self.noise, self.spread = cast(Noise, noise), spread
        for name, value in (("mean", mean), ("variance", std.square()), ("loc", loc), ("unit", unit)):
            self.register_buffer(name, value.detach().clone())

    def forward(self, z: Tensor) -> TorchDistribution:
        """Return the distribution over ``(..., features)`` given z1."""
        s = posterior(self.noise, self.mean, self.variance, z, 1)
        scale = self.noise.of("added", 1) if self.spread == "forward" else s.variance.sqrt()
        return Rescaled(dist.Normal(s.mean, scale).to_event(1), self.loc, self.unit)
