"""Many steps in one call: what changes from step to step is given beforehand, as one number per step."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from pyro.optim import PyroOptim
from torch import Tensor
from torch.optim import Optimizer

from pyro_vae.compiled import rebuilt, signature
from pyro_vae.svi.eager import InvalidData


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


class Steps(Protocol):
    """What many steps need to know of their SVI."""

    optim: PyroOptim | Optimizer
    finite: Tensor

    def update(self, *args: Any, **kwargs: Any) -> Any:
        """Take a step; return the loss."""

    def ahead(self, most: int, tensors: Sequence[Tensor]) -> int:
        """Return how many steps may follow the last one without anything being looked at."""

    def run_on(
        self, slices: Sequence[Sequence[Tensor]], prepare: Callable[[], None], until: Callable[[], bool]
    ) -> list[Any]:
        """Take them, until told to stop; return their losses."""


def never() -> bool:
    """Return False: nothing stops the steps."""
    return False


def take(svi: Steps, args: Any, kwargs: Any, schedule: Schedule, until: Callable[[], bool]) -> Any:
    """Take a step on each slice of the data; see `SVI.steps`."""
    _, tensors = signature(args, kwargs)
    sizes = sorted({t.shape[0] if t.dim() else 0 for t in tensors})
    if len(sizes) != 1 or sizes == [0]:
        raise ValueError(
            f"the tensors have first dims {sizes}; give each one slice for each step, (steps, ...), "
            "and step() a single batch"
        )
    slices = list(zip(*(t.unbind() for t in tensors), strict=True))
    prepare = schedule.begin(svi.optim, len(slices))
    losses: list[Any] = []
    finite = []
    stopped = False

    def stop() -> bool:
        nonlocal stopped
        stopped = until()
        return stopped

    while len(losses) < len(slices) and not stopped:
        prepare()
        one = iter(slices[len(losses)])
        losses.append(svi.update(*rebuilt(args, one), **rebuilt(kwargs, one)))
        finite.append(svi.finite)
        ahead = 0 if stop() else svi.ahead(len(slices) - len(losses), tensors)
        if ahead:
            try:
                losses += svi.run_on(slices[len(losses) : len(losses) + ahead], prepare, stop)
            except InvalidData as invalid:
                one = iter(slices[len(losses) + invalid.step])
                svi.update(*rebuilt(args, one), **rebuilt(kwargs, one))  # raises what Pyro raises
                raise
            finite.append(svi.finite)
    svi.finite = torch.stack(finite).all()
    if isinstance(losses[0], tuple):
        return tuple(torch.stack(each) for each in zip(*losses, strict=True))
    return torch.stack(losses)
