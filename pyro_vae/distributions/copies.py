"""What is seen of variables: a copy of each, or nothing where it is missing."""

from collections.abc import Sequence
from typing import Any

import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor

IMPOSSIBLE = -1e30
"""The logarithm of a probability of 0: finite, so that products with 0 are 0, and below any other."""


class Copies(TorchDistribution):
    """x_i = v_i for every variable v_i, of which those not ``seen`` may be anything.

    log p is 0 where all that is seen agrees, and `IMPOSSIBLE` for each variable that does not. The
    variables keep their own shapes, so that values enumerated in parallel are not multiplied out
    before they have to be.

    Args:
        values: of each variable, whole numbers from 0; any shapes that broadcast.
        seen: which are seen, bool ``(..., variables)``; None for all.
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012 (torch's own attribute)

    def __init__(self, values: Sequence[Tensor], seen: Tensor | None = None, batch_shape: Any = None) -> None:
        self.values, self.seen = tuple(values), seen
        shape = torch.broadcast_shapes(*(value.shape for value in self.values)) if batch_shape is None else batch_shape
        super().__init__(torch.Size(shape), torch.Size([len(self.values)]), validate_args=False)

    @constraints.dependent_property(is_discrete=True, event_dim=1)
    def support(self) -> constraints.Constraint:
        """Whole numbers from 0."""
        return constraints.independent(constraints.nonnegative_integer, 1)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "Copies":
        """Return the same distribution with a larger batch shape."""
        return Copies(self.values, self.seen, batch_shape)

    @property
    def unmasked(self) -> "Copies":
        """The same with everything seen."""
        return Copies(self.values, None, self.batch_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return 0 where all that is seen agrees, and far below where something does not."""
        total = value.new_zeros(())
        for i, held in enumerate(self.values):
            wrong = (value[..., i] - held).abs() > 1e-3
            if self.seen is not None:
                wrong = wrong & self.seen[..., i]
            total = total + IMPOSSIBLE * wrong.to(value.dtype)
        return total.expand(torch.broadcast_shapes(total.shape, self.batch_shape))

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008 (torch's own default)
        """Return the values, ``sample_shape + batch_shape + (variables,)``, seen or not."""
        return self.mean.expand(*sample_shape, *self.batch_shape, -1)

    @property
    def mean(self) -> Tensor:
        """The values, ``batch_shape + (variables,)``."""
        both = torch.stack(torch.broadcast_tensors(*self.values), -1).to(torch.get_default_dtype())
        return both.expand(*self.batch_shape, -1)

    @property
    def variance(self) -> Tensor:
        """Zeros, ``batch_shape + (variables,)``: nothing is left to chance."""
        return torch.zeros_like(self.mean)
