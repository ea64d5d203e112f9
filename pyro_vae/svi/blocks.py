"""Many steps in one call: what changes from step to step is given beforehand, as one number per step."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from pyro.optim import PyroOptim
from torch import Tensor
from torch.optim import Optimizer


@dataclass(frozen=True, eq=False)
class Schedule:
    """What differs between the steps of one call besides the data.

    Args:
        lr: learning rate of every parameter group at each step, ``(steps,)``; torch optimizers only.
        values: pairs of a tensor that the programs read and what is written into it before each step,
            ``(steps, ...)``, such as the weight of the KL.
    """

    lr: Tensor | None = None
    values: Sequence[tuple[Tensor, Tensor]] = ()

    def begin(self, optim: PyroOptim | Optimizer, steps: int) -> Callable[[], None]:
        """Return what sets the numbers of the next of so many steps.

        Raises:
            ValueError: it has not one number per step, or learning rates for a Pyro optimizer.
        """
        sizes = [
            len(t) if t.dim() else 0 for t in (*(() if self.lr is None else (self.lr,)), *(v for _, v in self.values))
        ]
        if any(size != steps for size in sizes):
            raise ValueError(
                f"the schedule has {sizes} numbers, and the data are of {steps} steps; give one for each step"
            )
        if self.lr is not None and not isinstance(optim, Optimizer):
            raise ValueError(
                "a schedule of lr needs a torch optimizer, and optim is a Pyro one; use one of pyro.optim's schedulers"
            )
        rates = iter([] if self.lr is None else self.lr.tolist())
        rows = [(tensor, iter(values.unbind())) for tensor, values in self.values]

        def prepare() -> None:
            rate = next(rates, None)
            if rate is not None and isinstance(optim, Optimizer):
                for group in optim.param_groups:
                    group["lr"] = rate
            with torch.no_grad():
                for tensor, row in rows:
                    tensor.copy_(next(row))

        return prepare
