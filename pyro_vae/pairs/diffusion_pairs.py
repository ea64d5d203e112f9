"""Pairs of many levels that a fixed noise fills: diffusion."""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from pyro_vae.conditionals import (
    AtLevel,
    BinaryDecoder,
    BinaryDenoiser,
    GaussianDecoder,
    GaussianDenoiser,
    LevelsDecoder,
    Noise,
    Noising,
    Reverse,
    StandardNormal,
    cosine_snr,
    even_snr,
    linear_snr,
)
from pyro_vae.data import Spec
from pyro_vae.guides.diffusion import NoisingGuide
from pyro_vae.models.diffusion import DiffusionModel
from pyro_vae.nets import Standardize, TimedMLP
from pyro_vae.options import Count
from pyro_vae.pairs import factory as parts
from pyro_vae.pairs.registry import pair
from pyro_vae.pairs.units import Units
from pyro_vae.program import Pair, PairError

LAST = -9.0  # log SNR of the last level: .05 nats of q(zT | x) against p(zT) in 784 binary pixels
EDGE = 1e-3  # how near to 0 or 1 a pixel's frequency is taken to be


@pair
def diffusion(
    spec: Spec,
    *,
    steps: Count = 100,
    noise: Literal["even", "linear", "cosine"] = "even",
    first: float | None = None,
    last: float | None = None,
    spread: Literal["matched", "forward", "posterior"] = "matched",
    width: Count = 512,
    blocks: Count = 2,
    objective: parts.Objective = "one-level",
    particles: Count = 1,
) -> Pair:
    """zT -> ... -> z1 -> x, small steps that one net undoes; q adds noise and learns nothing:
    diffusion.

    Args:
        steps: T, the number of levels; more of them come closer to log p(x) and take longer to draw.
        noise: how the log signal-to-noise ratio falls from level to level: in even steps, or as
            in DDPM's linear schedule and the cosine one.
        first: log SNR of z1 in even steps; 3 for binary data, 8 for real, and what tells neighbours
            apart for levels.
        last: log SNR of zT in even steps, -9 by default.
        spread: variance of p(zl-1 | zl): matched to what the net does not know, the forward step's
            (DDPM), or that of q(zl-1 | zl, x) (VDM).
        width: of the net's hidden layers.
        blocks: residual layers of the net.
        objective: what training maximises; one-level takes a level per datum, elbo all of them.
        particles: draws per datum that the objective takes: levels, for one-level.
    """
    chain = Noise(_log_snr(spec, steps, noise, first, last))
    loc, unit, mean, std = _in_units(spec)
    shape = {"width": width, "blocks": blocks}
    denoiser: nn.Module
    decoder: nn.Module
    if spec.support == "binary":
        base = torch.logit(spec.mean.clamp(EDGE, 1 - EDGE)) / 2
        denoiser = BinaryDenoiser(TimedMLP(spec.features, spec.features, **shape), chain, base)
        decoder = BinaryDecoder(chain, base)
    else:
        outputs = spec.features * (2 if spread == "matched" else 1)
        denoiser = GaussianDenoiser(TimedMLP(spec.features, outputs, **shape), chain, mean, std)
        decoder = (
            GaussianDecoder(chain, mean, std, loc, unit, spread)
            if spec.levels is None
            else LevelsDecoder(chain, spec.levels)
        )
    units = Standardize(loc, unit, floor=0.0)
    reverse = Reverse(denoiser, chain, spread)
    p_z = [AtLevel(reverse, level) for level in range(steps, 1, -1)]
    q_z = [Noising(chain, level) for level in range(1, steps + 1)]
    model = DiffusionModel(StandardNormal(spec.features), p_z, decoder, reverse)
    guide = NoisingGuide([nn.Sequential(units, q_z[0]), *q_z[1:]], chain, units)
    return Pair(model, guide, parts.objective(spec, objective, particles))


def _log_snr(spec: Spec, steps: int, noise: str, first: float | None, last: float | None) -> Tensor:
    """Return the log SNR of each level.

    Raises:
        PairError: an end is given to noise that has its own, or the ends do not fall.
    """
    for name, value in (("first", first), ("last", last)):
        if value is not None and noise != "even":
            raise PairError(
                f"{name} {value:g} is a log signal-to-noise ratio of even steps, and --noise is {noise}, which "
                f"has its own; leave --{name} out, or use --noise even",
                unused=name,
            )
    if noise != "even":
        return {"linear": linear_snr, "cosine": cosine_snr}[noise](steps)
    top, bottom = _first(spec) if first is None else first, LAST if last is None else last
    if not (math.isfinite(top) and math.isfinite(bottom) and bottom < top):
        raise PairError(
            f"the log signal-to-noise ratio falls from first to last, and they are {top:g} and {bottom:g}; "
            "give a first above the last, such as --first 3 --last -9"
        )
    return even_snr(steps, top, bottom)


def _first(spec: Spec) -> float:
    if spec.support == "binary":
        return 3.0
    return 8.0 if spec.levels is None else 2 * math.log(3 * (spec.levels - 1))  # a level is six deviations wide


def _in_units(spec: Spec) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return loc and unit of x = loc + unit s, and the mean and deviation of s in training data."""
    units = Units.of(spec)
    if units is not None:
        std = spec.std / units.scale
        return units.loc, units.scale, (spec.mean - units.loc) / units.scale, _above(std, 0.01 * float(std.max()))
    half = torch.full_like(spec.mean, 0.5)
    return half, half, 2 * spec.mean - 1, _above(2 * spec.std, 1 / ((spec.levels or 2) - 1))


def _above(std: Tensor, least: float) -> Tensor:
    return std.clamp(min=least if least > 0 else 1.0)
