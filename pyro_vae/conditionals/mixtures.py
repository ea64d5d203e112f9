"""Parts of mixtures: the weights of components, the components, and encoders k given x.

Weights and components own their parameters: expectation maximisation has their M step (see
`pyro_vae.training.expectation_maximization`). The encoders have none: learning the posterior is computing it.

Maximum Likelihood from Incomplete Data via the EM Algorithm (Dempster, Laird & Rubin, 1977).
"""

import math
from typing import Literal, Self

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from pyro_vae.conditionals.tables import log_share
from pyro_vae.distributions import IMPOSSIBLE, BinaryVector
from pyro_vae.options import Count, Weight, checked

__all__ = [
    "BernoulliComponents",
    "Covariance",
    "Nearest",
    "NormalComponents",
    "OneHotLogits",
    "Responsibilities",
    "Weights",
]

Covariance = Literal["shared", "component", "diagonal"]
_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


class Weights(nn.Module):
    """p(k): how often each component is drawn; they begin equal.

    Args:
        components: how many.
        learned: False keeps them equal, as in k-means.
    """

    @checked()
    def __init__(self, components: Count, *, learned: bool = True) -> None:
        super().__init__()
        if learned:
            self.logits = nn.Parameter(torch.zeros(components))
        else:
            self.register_buffer("logits", torch.zeros(components))

    def forward(self) -> TorchDistribution:
        """Return p(k), k one-hot ``(components,)``."""
        return dist.OneHotCategorical(logits=self.logits)

    def natural(self) -> dict[str, Tensor]:
        """Return log p(k), ``(components,)``."""
        return {"count": torch.log_softmax(self.logits, -1)}

    def statistic(self, eta: dict[str, Tensor], k: Tensor) -> Tensor:
        """Return the entry of ``eta`` that k counts for."""
        return (k * eta["count"]).sum(-1)

    def maximize(self, expected: dict[str, Tensor]) -> None:
        """Set the weights to the share of data that each component is expected to have."""
        if self.logits.requires_grad:
            self.logits.copy_(log_share(expected["count"]))


