"""Rational-quadratic splines as Pyro transforms that can be recorded by a compiler.

*Neural Spline Flows (Durkan, Bekasov, Murray, Papamakarios, 2019)*, arXiv 1906.04032. Pyro's own
splines write through boolean masks, so a recording of them is wrong on other data, and there is
none that is both a coupling and conditional.
"""

from collections.abc import Callable

import torch
from pyro.distributions import constraints
from pyro.distributions.conditional import ConditionalTransformModule
from pyro.nn import ConditionalAutoRegressiveNN
from torch import Tensor, nn
from torch.distributions import Transform
from torch.nn import functional as F

from pyro_vae.distributions.one_by_one import invert

# the spline acts on [-BOX, BOX] and is the identity outside, where 6e-5 of a standard normal lies
BOX = 4.0
_SMALLEST = 1e-3  # of a bin's share of the box, and of a slope
_UNIT_SLOPE = 0.5413248546129181  # log(e - 1): softplus of it is 1


def spline(x: Tensor, raw: Tensor, *, inverse: bool = False) -> tuple[Tensor, Tensor]:
    """Return the spline (or its inverse) at ``x``, and the logarithm of its slope there, shaped
    like ``x``.

    Args:
        x: any real numbers, ``(...)``.
        raw: ``(..., 3 * bins - 1)``: widths, heights and inner slopes before normalisation; all
            zero gives the identity.
        inverse: whether to go from heights to widths.
    """
    bins = (raw.shape[-1] + 1) // 3
    raw_widths, raw_heights, raw_slopes = raw.split([bins, bins, bins - 1], -1)
    left, bottom = _knots(raw_widths), _knots(raw_heights)  # (..., bins + 1)
    slopes = _SMALLEST + (1 - _SMALLEST) * F.softplus(raw_slopes + _UNIT_SLOPE)
    slopes = F.pad(slopes, (1, 1), value=1.0)  # meets the identity outside

    inside = x.abs() < BOX
    known = torch.where(inside, x, 0.0)
    edges = bottom if inverse else left
    bin_of = (known.unsqueeze(-1) >= edges[..., 1:-1]).sum(-1, keepdim=True)

    def pick(values: Tensor) -> Tensor:
        return values.gather(-1, bin_of).squeeze(-1)

    x0, width = pick(left[..., :-1]), pick(left.diff(dim=-1))
    y0, height = pick(bottom[..., :-1]), pick(bottom.diff(dim=-1))
    d0, d1 = pick(slopes[..., :-1]), pick(slopes[..., 1:])
    s = height / width
    bend = d0 + d1 - 2 * s
    if inverse:  # equations 6 to 8 of the appendix: the root of a quadratic, in the form that does not cancel
        up = known - y0
        a, b, c = height * (s - d0) + up * bend, height * d0 - up * bend, -s * up
        t = -2 * c / (b + torch.sqrt((b.square() - 4 * a * c).clamp(min=1e-20)))
    else:
        t = (known - x0) / width
    both = t * (1 - t)
    below = s + bend * both
    slope = s.square() * (d1 * t.square() + 2 * s * both + d0 * (1 - t).square()) / below.square()
    log_slope = torch.log(slope)
    result = x0 + t * width if inverse else y0 + height * (s * t.square() + d0 * both) / below
    return torch.where(inside, result, x), torch.where(inside, -log_slope if inverse else log_slope, 0.0)


def _knots(raw: Tensor) -> Tensor:
    bins = raw.shape[-1]
    shares = _SMALLEST + (1 - _SMALLEST * bins) * torch.softmax(raw, -1)
    inner = F.pad(shares.cumsum(-1)[..., :-1], (1, 0))
    return BOX * (2 * F.pad(inner, (0, 1), value=1.0) - 1)  # from -BOX to BOX exactly


class _Conditioned(Transform):
    """One splined transform at one context; it lives, with its cache, as long as its distribution."""

    domain = constraints.real_vector
    codomain = constraints.real_vector
    bijective = True

    def __init__(self) -> None:
        super().__init__(cache_size=1)
        self._log_slope: Tensor | None = None

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the log volume change at ``x``, without the last dimension."""
        x_old, y_old = self._cached_x_y
        if x is not x_old or y is not y_old:
            self(x)
        assert self._log_slope is not None
        return self._log_slope.sum(-1)


class _Coupled(_Conditioned):
    def __init__(self, split: int, parameters: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.split, self.parameters = split, parameters

    def _move(self, x: Tensor, inverse: bool) -> Tensor:
        kept, moved = x[..., : self.split], x[..., self.split :]
        raw = self.parameters(kept).unflatten(-1, (moved.shape[-1], -1))  # (..., moved, 3 * bins - 1)
        result, self._log_slope = spline(moved, raw, inverse=inverse)
        if inverse:
            self._log_slope = -self._log_slope
        return torch.cat([kept, result], -1)

    def _call(self, x: Tensor) -> Tensor:
        return self._move(x, inverse=False)

    def _inverse(self, y: Tensor) -> Tensor:
        return self._move(y, inverse=True)


class AutoregressiveSpline(_Conditioned):
    """Each coordinate's spline given those before it; what `ConditionalSplineAutoregressive` makes."""

    def __init__(self, net: ConditionalAutoRegressiveNN, context: Tensor) -> None:
        super().__init__()
        self.net, self.context = net, context

    def _call(self, x: Tensor) -> Tensor:
        y, self._log_slope = spline(x, self.net(x, context=self.context).transpose(-1, -2))
        return y

    def _inverse(self, y: Tensor) -> Tensor:
        def undo(one: Tensor, raw: Tensor) -> tuple[Tensor, Tensor]:
            x, log_slope = spline(one, raw, inverse=True)
            return x, -log_slope

        x, self._log_slope = invert(self.net, self.context, y, undo)
        return x


class ConditionalSplineCoupling(ConditionalTransformModule):
    """Keeps the first ``split`` coordinates and moves the others by splines that depend on them and
    on the context.

    Args:
        split: coordinates kept.
        net: ``(kept, context=) -> (..., moved * (3 * bins - 1))``, such as
            ``pyro.nn.ConditionalDenseNN``.
    """

    domain = constraints.real_vector
    codomain = constraints.real_vector
    bijective = True

    def __init__(self, split: int, net: nn.Module) -> None:
        super().__init__()
        self.split, self.nn = split, net

    def condition(self, context: Tensor) -> Transform:
        """Return the transform at ``context``, ``(..., context)``."""
        return _Coupled(self.split, lambda kept: self.nn(kept, context=context))


class ConditionalSplineAutoregressive(ConditionalTransformModule):
    """Moves each coordinate by a spline that depends on the coordinates before it and on the
    context.

    Args:
        net: ``(x, context=) -> (..., 3 * bins - 1, features)``, with ``param_dims`` of
            ``[3 * bins - 1]``.
    """

    domain = constraints.real_vector
    codomain = constraints.real_vector
    bijective = True

    def __init__(self, net: ConditionalAutoRegressiveNN) -> None:
        super().__init__()
        self.nn = net

    def condition(self, context: Tensor) -> Transform:
        """Return the transform at ``context``, ``(..., context)``."""
        return AutoregressiveSpline(self.nn, context)
