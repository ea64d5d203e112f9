"""Binary vectors, whose log-probabilities under a few sets of logits are products of matrices."""

import math
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import Independent
from torch import Tensor
from torch.nn.functional import logsigmoid


class BinaryVector(Independent):
    """Independent features in {0, 1}: ``Bernoulli(logits).to_event(1)``.

    Where each of a few sets of logits meets each of many data, as when components are enumerated,
    log-probabilities are (components x features) (features x data), and no array of all three is
    made.

    Args:
        logits: ``(..., features)``.
    """

    def __init__(self, logits: Tensor) -> None:
        super().__init__(dist.Bernoulli(logits=logits), 1)
        self._distinct = logits  # as they were before the batch shape grew

    def expand(self, batch_shape: Any, _instance: Any = None) -> "BinaryVector":
        """Return the same distribution with a larger batch shape."""
        new = BinaryVector(self.base_dist.logits.expand(*batch_shape, -1))
        new._distinct = self._distinct
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-probability in nats: the batch shapes, broadcast."""
        logits, rows = self._distinct, value.dim() - 1
        sets = logits.shape[: max(0, logits.dim() - 1 - rows)]
        if not 1 < math.prod(sets) == math.prod(logits.shape[:-1]):
            return super().log_prob(value)
        if self.base_dist._validate_args:
            self.base_dist._validate_sample(value)
        few, many = logits.flatten(0, -2), value.flatten(0, -2)
        found = logsigmoid(few) @ many.T + logsigmoid(-few) @ (1 - many).T
        found = found.reshape(*sets, *value.shape[:-1])
        return found.expand(torch.broadcast_shapes(found.shape, self.batch_shape))
