"""Noise in levels: s -> z1 -> ... -> zT, each level a little noisier, by no parameter at all.

    q(zl | s) = N(alpha_l s, sigma_l^2),  alpha_l^2 = sigmoid(r_l),  sigma_l^2 = sigmoid(-r_l)

with r_l the logarithm of the signal-to-noise ratio, falling from level to level; s is the data in
units of order 1. Then q(zl+1 | zl) = N(keep zl, added) and q(zl | zl+1, s) are Gaussians too.
*Denoising Diffusion Probabilistic Models (Ho, Jain & Abbeel, 2020)*, arXiv 2006.11239, eq. 2 to 7;
*Variational Diffusion Models (Kingma et al., 2021)*, arXiv 2107.00630, appendix A.
"""

import math

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

__all__ = ["Noise", "Noising", "cosine_snr", "even_snr", "linear_snr", "logistic_snr"]

Level = int | Tensor  # 1 to T; one for all, or long (...)


def linear_snr(levels: int) -> Tensor:
    """Return log SNR ``(levels,)`` of DDPM's linear betas, .1/T to 20/T (at most .999)."""
    betas = torch.linspace(0.1 / levels, min(20 / levels, 0.999), levels, dtype=torch.float64)
    return _of_betas(betas)


def cosine_snr(levels: int, offset: float = 0.008, largest: float = 0.999) -> Tensor:
    """Return log SNR ``(levels,)`` of the cosine schedule, betas at most ``largest``.

    *Improved Denoising Diffusion Probabilistic Models (Nichol & Dhariwal, 2021)*, arXiv 2102.09672.
    """
    time = torch.arange(levels + 1, dtype=torch.float64) / levels
    left = torch.cos((time + offset) / (1 + offset) * math.pi / 2).square()
    return _of_betas((1 - left[1:] / left[:-1]).clamp(max=largest))


def even_snr(levels: int, first: float, last: float) -> Tensor:
    """Return log SNR ``(levels,)`` in equal steps from ``first`` down to ``last``: VDM's, fixed."""
    return torch.linspace(first, last, levels, dtype=torch.float64)


def logistic_snr(levels: int, first: float, last: float, centre: float = 0.0, scale: float = 1.2) -> Tensor:
    """Return log SNR ``(levels,)`` from ``first`` down to ``last``, densest at ``centre``: the
    quantiles of a logistic distribution, evenly.

    Levels, and training with them, go where binary images cost their nats. *Variational Diffusion
    Models*, arXiv 2107.00630, appendix I.2, for noise that lessens the variance of the estimate.
    """
    ends = torch.sigmoid((torch.tensor([first, last], dtype=torch.float64) - centre) / scale)
    between = torch.linspace(float(ends[0]), float(ends[1]), levels, dtype=torch.float64)[1:-1]
    inner = centre + scale * torch.logit(between)
    outer = torch.tensor([first, last], dtype=torch.float64)[:levels]
    return torch.cat([outer[:1], inner, outer[1:]])


def _of_betas(betas: Tensor) -> Tensor:
    log_left = torch.log1p(-betas).cumsum(0)  # log alpha^2
    return log_left - torch.log(-torch.expm1(log_left))


class Noise(nn.Module):
    """The numbers of a chain of levels, l = 1 ... T; nothing in it is learned.

    Args:
        log_snr: of each level, ``(levels,)``, strictly falling.

    Raises:
        ValueError: it does not fall, or there is no level.
    """

    log_snr: Tensor
    alpha: Tensor
    sigma: Tensor
    keep: Tensor
    added: Tensor
    from_s: Tensor
    from_z: Tensor
    lowest: Tensor

    def __init__(self, log_snr: Tensor) -> None:
        super().__init__()
        if log_snr.dim() != 1 or not len(log_snr) or not bool((log_snr.diff() < 0).all()):
            raise ValueError(
                f"the log signal-to-noise ratio falls from level to level, and {log_snr.tolist()[:4]} ... does not: "
                "give one number per level, each below the one before"
            )
        r = log_snr.double()
        log_left, log_noise = logsigmoid(r), logsigmoid(-r)
        left_below = torch.cat([r.new_zeros(1), log_left[:-1]])
        noise_below = torch.cat([r.new_full((1,), -math.inf), log_noise[:-1]])
        kept = log_left - left_below
        beta = -torch.expm1(kept)
        tables = {
            "log_snr": r,
            "alpha": (log_left / 2).exp(),
            "sigma": (log_noise / 2).exp(),
            "keep": (kept / 2).exp(),
            "added": beta.sqrt(),
            "from_s": (left_below / 2 - log_noise).exp() * beta,  # q(zl-1 | zl, s): what s and zl weigh,
            "from_z": (kept / 2 + noise_below - log_noise).exp(),
            "lowest": (noise_below - log_noise).exp() * beta,  # and its variance
        }
        for name, table in tables.items():
            self.register_buffer(name, table.to(torch.get_default_dtype()))

    def __len__(self) -> int:
        return len(self.log_snr)

    def of(self, name: str, level: Level) -> Tensor:
        """Return a number of levels: 0-dim for one, ``(..., 1)`` for a tensor of them."""
        table: Tensor = getattr(self, name)
        return table[level - 1] if isinstance(level, int) else table[level - 1].unsqueeze(-1)

    def time(self, level: Level) -> Tensor:
        """Return where levels stand between the first and the last, 0 to 1, by log SNR."""
        first, last = self.log_snr[0], self.log_snr[-1]
        return (first - self.of("log_snr", level)) / (first - last).clamp(min=1e-6)

    def jump(self, s: Tensor, level: Level) -> TorchDistribution:
        """Return q(zl | s), in one step from the data."""
        return _normal(self.of("alpha", level) * s, self.of("sigma", level))

    def back(self, z: Tensor, s: Tensor, level: Level) -> TorchDistribution:
        """Return q(zl-1 | zl, s), for levels above the first."""
        return _normal(self.of("from_s", level) * s + self.of("from_z", level) * z, self.of("lowest", level).sqrt())


class Noising(nn.Module):
    """q(zl | zl-1): a little noise more. For the first level it is q(z1 | s).

    Args:
        noise: of the chain.
        level: l.
    """

    def __init__(self, noise: Noise, level: int) -> None:
        super().__init__()
        self.noise, self.level = noise, level

    def forward(self, below: Tensor) -> TorchDistribution:
        """Return the distribution over ``(..., features)`` given the level below."""
        return _normal(self.noise.of("keep", self.level) * below, self.noise.of("added", self.level))


def _normal(loc: Tensor, scale: Tensor) -> TorchDistribution:
    return dist.Normal(loc, scale).to_event(1)
