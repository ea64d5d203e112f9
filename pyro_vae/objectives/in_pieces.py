"""Any objective, on a batch that is taken in pieces."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from pyro.infer import ELBO
from torch import Tensor

from pyro_vae.options import Count, checked


class InPieces(ELBO):
    """An objective whose gradient is added up over pieces of the batch, so that only one piece's
    intermediate values are in memory.

    The gradient is that of the whole batch, for programs in nats per datum: each piece counts by its
    share of the data. What looks at a batch as a whole sees a piece.

    Args:
        objective: a Pyro ELBO with ``differentiable_loss``.
        pieces: how many; fewer where a batch has fewer data.
    """

    @checked()
    def __init__(self, objective: ELBO, pieces: Count) -> None:
        super().__init__(num_particles=1)
        self.objective, self.pieces = objective, pieces

    def _get_trace(self, model: Callable, guide: Callable, args: Any, kwargs: Any) -> Any:
        return self.objective._get_trace(model, guide, args, kwargs)

    def loss_and_grads(self, model: Callable, guide: Callable, batch: Mapping[str, Tensor], /) -> Tensor:
        """Fill the parameters' ``grad`` and return the loss, a 0-dim tensor that can be recorded."""
        count = len(next(iter(batch.values())))
        rows = -(-count // self.pieces)
        total = torch.zeros(())
        for start in range(0, count, rows):
            piece = {name: field[start : start + rows] for name, field in batch.items()}
            share = len(next(iter(piece.values()))) / count
            loss = self.objective.differentiable_loss(model, guide, piece) * share  # type: ignore[attr-defined]
            loss.backward()
            total = total + loss.detach()
        return total

    def loss(self, model: Callable, guide: Callable, *args: Any, **kwargs: Any) -> float:
        """Return the loss of the whole batch as a number."""
        return self.objective.loss(model, guide, *args, **kwargs)
