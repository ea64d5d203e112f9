"""Handling of a non-finite loss or gradient: find its cause, keep the batch; stop, skip or go back."""

import copy
import math
from typing import NamedTuple, NoReturn

import torch
from torch import Tensor

from pyro_vae.runs import checkpoint
from pyro_vae.training.devices import generators, set_generators
from pyro_vae.training.nonfinite import NonFinite, explain
from pyro_vae.training.run_state import Keeper

MAX_SKIPPED = 10  # batches in a row: more are no accident of the data
MAX_ROLLBACKS = 10  # each halves the learning rate

Batch = dict[str, Tensor]


class RolledBack(Exception):
    """The state has been set back to an epoch's beginning."""


class Before(NamedTuple):
    """What a step draws from and overwrites without it being part of the update."""

    random: list[Tensor]
    buffers: list[Tensor]


class Cause(NamedTuple):
    """What was found to blame."""

    site: str | None
    reason: str
    batch: Batch
    """On the CPU."""
    rank: int
    """The process that had it."""


class Recovery:
    """The policy ``on_nonfinite`` of a run.

    Args:
        keeper: of the run's state.
    """

    def __init__(self, keeper: Keeper) -> None:
        self.keeper, self.trainer, self.state = keeper, keeper.trainer, keeper.state
        self._buffers = list(self.trainer.pair.named_buffers().values())

    def before(self) -> Before:
        """Return the random state and the buffers before a step."""
        return Before(generators(self.trainer.device), [b.clone() for b in self._buffers])

    def recover(self, batch: Batch, loss: float, before: Before, overflow: str | None = None) -> None:
        """Follow the policy after a step with a non-finite loss or gradient, or a non-finite update.

        Args:
            batch: of the step.
            loss: of the step.
            before: what the step began with.
            overflow: which parameter the update made non-finite, in words; it has been undone.

        Raises:
            NonFinite: the policy is to stop, or skipping or going back did not help.
            RolledBack: the state is that of the epoch's beginning.
        """
        cause = self._cause(batch, before, overflow)
        what = "the gradient is not finite" if math.isfinite(loss) else f"the loss is {loss}"
        what = "the update is not finite" if overflow else what
        state, world = self.state, self.trainer.world
        where = f"at step {state.step} (epoch {state.epoch + 1}, batch {state.position + 1})"
        where += f" in process {cause.rank}" if world.size > 1 else ""
        kept, said = self._keep(cause, before), f"{what} {where}: {cause.reason}"
        policy = self.trainer.training.on_nonfinite
        if policy == "skip" and state.in_a_row < MAX_SKIPPED:
            state.skipped, state.in_a_row = state.skipped + 1, state.in_a_row + 1
            self.keeper.note(f"{said}; batch skipped{kept}")
        elif policy == "rollback" and self.keeper.good is not None and state.rollbacks < MAX_ROLLBACKS:
            rollbacks = state.rollbacks + 1
            self.keeper.apply(copy.deepcopy(self.keeper.good))
            state.rollbacks = rollbacks
            begin = f"the beginning of epoch {state.epoch + 1}"
            self.keeper.note(f"{said}{kept}; going back to {begin} at half the learning rate")
            raise RolledBack
        else:
            self._give_up(said, kept, cause)

    def _give_up(self, said: str, kept: str, cause: Cause) -> NoReturn:
        state, policy = self.state, self.trainer.training.on_nonfinite
        tried = {
            "stop": "",
            "skip": f", after {state.in_a_row} batches in a row were skipped",
            "rollback": f", after going back {state.rollbacks} times",
        }[policy]
        advice = "lower --lr, set --clip, or look at the batch" + kept
        other = ", or pass over such batches with --on-nonfinite skip" if policy == "stop" else ""
        message = f"{said}{tried}; {advice}{other}"
        raise NonFinite(message, site=cause.site, step=state.step, epoch=state.epoch + 1, batch=cause.batch)

    def _keep(self, cause: Cause, before: Before) -> str:
        """Write the batch and what repeats the failure into the run folder; say where."""
        run, trainer = self.keeper.run, self.trainer
        if run is None:
            return ""
        path = run.folder / "bad_batch.pt"
        if trainer.world.rank == 0:
            parameters = {name: tensor.cpu() for name, tensor in trainer.pair.state_dict().items()}
            facts = {"step": self.state.step, "epoch": self.state.epoch + 1}
            found = {"site": cause.site, "reason": cause.reason, "batch": cause.batch}
            checkpoint.save(path, {**facts, **found, "parameters": parameters, "random": before.random})
        return f" (kept in {path})"

    def _cause(self, batch: Batch, before: Before, overflow: str | None) -> Cause:
        if overflow is not None:
            mine = {name: value.cpu() for name, value in batch.items()}
            return Cause(None, f"after it, {overflow}", mine, self.trainer.world.rank)
        drawn = generators(self.trainer.device)
        cause = self._explain(batch, before)
        set_generators(self.trainer.device, drawn)
        return cause

    def _explain(self, batch: Batch, before: Before) -> Cause:
        """Recompute the step with the same draws, and find where it becomes non-finite."""
        trainer = self.trainer
        self._put_back(before)
        try:
            run = explain(lambda: trainer.stepper.gradients((batch,), {}), trainer.pair.named_parameters())
            site, reason, sound = *run, True
        except Exception as error:  # the program itself may fail on such numbers
            site, reason, sound = None, f"an eager run fails: {str(error).splitlines()[0]}", False
        self._put_back(before)
        trainer.optimizer.zero_grad()
        guilty = site is not None or not sound or "every site" not in reason
        mine = {name: value.cpu() for name, value in batch.items()}
        found = trainer.world.gather((guilty, site, reason, mine if guilty or trainer.world.size == 1 else None))
        culprit = next((rank for rank, (bad, *_) in enumerate(found) if bad), 0)
        _, site, reason, theirs = found[culprit]
        return Cause(site, reason, theirs or mine, culprit)

    def _put_back(self, before: Before) -> None:
        set_generators(self.trainer.device, before.random)
        with torch.no_grad():
            for buffer, old in zip(self._buffers, before.buffers, strict=True):
                buffer.copy_(old)
