"""Heads for likelihoods p(x | z), by data.

`Bernoulli` (0 or 1), `ContinuousBernoulli` (between 0 and 1), `DiscretizedLogistic`,
`DiscretizedLogisticMixture` and `Categorical` (equally spaced levels), `Normal` (real); those of
counts are in `pyro_vae.conditionals.counts`. `Normal` is also a head for posteriors and conditional priors of z, as are those of
`pyro_vae.conditionals.gaussian` and `pyro_vae.conditionals.flows`.
"""

from collections.abc import Callable, Sequence
from typing import Annotated, Literal

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from pyro_vae import distributions
from pyro_vae.conditionals.head import EDGE, Head, initial_std, inside
from pyro_vae.conditionals.scales import Transform, from_scale, to_scale
from pyro_vae.options import Count, Positive, Within, checked

__all__ = [
    "Bernoulli",
    "Categorical",
    "ContinuousBernoulli",
    "DiscretizedLogistic",
    "DiscretizedLogisticMixture",
    "Normal",
]

Levels = Annotated[int, Within(2)]


def _solve(increasing: Callable[[Tensor], Tensor], target: Tensor, low: float, high: float) -> Tensor:
    """Return where in [low, high] an increasing function meets ``target``, by bisection."""
    below, above = torch.full_like(target, low), torch.full_like(target, high)
    for _ in range(60):  # 2^-60 of the interval
        middle = (below + above) / 2
        short = increasing(middle) < target
        below, above = torch.where(short, middle, below), torch.where(short, above, middle)
    return (below + above) / 2


class Bernoulli(Head):
    """x in {0, 1}, independent given the parameters; the net gives logits."""

    @checked()
    def __init__(self, features: Count) -> None:
        super().__init__(features, features)

    def forward(self, parameters: Tensor) -> TorchDistribution:
        """Return the distribution over ``(..., features)`` for logits ``(..., features)``."""
        return dist.Bernoulli(logits=self.kinds(parameters).squeeze(-2)).to_event(1)

    def part(self, keep: Sequence[int]) -> "Bernoulli":
        """Return this head for the features ``keep``."""
        return Bernoulli(len(keep))

    def start(self, mean: Tensor, std: Tensor | None = None) -> Tensor:
        """Return logits, ``(features,)``, of ``mean`` brought inside (0, 1); ``std`` is not used."""
        return torch.logit(inside(mean)).to(mean)


class ContinuousBernoulli(Head):
    """x in [0, 1]; the net gives logits. See `pyro_vae.distributions.ContinuousBernoulli`."""

    @checked()
    def __init__(self, features: Count) -> None:
        super().__init__(features, features)

    def forward(self, parameters: Tensor) -> TorchDistribution:
        """Return the distribution over ``(..., features)`` for logits ``(..., features)``."""
        return distributions.ContinuousBernoulli(self.kinds(parameters).squeeze(-2)).to_event(1)

    def part(self, keep: Sequence[int]) -> "ContinuousBernoulli":
        """Return this head for the features ``keep``."""
        return ContinuousBernoulli(len(keep))

    def start(self, mean: Tensor, std: Tensor | None = None) -> Tensor:
        """Return logits, ``(features,)``, of ``mean`` brought inside (0, 1); ``std`` is not used."""
        reach = 2 / EDGE  # the mean is about 1 - 1/l for large l
        logits = _solve(lambda logits: distributions.ContinuousBernoulli(logits).mean, inside(mean), -reach, reach)
        return logits.to(mean)


class DiscretizedLogistic(Head):
    """x in {0, 1/(levels - 1), ..., 1}: a logistic variable rounded to a level. See
    `pyro_vae.distributions.DiscretizedLogistic`.

    Args:
        features: pixels times channels.
        levels: values that a feature takes: 256 for 8-bit images, 17 for scikit-learn's digits.
    """

    # at the parameters 0: the middle of the range, about as wide as uniform levels; and that width is the
    # net's unit
    _LOC, _UNIT = 0.5, 0.16

    @checked()
    def __init__(self, features: Count, levels: Levels = 256) -> None:
        super().__init__(features, 2 * features)
        self.levels = levels

    def forward(self, parameters: Tensor) -> TorchDistribution:
        """Return the distribution over ``(..., features)`` for ``parameters``, ``(..., size)``."""
        raw_loc, raw_scale = self.kinds(parameters).unbind(-2)
        return self._logistic(raw_loc, raw_scale).to_event(1)

    def _logistic(self, raw_loc: Tensor, raw_scale: Tensor) -> TorchDistribution:
        return distributions.DiscretizedLogistic(
            self._LOC + self._UNIT * raw_loc, self._UNIT * to_scale(raw_scale), self.levels
        )

    def part(self, keep: Sequence[int]) -> "DiscretizedLogistic":
        """Return this head for the features ``keep``."""
        return DiscretizedLogistic(len(keep), self.levels)

    def start(self, mean: Tensor, std: Tensor | None = None) -> Tensor:
        """Return the parameters, ``(size,)``, of ``mean`` brought inside (0, 1); its logistic, of
        ``std``.
        """
        scale = initial_std(std, mean, 0.2) / distributions.STD_OF_LOGISTIC
        raw_scale = from_scale(scale / self._UNIT)
        reach = (1 + 10 * float(scale.max())) / self._UNIT
        raw_loc = _solve(lambda loc: self._logistic(loc, raw_scale).mean, inside(mean), -reach, reach)
        return torch.cat([raw_loc, raw_scale]).to(mean)

    def extra_repr(self) -> str:
        """Return what the printed head shows in parentheses."""
        return f"{self.features}, levels={self.levels}"