class NormalComponents(nn.Module):
    """p(x | k) = Normal(loc_k, scale_k^2), features independent given k.

    Without a floor the likelihood is unbounded: a component whose data agree in a feature has
    variance 0 there.

    Args:
        loc: means to begin with, ``(components, features)``.
        scale: standard deviation to begin with.
        covariance: "shared", one variance for all; one for each "component"; or "diagonal", one for
            each feature of each component.
        floor: smallest standard deviation.
        unit: module with ``loc`` and ``scale``, ``(features,)``, in which all of the above are
            given and learned; None for x as it is. With fewer than ``diagonal`` variances, one
            scale for all features.
    """

    @checked()
    def __init__(
        self,
        loc: Tensor,
        scale: float = 1.0,
        *,
        covariance: Covariance = "diagonal",
        floor: Weight = 0.0,
        unit: nn.Module | None = None,
    ) -> None:
        super().__init__()
        shapes = {"shared": (1, 1), "component": (len(loc), 1), "diagonal": tuple(loc.shape)}
        self.loc = nn.Parameter(loc.detach().clone())
        self.log_scale = nn.Parameter(torch.full(shapes[covariance], math.log(scale)).to(loc))
        self.floor, self.unit = floor, unit

    @property
    def scale(self) -> Tensor:
        """Standard deviations, of a shape that broadcasts to ``(components, features)``."""
        return ((2 * self.log_scale).exp() + self.floor**2).sqrt()

    def start_at(self, x: Tensor) -> Self:
        """Begin with data ``(components, features)`` for means; return the components."""
        with torch.no_grad():
            self.loc.copy_(x if self.unit is None else self.unit.inverse(x))  # type: ignore[operator]
        return self

    @property
    def means(self) -> Tensor:
        """The means in units of the data, ``(components, features)``."""
        loc = self.loc.detach()
        return loc if self.unit is None else self.unit(loc)

    def forward(self, k: Tensor, seen: Tensor | None = None) -> TorchDistribution:
        """Return p(x | k) for k one-hot ``(..., components)``; features not ``seen`` do not count."""
        loc, scale = k @ self.loc, k @ self.scale.expand_as(self.loc)
        if self.unit is not None:
            loc, scale = self.unit(loc), scale * self.unit.scale  # type: ignore[operator]
        return of_features(dist.Normal(loc, scale), seen)

    def natural(self) -> dict[str, Tensor]:
        """Return the natural parameters, each ``(components, features)``, in the units."""
        scale = self.scale.expand_as(self.loc)
        precision = scale.square().reciprocal()
        return {
            "count": -_HALF_LOG_2PI - scale.log() - 0.5 * self.loc.square() * precision,
            "linear": self.loc * precision,
            "square": -0.5 * precision,
        }

    def statistic(self, eta: dict[str, Tensor], x: Tensor, k: Tensor, seen: Tensor | None = None) -> Tensor:
        """Return ``eta``'s counts + linear x + square x^2 of component k, summed over features."""
        u = x if self.unit is None else self.unit.inverse(x)  # type: ignore[operator]
        one = torch.ones_like(u) if seen is None else seen.to(u)
        terms = one @ eta["count"].T + (one * u) @ eta["linear"].T + (one * u.square()) @ eta["square"].T
        return (k * terms).sum(-1)

    def maximize(self, expected: dict[str, Tensor]) -> None:
        """Set means and variances to the expected ones; a component without data stays."""
        count, linear, square = (expected[name] for name in ("count", "linear", "square"))
        used = count > torch.finfo(count.dtype).tiny
        mean = torch.where(used, linear / torch.where(used, count, 1.0), self.loc)
        if self.loc.requires_grad:
            self.loc.copy_(mean)
        # about the mean that stands, which may be held
        loc = self.loc
        squares = torch.where(used, square - 2 * loc * linear + loc.square() * count, 0.0)
        total, number = (part.sum_to_size(self.log_scale.shape) for part in (squares, count * used))
        above = (total / torch.where(number > 0, number, 1.0) - self.floor**2).clamp_min(1e-12 + 1e-6 * self.floor**2)
        if self.log_scale.requires_grad:
            self.log_scale.copy_(torch.where(number > 0, above.log() / 2, self.log_scale))


class BernoulliComponents(nn.Module):
    """p(x | k), binary features independent given k: latent classes.

    Args:
        probs: of 1, to begin with, ``(components, features)``.
        floor: how near to 0 and 1 the M step goes: a pixel that is 0 in all training data may be 1
            in others.
    """

    unit = None

    @checked()
    def __init__(self, probs: Tensor, *, floor: Weight = 0.0) -> None:
        super().__init__()
        self.floor = floor
        self.logits = nn.Parameter(self._logits(probs.detach().clone()))

    def _logits(self, probs: Tensor) -> Tensor:
        tiny = torch.finfo(probs.dtype).eps / 2
        return torch.logit(probs.clamp(max(self.floor, tiny**2), 1 - max(self.floor, tiny)))

    def start_at(self, x: Tensor) -> Self:
        """Begin with the data ``(components, features)``, halfway to 1/2, as probabilities."""
        with torch.no_grad():
            self.logits.copy_(self._logits(0.25 + 0.5 * x))
        return self

    @property
    def means(self) -> Tensor:
        """The probabilities, ``(components, features)``."""
        return torch.sigmoid(self.logits.detach())

    def forward(self, k: Tensor, seen: Tensor | None = None) -> TorchDistribution:
        """Return p(x | k) for k one-hot ``(..., components)``; features not ``seen`` do not count."""
        logits = k @ self.logits
        return BinaryVector(logits) if seen is None else of_features(dist.Bernoulli(logits=logits), seen)

    def natural(self) -> dict[str, Tensor]:
        """Return the log-probabilities of ones and zeros, each ``(components, features)``."""
        log_sigmoid = nn.functional.logsigmoid
        return {"ones": log_sigmoid(self.logits), "zeros": log_sigmoid(-self.logits)}

    def statistic(self, eta: dict[str, Tensor], x: Tensor, k: Tensor, seen: Tensor | None = None) -> Tensor:
        """Return the entries of ``eta`` that x counts for in component k, summed over features."""
        one = torch.ones_like(x) if seen is None else seen.to(x)
        return (k * ((one * x) @ eta["ones"].T + (one * (1 - x)) @ eta["zeros"].T)).sum(-1)

    def maximize(self, expected: dict[str, Tensor]) -> None:
        """Set the probabilities to the expected shares; a component without data stays."""
        ones, total = expected["ones"], expected["ones"] + expected["zeros"]
        used = total > torch.finfo(total.dtype).tiny
        self.logits.copy_(torch.where(used, self._logits(ones / torch.where(used, total, 1.0)), self.logits))


