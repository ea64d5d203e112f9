"""A running average of the parameters, which is judged and kept in their place."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from pyro_vae.program import Pair


class Average:
    """The exponential moving average of a pair's parameters, as they are trained (unconstrained).

    After step t it moves by 1 - min(decay, (1 + t) / (10 + t)) of the way to the parameters, so that
    what they began with is soon forgotten. Buffers are not averaged.

    *Acceleration of Stochastic Approximation by Averaging (Polyak & Juditsky, 1992)*.

    Args:
        pair: whose parameters they are.
        decay: of a step, at least 0 and below 1.
    """

    def __init__(self, pair: Pair, decay: float) -> None:
        self.decay, self.steps = decay, 0
        self._parameters: list[Tensor] = list(pair.named_parameters().values())
        self._values = [p.detach().clone() for p in self._parameters]

    @torch.no_grad()
    def update(self) -> None:
        """Take the parameters after a step into the average."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        torch._foreach_lerp_(self._values, self._parameters, 1 - decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Let the pair have the averages as its parameters for a while."""
        with torch.no_grad():
            trained = [p.clone() for p in self._parameters]
            torch._foreach_copy_(self._parameters, self._values)
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(self._parameters, trained)

    def state_dict(self) -> dict[str, Any]:
        """Return the averages, in the order of the parameters; copies."""
        return {"steps": self.steps, "values": [value.clone() for value in self._values]}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what ``state_dict`` returned."""
        self.steps = state["steps"]
        torch._foreach_copy_(
            self._values, [value.to(own) for value, own in zip(state["values"], self._values, strict=True)]
        )