class DiscretizedLogisticMixture(DiscretizedLogistic):
    """A mixture of `DiscretizedLogistic`, one for each feature: several likely values, as at an
    edge that may be here or there.

    Args:
        features: pixels times channels.
        levels: values that a feature takes.
        components: of each feature's mixture.
    """

    @checked()
    def __init__(self, features: Count, levels: Levels = 256, components: Count = 5) -> None:
        super().__init__(features, levels)
        self.components, self.size = components, 3 * components * features

    def forward(self, parameters: Tensor) -> TorchDistribution:
        """Return the distribution over ``(..., features)`` for ``parameters``, ``(..., size)``."""
        kinds = self.kinds(parameters).transpose(-1, -2)  # (..., features, 3 * components)
        logits, raw_loc, raw_scale = kinds.chunk(3, -1)
        return self._mixture(logits, raw_loc, raw_scale).to_event(1)

    def _mixture(self, logits: Tensor, raw_loc: Tensor, raw_scale: Tensor) -> TorchDistribution:
        return dist.MixtureSameFamily(dist.Categorical(logits=logits), self._logistic(raw_loc, raw_scale))

    def part(self, keep: Sequence[int]) -> "DiscretizedLogisticMixture":
        """Return this head for the features ``keep``."""
        return DiscretizedLogisticMixture(len(keep), self.levels, self.components)

    def start(self, mean: Tensor, std: Tensor | None = None) -> Tensor:
        """Return the parameters, ``(size,)``, of ``mean``; equal components side by side over
        ``std``.
        """
        spread = initial_std(std, mean, 0.2).unsqueeze(-1)
        offsets = torch.linspace(-1, 1, self.components, dtype=torch.float64) * (self.components > 1)
        # side by side, so that the components can learn different things
        shifts = spread / self._UNIT * offsets  # (features, components)
        raw_scale = from_scale(spread / distributions.STD_OF_LOGISTIC / self._UNIT).expand_as(shifts)
        logits = torch.zeros_like(shifts)
        reach = (1 + 10 * float(spread.max())) / self._UNIT

        def mean_at(centre: Tensor) -> Tensor:
            return self._mixture(logits, centre.unsqueeze(-1) + shifts, raw_scale).mean

        centre = _solve(mean_at, inside(mean), -reach, reach)
        kinds = torch.cat([logits, centre.unsqueeze(-1) + shifts, raw_scale], -1)
        return kinds.T.flatten().to(mean)

    def extra_repr(self) -> str:
        """Return what the printed head shows in parentheses."""
        return f"{self.features}, levels={self.levels}, components={self.components}"


class Categorical(Head):
    """Levels with a free probability each: x in {0, 1, ..., levels - 1}, or any equally spaced
    values from 0 to ``highest``.

    Args:
        features: size of the event.
        levels: values that a feature takes.
        highest: the largest value, ``levels - 1`` if not given; 1.0 for grey pixels scaled to [0,
            1].
    """

    @checked()
    def __init__(self, features: Count, levels: Levels, highest: Positive | None = None) -> None:
        super().__init__(features, levels * features)
        self.levels = levels
        self.highest = float(levels - 1 if highest is None else highest)

    def forward(self, parameters: Tensor) -> TorchDistribution:
        """Return the distribution over ``(..., features)`` for ``parameters``, ``(..., size)``."""
        logits = self.kinds(parameters).transpose(-1, -2)  # (..., features, levels)
        return distributions.CategoricalLevels(logits, self.highest).to_event(1)

    def part(self, keep: Sequence[int]) -> "Categorical":
        """Return this head for the features ``keep``."""
        return Categorical(len(keep), self.levels, self.highest)

    def start(self, mean: Tensor, std: Tensor | None = None) -> Tensor:
        """Return logits, ``(size,)``: a bell of about ``std`` (flat without), tilted to have
        ``mean``.
        """
        values = torch.linspace(0, 1, self.levels, dtype=torch.float64)
        target = inside(mean / self.highest)
        shape = torch.zeros(len(mean), self.levels, dtype=torch.float64)
        if std is not None:
            spread = initial_std(std / self.highest, mean, 0.2).maximum(torch.tensor(0.5 / self.levels))
            shape = -0.5 * ((values - target.unsqueeze(-1)) / spread.unsqueeze(-1)).square()

        def mean_at(tilt: Tensor) -> Tensor:
            return distributions.CategoricalLevels(shape + tilt.unsqueeze(-1) * values, 1.0).mean

        tilt = _solve(mean_at, target, -2 * self.levels / EDGE, 2 * self.levels / EDGE)
        return (shape + tilt.unsqueeze(-1) * values).T.flatten().to(mean)

    def extra_repr(self) -> str:
        """Return what the printed head shows in parentheses."""
        return f"{self.features}, levels={self.levels}, highest={self.highest:g}"


