"""A distribution with a term added to its log-probability."""

from collections.abc import Callable
from typing import Any

import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor


class Tilted(TorchDistribution):
    """``base`` with log p(v) + ``term(v)`` in place of log p(v); not normalised again.

    With a term that is 0 and carries a gradient, the gradient of an ELBO is an expectation under
    the posterior: that of what the term is the derivative of.

    Args:
        base: any distribution, from which draws are.
        term: ``value -> (...)``, of the batch shape or one that broadcasts to it.
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012 (torch's own attribute)

    def __init__(self, base: TorchDistribution, term: Callable[[Tensor], Tensor]) -> None:
        self.base_dist, self.term = base, term
        super().__init__(base.batch_shape, base.event_shape, validate_args=False)

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        """Whether draws carry gradients: as the base's."""
        return self.base_dist.has_rsample

    @property
    def has_enumerate_support(self) -> bool:  # type: ignore[override]
        """Whether all values can be listed: as the base's."""
        return self.base_dist.has_enumerate_support

    @constraints.dependent_property
    def support(self) -> constraints.Constraint:
        """The base's."""
        return self.base_dist.support

    def expand(self, batch_shape: Any, _instance: Any = None) -> "Tilted":
        """Return the same distribution with a larger batch shape."""
        return Tilted(self.base_dist.expand(torch.Size(batch_shape)), self.term)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the base's log-probability and the term, in nats."""
        return self.base_dist.log_prob(value) + self.term(value)

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """Return all values, as the base does."""
        return self.base_dist.enumerate_support(expand)

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008 (torch's own default)
        """Return draws of the base."""
        return self.base_dist.sample(sample_shape)

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008 (torch's own default)
        """Return draws of the base that gradients pass through."""
        return self.base_dist.rsample(sample_shape)
