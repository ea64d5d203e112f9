"""One feature after the other: a distribution of vectors from a net that reads what came before."""

from collections.abc import Iterator
from typing import Any, Protocol

import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor

from pyro_vae.distributions.rescaled import Rescaled


class MaskedNet(Protocol):
    """What says of every feature what follows from those before it: `pyro_vae.nets.MaskedMLP`,
    `pyro_vae.nets.PixelCNN`.
    """

    order: Tensor
    passes: int  # over all features, whose work the steps of a draw do together

    def __call__(self, x: Tensor) -> Tensor:
        """Return ``(..., size)`` in one pass."""

    def steps(self, x: Tensor) -> Iterator[Tensor]:
        """Yield what is said of each feature in the order, ``(..., size / features)``."""


class Autoregressive(TorchDistribution):
    """p(x) = product over features i of p(x_i | those before i in an order).

    ``log_prob`` takes one pass of the net. A draw takes as many steps as there are features, since
    each needs the values before it, and the work of ``passes`` passes. There is no mean in closed
    form: what is known at a datum are its `conditionals`.

    Args:
        net: `MaskedNet`, ``(..., features) -> (..., size)``.
        head: ``(..., size)`` -> distribution of features that are independent given it, with
            ``part(keep)``: a `pyro_vae.conditionals.Head`.
        parameters: what is added to the net's outputs, ``(..., size)``: a bias, or what a context
            says.
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012 (torch's own attribute)
    has_rsample = False

    def __init__(self, net: MaskedNet, head: Any, parameters: Tensor) -> None:
        self.net, self.head, self.parameters = net, head, parameters
        super().__init__(parameters.shape[:-1], torch.Size([head.features]), validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "Autoregressive":
        """Return the same distribution with a larger batch shape."""
        return Autoregressive(self.net, self.head, self.parameters.expand(*batch_shape, -1))

    @constraints.dependent_property(event_dim=1)
    def support(self) -> constraints.Constraint:
        """That of the head."""
        return self.head(self.parameters.new_zeros(self.parameters.shape[-1])).support

    @property
    def passes(self) -> int:
        """How many passes of the net a draw costs."""
        return self.net.passes

    def conditionals(self, value: Tensor) -> TorchDistribution:
        """Return the distribution of every feature given those before it in ``value``, ``(...,
        features)``; independent, as ``value`` is given.
        """
        return self.head(self.net(value) + self.parameters)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log density at ``value``, in nats."""
        return self.conditionals(value).log_prob(value)

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008 (torch's own default)
        """Return draws, ``sample_shape + batch_shape + (features,)``, a feature a step."""
        return self.complete(self.parameters.new_zeros(self._extended_shape(sample_shape)), 0)

    def complete(self, value: Tensor, known: int) -> Tensor:
        """Return ``value``, ``(..., features)``, with all but the first ``known`` features of the
        order drawn anew, given those: from their exact distribution.
        """
        with torch.no_grad():
            value = value.clone()
            added = self.parameters.unflatten(-1, (-1, self.head.features))  # (..., kinds, features)
            order = self.net.order.tolist()
            for place, (feature, said) in enumerate(zip(order, self.net.steps(value), strict=True)):
                if place >= known:
                    one = self.head.part([feature])(said + added[..., feature])
                    value[..., feature] = one.sample().squeeze(-1)
        return value


def by_feature(fn: Any, value: Tensor) -> Tensor | None:
    """Return log p of each feature of ``value``, ``(..., features)``, whose sum is ``log_prob``; None
    where a distribution does not fall apart so.

    Features are independent, or each is given those before it in an autoregressive order.
    """
    if isinstance(fn, Rescaled):
        inner = by_feature(fn.base_dist, (value - fn.loc) / fn.scale)
        return None if inner is None else inner - fn.scale.log()
    if isinstance(fn, Autoregressive):
        fn = fn.conditionals(value)
    if isinstance(fn, torch.distributions.Independent) and not fn.base_dist.event_shape:
        return fn.base_dist.log_prob(value) if fn.reinterpreted_batch_ndims == 1 else None
    return None
