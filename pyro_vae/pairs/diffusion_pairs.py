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
    logistic_snr,
)
from pyro_vae.data import Spec
from pyro_vae.guides.diffusion import NoisingGuide
from pyro_vae.models.diffusion import DiffusionModel
from pyro_vae.nets import Standardize, TimedConv, TimedMLP
from pyro_vae.options import Count
from pyro_vae.pairs import factory as parts
from pyro_vae.pairs.nets import image_of
from pyro_vae.pairs.registry import pair
from pyro_vae.pairs.units import Units
from pyro_vae.program import Pair, PairError

LAST = -9.0  # log SNR of the last level: .05 nats of q(zT | x) against p(zT) in 784 binary pixels
OWN_ENDS = {"linear": linear_snr, "cosine": cosine_snr}
Noises = Literal["even", "logistic", "linear", "cosine"]
EDGE = 1e-3  # how near to 0 or 1 a pixel's frequency is taken to be


@pair
def diffusion(
    spec: Spec,
    *,
    steps: Count = 100,
    noise: Noises | None = None,
    first: float | None = None,
    last: float | None = None,
    spread: Literal["matched", "forward", "posterior"] = "matched",
    net: Literal["mlp", "conv"] = "mlp",
    width: Count | None = None,
    blocks: Count | None = None,
    channels: Count | None = None,
    objective: parts.Objective = "one-level",
    particles: Count = 1,
) -> Pair:
    """Diffusion, zT -> ... -> z1 -> x: q adds noise in small steps, which one net learns to undo.

    Args:
        steps: T, the number of levels; more of them come closer to log p(x) and take longer to draw.
        noise: how the log signal-to-noise ratio falls from level to level: logistic, in steps that
            are smallest around 0, for binary data; even for others; or as in DDPM's linear
            schedule and the cosine one.
        first: log SNR of z1 in even or logistic steps; 3 for binary data, 8 for real, and what tells
            neighbours apart for levels.
        last: log SNR of zT in even or logistic steps, -9 by default.
        spread: variance of p(zl-1 | zl): matched to what the net does not know, the forward step's
            (DDPM), or that of q(zl-1 | zl, x) (VDM).
        net: a residual perceptron, or for images convolutions around one.
        width: of the perceptron's hidden layers, 512, or 256 between convolutions.
        blocks: residual blocks of the perceptron, 2, or 1 between convolutions.
        channels: of the first convolution, 16.
        objective: what training maximises; one-level takes a level per datum, elbo all of them.
        particles: draws per datum that the objective takes: levels, for one-level.
    """
    chain = Noise(_log_snr(spec, steps, noise, first, last))
    loc, unit, mean, std = _in_units(spec)
    outputs = 2 if spread == "matched" and spec.support != "binary" else 1
    inner = _net(spec, outputs, net, width, blocks, channels)
    denoiser: nn.Module
    decoder: nn.Module
    if spec.support == "binary":
        base = torch.logit(spec.mean.clamp(EDGE, 1 - EDGE)) / 2
        denoiser = BinaryDenoiser(inner, chain, base)
        decoder = BinaryDecoder(chain, base)
    else:
        denoiser = GaussianDenoiser(inner, chain, mean, std)
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


def _net(
    spec: Spec, outputs: int, net: str, width: int | None, blocks: int | None, channels: int | None
) -> TimedMLP | TimedConv:
    """Return the net, of ``outputs`` numbers per feature.

    Raises:
        PairError: the data are no images, or channels are given to a net that has none.
    """
    if net == "conv":
        return TimedConv(image_of(spec), outputs, channels or 16, width or 256, blocks or 1)
    if channels is not None:
        raise PairError(
            f"channels {channels} are those of convolutions, and --net is mlp; leave --channels out, or use --net conv",
            unused="channels",
        )
    return TimedMLP(spec.features, outputs * spec.features, width or 512, blocks or 2)


def _log_snr(spec: Spec, steps: int, noise: str | None, first: float | None, last: float | None) -> Tensor:
    """Return the log SNR of each level.

    Raises:
        PairError: an end is given to noise that has its own, or the ends do not fall.
    """
    noise = noise or ("logistic" if spec.support == "binary" else "even")
    if noise in OWN_ENDS:
        for name, value in (("first", first), ("last", last)):
            if value is not None:
                raise PairError(
                    f"{name} {value} is a log signal-to-noise ratio of even or logistic steps, and --noise is "
                    f"{noise}, which has its own; leave --{name} out, or use --noise even",
                    unused=name,
                )
        return OWN_ENDS[noise](steps)
    top, bottom = _first(spec) if first is None else first, LAST if last is None else last
    if not (math.isfinite(top) and math.isfinite(bottom) and bottom < top):
        raise PairError(
            f"the log signal-to-noise ratio falls from first to last, and they are {top:g} and {bottom:g}; "
            "give a first above the last, such as --first 3 --last -9"
        )
    return {"even": even_snr, "logistic": logistic_snr}[noise](steps, top, bottom)


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