def of_features(fn: TorchDistribution, seen: Tensor | None) -> TorchDistribution:
    """Return a distribution of single features as one of vectors, unseen features left out."""
    return (fn if seen is None else fn.mask(seen)).to_event(1)


class _Encoder(nn.Module):
    """k given x, computed from a model's own weights and components, whose parameters stay theirs."""

    def __init__(self, weights: nn.Module, components: nn.Module) -> None:
        super().__init__()
        self._of = (weights, components)  # a tuple: they are registered with the model alone

    def log_joint(self, x: Tensor, seen: Tensor | None) -> Tensor:
        """Return log p(k, x), ``(..., components)``."""
        weights, components = self._of
        prior = weights()
        number = prior.event_shape[0]
        k = torch.eye(number).to(x).reshape(number, *(1,) * (x.dim() - 1), number)
        return (components(k, seen).log_prob(x) + prior.log_prob(k)).movedim(0, -1)

    @property
    def symmetric(self) -> bool:
        """Whether all components are equal, so that k says nothing of x: they stay so under EM and
        gradients alike.
        """
        natural = self._of[1].natural()  # type: ignore[operator]
        return all(len(value) > 1 and bool((value == value[:1]).all()) for value in natural.values())


class Responsibilities(_Encoder):
    """q(k | x) = p(k | x), exactly: with it the ELBO is log p(x).

    Args:
        weights: ``() -> p(k)``, k one-hot.
        components: ``k, seen -> p(x | k)``.
    """

    def forward(self, x: Tensor, seen: Tensor | None = None) -> TorchDistribution:
        """Return q(k | x), k one-hot ``(components,)``; batch shape ``(...)``."""
        return dist.OneHotCategorical(logits=self.log_joint(x, seen))


class Nearest(_Encoder):
    """q(k | x) all on the component of the largest p(k, x): k-means, or classification EM.

    A Classification EM Algorithm for Clustering (Celeux & Govaert, 1992). Its ELBO is log p(k, x)
    at that k.

    Args:
        weights: ``() -> p(k)``, k one-hot.
        components: ``k, seen -> p(x | k)``.
    """

    def forward(self, x: Tensor, seen: Tensor | None = None) -> TorchDistribution:
        """Return q(k | x), k one-hot ``(components,)``; batch shape ``(...)``."""
        log_joint = self.log_joint(x, seen).detach()
        number = torch.arange(log_joint.shape[-1], device=x.device)
        nearest = number == log_joint.argmax(-1, keepdim=True)
        return dist.OneHotCategorical(logits=torch.where(nearest, 0.0, IMPOSSIBLE).to(x.dtype))


class OneHotLogits(nn.Module):
    """q(k | x) of a net's logits.

    Args:
        net: ``x -> (..., components)``; of x, what is not seen is 0.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, seen: Tensor | None = None) -> TorchDistribution:
        """Return q(k | x), k one-hot ``(components,)``; batch shape ``(...)``."""
        return dist.OneHotCategorical(logits=self.net(x if seen is None else torch.where(seen, x, 0.0)))
