"""Distributions of whole sequences: steps that are independent, steps each given those before it,
and paths of a Markov chain.

An event is all steps side by side, ``(steps * size,)``, and ``there`` says which steps are not
padding.
"""

from collections.abc import Callable
from typing import Any, Protocol

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor

__all__ = ["Following", "NextStep", "Path", "Recurrent", "Steps"]

NOTHING = torch.Size()


class _EachStep(constraints.Constraint):
    """Steps side by side, ``(..., steps * size)``, each of which satisfies ``one``."""

    event_dim = 1

    def __init__(self, one: constraints.Constraint, size: int) -> None:
        self.one, self.size = one, size
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        """Return whether all steps do, ``(...)``."""
        return self.one.check(value.unflatten(-1, (-1, self.size))).all(-1)


class _Sequence(TorchDistribution):
    """What the four have in common: shapes, and the support of their steps."""

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012 (torch's own attribute)
    one: Any  # a distribution of single steps, whose support is theirs

    def __init__(self, there: Tensor, size: int, batch_shape: torch.Size) -> None:
        self.there, self.size = there, size
        self.steps = there.shape[-1]
        super().__init__(batch_shape, torch.Size([self.steps * size]), validate_args=False)

    @constraints.dependent_property(event_dim=1)
    def support(self) -> constraints.Constraint:
        """That of each step."""
        inner: Any = self.one.support
        while isinstance(inner, constraints.independent):
            inner = inner.base_constraint
        if isinstance(inner, constraints.cat):  # features of several kinds
            return _EachStep(self.one.support, self.size)
        return constraints.independent(inner, 1) if inner.event_dim == 0 else constraints.real_vector

    def expand(self, batch_shape: Any, _instance: Any = None) -> Any:
        """Return the same distribution with a larger batch shape."""
        new = self._get_checked_instance(type(self), _instance)
        for name, value in self.__dict__.items():
            setattr(new, name, value)
        _Sequence.__init__(new, self.there, self.size, torch.Size(batch_shape))
        return new

    def apart(self, value: Tensor) -> Tensor:
        """Return ``(..., steps, size)`` of ``(..., steps * size)``."""
        return value.unflatten(-1, (self.steps, self.size))

    def by_step(self, value: Tensor) -> Tensor:
        """Return what each step adds to log p, ``(..., steps)``."""
        raise NotImplementedError

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-probability of ``value``, in nats."""
        return self.by_step(value).sum(-1)


class Steps(_Sequence):
    """Steps that are independent of each other; a padded one counts for nothing and is drawn as 0.

    Args:
        one: of the steps, batch shape ``(..., steps)``, event shape ``(size,)``.
        there: bool ``(..., steps)``.
    """

    def __init__(self, one: Any, there: Tensor) -> None:
        self.one = one
        super().__init__(there, one.event_shape[0], torch.broadcast_shapes(one.batch_shape, there.shape)[:-1])

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        """Whether draws are differentiable."""
        return self.one.has_rsample

    def by_step(self, value: Tensor) -> Tensor:
        """Return what each step adds to log p, ``(..., steps)``; 0 for a padded one."""
        return torch.where(self.there, self.one.log_prob(self.apart(value)), 0.0)

    def _together(self, value: Tensor) -> Tensor:
        return torch.where(self.there.unsqueeze(-1), value, 0.0).flatten(-2)

    @property
    def mean(self) -> Tensor:
        """``(..., steps * size)``, 0 in padded steps."""
        return self._together(self.one.mean).expand(self.batch_shape + self.event_shape)

    @property
    def variance(self) -> Tensor:
        """``(..., steps * size)``, 0 in padded steps."""
        return self._together(self.one.variance).expand(self.batch_shape + self.event_shape)

    def rsample(self, sample_shape: Any = NOTHING) -> Tensor:
        """Return draws, ``sample_shape + batch_shape + event_shape``."""
        one = self.one.expand((*self.batch_shape, self.steps))
        draw = one.rsample if one.has_rsample else one.sample
        return self._together(draw(torch.Size(sample_shape)))

    def sample(self, sample_shape: Any = NOTHING) -> Tensor:
        """Return draws, without gradients."""
        with torch.no_grad():
            return self.rsample(sample_shape)


class NextStep(Protocol):
    """What says of each step what follows from those before it: `pyro_vae.conditionals.Predictor`."""

    def __call__(self, x: Tensor, context: Tensor) -> Tensor:
        """Return ``(..., steps, numbers)`` for ``x``, ``(..., steps, size)``, in one pass."""

    def step(self, previous: Tensor | None, context: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Return what is said of the next step, ``(..., numbers)``, and the state after it.

        ``previous``, ``(..., size)``, and ``state`` are None at the first step.
        """


class Following(_Sequence):
    """p(x) = prod over t: p(x_t | x_1 ... x_(t-1)): the density in one pass, a draw step by step.

    A padded step counts for nothing and is drawn as 0. There is no mean in closed form: what is
    known at a datum are its `conditionals`.

    Args:
        net: `NextStep`.
        head: ``(..., numbers)`` -> distribution of a step.
        context: what all steps are given, ``(..., width)``.
        there: bool ``(..., steps)``, True up to the length of each datum.
        size: of a step.
    """

    has_rsample = False

    def __init__(self, net: NextStep, head: Callable[[Tensor], Any], context: Tensor, there: Tensor, size: int) -> None:
        self.net, self.head, self.context = net, head, context
        super().__init__(there, size, torch.broadcast_shapes(context.shape[:-1], there.shape[:-1]))

    @property
    def one(self) -> Any:  # type: ignore[override]
        """Of the first step."""
        return self.head(self.net.step(None, self.context, None)[0])

    @property
    def passes(self) -> int:
        """How many passes of the net a draw costs."""
        return self.steps

    def conditionals(self, value: Tensor) -> Any:
        """Return the distribution of every step given those before it in ``value``, batch shape
        ``(..., steps)``.
        """
        return self.head(self.net(self.apart(value), self.context))

    def by_step(self, value: Tensor) -> Tensor:
        """Return what each step adds to log p, ``(..., steps)``; 0 for a padded one."""
        return torch.where(self.there, self.conditionals(value).log_prob(self.apart(value)), 0.0)

    def sample(self, sample_shape: Any = NOTHING) -> Tensor:
        """Return draws, ``sample_shape + batch_shape + event_shape``, a step after the other."""
        context = self.context.expand(*sample_shape, *self.batch_shape, -1)
        drawn: list[Tensor] = []
        state = None
        with torch.no_grad():
            for t in range(self.steps):
                said, state = self.net.step(drawn[-1] if t else None, context, state)
                drawn.append(self.head(said).sample())
            return torch.where(self.there.unsqueeze(-1), torch.stack(drawn, -2), 0.0).flatten(-2)


class Path(_Sequence):
    """p(z) = p(z_1) prod over t: p(z_t | z_(t-1)): the density in one pass, a draw step by step.

    Padded steps are independent draws of ``idle``, in a model and in its guide alike: they cancel
    in every weight, and the density stays one of all steps.

    Args:
        first: p(z_1), event shape ``(size,)``.
        step: ``previous, where -> p(z_t | z_(t-1))`` for ``previous`` of shape ``(..., n, size)``
            and the n steps ``where``, a slice.
        there: bool ``(..., steps)``, True up to the length of each datum.
        idle: what padded steps are drawn from, event shape ``(size,)``.
    """

    def __init__(self, first: Any, step: Callable[[Tensor, slice], Any], there: Tensor, idle: Any) -> None:
        self.first, self.step, self.one = first, step, idle
        shape = torch.broadcast_shapes(first.batch_shape, there.shape[:-1])
        super().__init__(there, idle.event_shape[0], shape)

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        """Whether draws are differentiable."""
        return self.one.has_rsample

    def by_step(self, value: Tensor) -> Tensor:
        """Return what each step adds to log p, ``(..., steps)``."""
        z = self.apart(value)
        terms = [self.first.log_prob(z[..., 0, :]).unsqueeze(-1)]
        if self.steps > 1:
            terms.append(self.step(z[..., :-1, :], slice(1, self.steps)).log_prob(z[..., 1:, :]))
        shape = value.shape[:-1]
        joined = torch.cat([term.expand(*shape, term.shape[-1]) for term in terms], -1)
        return torch.where(self.there, joined, self.one.log_prob(z))

    def rsample(self, sample_shape: Any = NOTHING) -> Tensor:
        """Return draws, ``sample_shape + batch_shape + event_shape``, a step after the other."""
        shape = torch.Size(sample_shape) + self.batch_shape
        path = [self._draw(self.first, shape)]
        for t in range(1, self.steps):
            one = self.step(path[-1].unsqueeze(-2), slice(t, t + 1))
            path.append(self._draw(one, torch.Size([*shape, 1])).squeeze(-2))
        idle = self._draw(self.one, torch.Size([*shape, self.steps]))
        return torch.where(self.there.unsqueeze(-1), torch.stack(path, -2), idle).flatten(-2)

    def _draw(self, one: Any, shape: torch.Size) -> Tensor:
        one = one.expand(shape)
        return one.rsample() if self.has_rsample else one.sample()

    def sample(self, sample_shape: Any = NOTHING) -> Tensor:
        """Return draws, without gradients."""
        with torch.no_grad():
            return self.rsample(sample_shape)


class Recurrent(_Sequence):
    """q(z): z_t = gate_t z_(t-1) + loc_t + scale_t noise, in each dimension by itself: density and
    draws in one pass over all steps.

    Padded steps are independent standard normals, as those of a `Path` over real states.

    Args:
        gate: ``(..., steps, size)``; that of the first step counts for nothing.
        loc: ``(..., steps, size)``.
        scale: ``(..., steps, size)``, positive.
        there: bool ``(..., steps)``, True up to the length of each datum.
        scan: ``gate, update -> states``: `pyro_vae.nets.scan`.
    """

    has_rsample = True

    def __init__(
        self, gate: Tensor, loc: Tensor, scale: Tensor, there: Tensor, scan: Callable[[Tensor, Tensor], Tensor]
    ) -> None:
        kept = there.unsqueeze(-1)
        self.gate = torch.where(kept, gate, 0.0)
        self.loc, self.scale = torch.where(kept, loc, 0.0), torch.where(kept, scale, 1.0)
        self.scan = scan
        self.one = torch.distributions.Normal(self.loc.new_zeros(()), 1.0)
        super().__init__(there, loc.shape[-1], loc.shape[:-2])

    def by_step(self, value: Tensor) -> Tensor:
        """Return what each step adds to log q, ``(..., steps)``."""
        z = self.apart(value)
        previous = torch.cat([torch.zeros_like(z[..., :1, :]), z[..., :-1, :]], -2)
        return self.step(previous, slice(None)).log_prob(z)

    @property
    def first(self) -> Any:
        """q(z_1), event shape ``(size,)``."""
        return _normal(self.loc[..., 0, :], self.scale[..., 0, :])

    def step(self, previous: Tensor, where: slice) -> Any:
        """Return q(z_t | z_(t-1)) of the steps ``where``, for ``previous``, ``(..., n, size)``."""
        return _normal(self.gate[..., where, :] * previous + self.loc[..., where, :], self.scale[..., where, :])

    @property
    def mean(self) -> Tensor:
        """``(..., steps * size)``, of a Gaussian in closed form."""
        return self.scan(self.gate, self.loc).flatten(-2).expand(self.batch_shape + self.event_shape)

    @property
    def variance(self) -> Tensor:
        """``(..., steps * size)``, in closed form."""
        var = self.scan(self.gate.square(), self.scale.square())
        return var.flatten(-2).expand(self.batch_shape + self.event_shape)

    def rsample(self, sample_shape: Any = NOTHING) -> Tensor:
        """Return draws, ``sample_shape + batch_shape + event_shape``."""
        shape = torch.Size([*sample_shape, *self.batch_shape, self.steps, self.size])
        noise = torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device)
        return self.scan(self.gate, self.loc + self.scale * noise).flatten(-2)

    def sample(self, sample_shape: Any = NOTHING) -> Tensor:
        """Return draws, without gradients."""
        with torch.no_grad():
            return self.rsample(sample_shape)


def _normal(loc: Tensor, scale: Tensor) -> Any:
    return dist.Normal(loc, scale).to_event(1)