class Normal(Head):
    """Real values, independent given the parameters: a likelihood, a diagonal posterior or a
    conditional prior.

    Args:
        features: size of the event.
        scale: where the standard deviation comes from: ``"predicted"`` by the net for every datum
            and feature; ``"learned"``, one number; ``"per_feature"``, learned, one number per
            feature; ``"fixed"`` at ``value``.
        value: the scale, or where a learned one begins, in units of the data. A predicted scale is
            this times what the net says.
        positive: how real numbers become scales, ``"exp"`` or ``"softplus"``: see
            `pyro_vae.conditionals.scales` for why exp is the default.
    """

    @checked()
    def __init__(
        self,
        features: Count,
        scale: Literal["predicted", "learned", "per_feature", "fixed"] = "predicted",
        *,
        value: Positive = 1.0,
        positive: Transform = "exp",
    ) -> None:
        super().__init__(features, features * (2 if scale == "predicted" else 1))
        self.scale, self.positive = scale, positive
        self.value: float | Tensor = value
        if scale in ("learned", "per_feature"):
            self.raw_scale = nn.Parameter(torch.zeros((features,) if scale == "per_feature" else ()))

    def in_units(self, scale: Tensor) -> "Normal":
        """Return this head for data that are divided by ``scale``, ``(features,)``: a fixed scale
        is divided too.
        """
        value = self.value
        if self.scale != "fixed" and value == 1.0:
            return self
        moved = Normal(self.features, self.scale, positive=self.positive)
        if self.scale == "fixed":
            del moved.value
            moved.register_buffer("value", value / scale)
        return moved

    def forward(self, parameters: Tensor) -> TorchDistribution:
        """Return the distribution over ``(..., features)`` for ``parameters``, ``(..., size)``."""
        if self.scale == "predicted":
            loc, raw_scale = self.kinds(parameters).unbind(-2)
            return dist.Normal(loc, self.value * to_scale(raw_scale, self.positive)).to_event(1)
        (loc,) = self.kinds(parameters).unbind(-2)
        scale = self.value if self.scale == "fixed" else self.value * to_scale(self.raw_scale, self.positive)
        return dist.Normal(loc, scale).to_event(1)

    def part(self, keep: Sequence[int]) -> "Normal":
        """Return this head for the features ``keep``; a learned scale is fixed where it is."""
        scale: float | Tensor = self.value
        if self.scale in ("learned", "per_feature"):
            scale = (self.value * to_scale(self.raw_scale, self.positive)).detach()
        if isinstance(scale, Tensor) and scale.dim():
            scale = scale[list(keep)]
        part = Normal(len(keep), "predicted" if self.scale == "predicted" else "fixed", positive=self.positive)
        del part.value
        part.register_buffer("value", torch.as_tensor(scale))
        return part

    def start(self, mean: Tensor, std: Tensor | None = None) -> Tensor:
        """Return the parameters, ``(size,)``, of ``mean`` and ``std``.

        A learned scale is not among the parameters: it is set here, in place, to ``std`` or to its
        root mean square. A fixed one stays.
        """
        scale = initial_std(std, mean, self.value)
        raw_scale = from_scale(scale / self.value, self.positive).to(mean)
        if self.scale == "predicted":
            return torch.cat([mean.detach(), raw_scale])
        if self.scale != "fixed" and std is not None:
            with torch.no_grad():
                typical = from_scale(scale.square().mean().sqrt() / self.value, self.positive)
                self.raw_scale.copy_(raw_scale if self.scale == "per_feature" else typical)
        return mean.detach().clone()

    def extra_repr(self) -> str:
        """Return what the printed head shows in parentheses."""
        return f"{self.features}, scale={self.scale!r}"
