"""Real numbers to standard deviations, and back.

Two choices, both 1 at 0, both bounded below by ``SMALLEST``, both finite with finite gradients for
every input:

- ``exp`` (the default): exp(b(r)) with b(r) = r near 0 and |b| < 10. An optimizer's step changes the scale
  by the same *ratio* whether the scale is .01 or 10, and the gradient of log scale is near 1
  wherever a scale is of use. The usual alternative, a clamp before exp, has gradient 0 beyond the
  clamp, so that a unit which gets there never returns; b only flattens, as 1/r^3, and always leads
  back.
- ``softplus``: SMALLEST + softplus(r + c). Grows linearly, so large scales are reached slowly; below a
  scale of about .01 its gradient fades exponentially (it is 0 in float32 for r < -100), which is
  why it is not the default.

A lower bound is needed: the likelihood of a Normal with a predicted scale is unbounded where the
data are constant.
"""

import math
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from pyro_vae.options import accept

__all__ = ["from_scale", "to_scale"]

BOUND = 10.0
SMALLEST = math.exp(-BOUND)  # 4.5e-5; its square is still far from float32's underflow
Transform = Literal["exp", "softplus"]
POSITIVE = get_args(Transform)
_SHIFT = math.log(math.expm1(1 - SMALLEST))  # softplus(_SHIFT) + SMALLEST = 1


def bounded(raw: Tensor, bound: float = BOUND) -> Tensor:
    """Return ``raw / sqrt(1 + (raw / bound)^2)``: near small ``raw``, and always within ``bound``."""
    # as sin(atan(.)): the quotient's own gradient is a difference of near-equal numbers for large |raw|
    return bound * torch.sin(torch.atan(raw / bound))


def to_scale(raw: Tensor, positive: Transform = "exp") -> Tensor:
    """Return standard deviations, of the shape of ``raw``; 1 where ``raw`` is 0.

    Raises:
        ValueError: there is no transform called ``positive``.
    """
    if positive == "exp":
        return torch.exp(bounded(raw))
    accept("positive", positive, Transform)
    return SMALLEST + F.softplus(raw + _SHIFT)


def from_scale(scale: Tensor, positive: Transform = "exp") -> Tensor:
    """Return what `to_scale` takes to ``scale``, or to the nearest scale within its reach."""
    if positive == "exp":
        angle = scale.clamp(min=SMALLEST, max=1 / SMALLEST).log() / BOUND
        return BOUND * torch.tan(torch.asin(angle.clamp(-0.99, 0.99)))
    accept("positive", positive, Transform)
    above = (scale - SMALLEST).clamp(min=SMALLEST)
    return above + torch.log(-torch.expm1(-above)) - _SHIFT
