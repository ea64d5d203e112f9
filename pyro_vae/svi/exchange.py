"""The processes that train one pair, seen from one of them, and how they add up their gradients.

docs/scale.md has the arithmetic.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.nn  # imported later, its functions would hold the group, and with it threads, past the end
from torch import Tensor


class FailedOnFirstProcess(Exception):
    """Process 0 has failed and says why; the others have nothing to add."""


class ProcessLost(RuntimeError):
    """Another process of the job ended, or cannot be reached any more."""


@dataclass(frozen=True)
class World:
    """The processes of this job, seen from one of them."""

    rank: int = 0
    size: int = 1
    device: torch.device | None = None
    """The one that Fabric chose for this process; None when it is alone."""

    def first(self, action: Callable[[], Any]) -> Any:
        """Return what ``action`` returns on process 0, on every process.

        Raises:
            FailedOnFirstProcess: on the others, when it raised there.
        """
        if self.size == 1:
            return action()
        outcome: list[Any] = [None]
        if self.rank == 0:
            try:
                outcome = [(action(), None)]
            except Exception as error:
                dist.broadcast_object_list([(None, str(error))], device=self._talks_on())
                raise
        with lost(self):
            dist.broadcast_object_list(outcome, device=self._talks_on())
        value, failure = outcome[0]
        if failure is not None:
            raise FailedOnFirstProcess(failure)
        return value

    def gather(self, value: Any) -> list[Any]:
        """Return the values of all processes, by rank."""
        if self.size == 1:
            return [value]
        values = [None] * self.size
        with lost(self):
            dist.all_gather_object(values, value)
        return values

    def add(self, numbers: Sequence[float]) -> list[float]:
        """Return the sums over the processes, in double precision."""
        if self.size == 1:
            return list(numbers)
        total = torch.tensor(numbers, dtype=torch.float64, device=self._talks_on())
        with lost(self):
            dist.all_reduce(total)
        return total.tolist()

    def share(self, tensors: Sequence[Tensor]) -> None:
        """Write process 0's values into every process's ``tensors``."""
        with lost(self), torch.no_grad():
            for tensor in tensors:
                dist.broadcast(tensor.data, 0)

    def wait(self) -> None:
        """Return when every process is here."""
        self.add([0.0])

    def _talks_on(self) -> torch.device:
        return self.device if self.device is not None and dist.get_backend() == "nccl" else torch.device("cpu")


class Exchange:
    """Makes one process's loss and gradients those of the global batch, between gradients and update of `SVI`.

    With b_r data on process r and B = sum b_r, the loss of the global batch in nats per datum is sum_r b_r/B loss_r, and its
    gradient likewise. Buffers that training changes (running averages) become process 0's after every step, as in
    DistributedDataParallel. Everything travels in one all-reduce, together with what the processes want of each other.

    Args:
        world: the processes.
        buffers: tensors that training may change and that are no parameters.
        votes: how many numbers each process contributes to every step.

    Attributes:
        weight: number of data of this process's share; to be set before each step.
        votes: numbers that this process contributes to the next step.
        counted: their sums over the processes at the last step.
    """

    def __init__(self, world: World, buffers: Sequence[Tensor], votes: int = 0) -> None:
        self.world = world
        self.buffers = [buffer for buffer in buffers if buffer.is_floating_point()]
        self.weight = 1
        self.votes = [0.0] * votes
        self.counted = [0.0] * votes

    def add_up(self, loss: Tensor, params: Sequence[Tensor]) -> Tensor:
        """Write the global batch's gradients into the parameters' ``grad``, and process 0's buffers into the buffers; return its loss."""
        device = params[0].device if params else loss.device  # an eager loss is a number
        kind = torch.float32
        for tensor in (*params, *self.buffers):  # not the loss, whose type differs between eager and recorded steps
            kind = torch.promote_types(kind, tensor.dtype)
        told = torch.tensor([float(fact) for fact in (self.weight, *(p.grad is not None for p in params), *self.votes)])
        with torch.no_grad():
            weighted = [*(torch.zeros_like(p) if p.grad is None else p.grad for p in params), loss]
            buffers = [b if self.world.rank == 0 else torch.zeros_like(b) for b in self.buffers]
            everything = [*weighted, *buffers, told]
            sums = torch.cat([t.detach().to(device, kind).flatten() for t in everything])
            sums[: sum(t.numel() for t in weighted)] *= self.weight
            if self.world.size > 1:
                with lost(self.world):
                    dist.all_reduce(sums)
            pieces = sums.split([t.numel() for t in everything])
            return self._hand_out(params, [piece.view(t.shape) for piece, t in zip(pieces, everything, strict=True)])

    def _hand_out(self, params: Sequence[Tensor], sums: Sequence[Tensor]) -> Tensor:
        """Write what was added up into gradients and buffers; return the loss."""
        weight, (_, *flags) = sums[-1][0], sums[-1].tolist()
        self.counted = flags[len(params) :]
        for p, total, reached in zip(params, sums, flags, strict=False):
            p.grad = torch.empty_like(p).copy_(total / weight) if reached else None
        for buffer, first in zip(self.buffers, sums[len(params) + 1 :], strict=False):
            buffer.copy_(first)
        return sums[len(params)] / weight


@contextmanager
def lost(world: World) -> Iterator[None]:
    """Say in one sentence what torch.distributed says in a page when a process has gone."""
    try:
        yield
    except RuntimeError:
        raise ProcessLost(
            f"process {world.rank} of {world.size} cannot reach another process of the job, which has ended "
            "(its own message is above) or hangs; nothing that was saved is lost"
        ) from None
