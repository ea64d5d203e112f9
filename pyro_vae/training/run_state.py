"""The state of a training run, kept in memory for rollbacks and in the run folder for resuming."""

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor

from pyro_vae.runs import Run, checkpoint
from pyro_vae.svi import World
from pyro_vae.training.machine import machine
from pyro_vae.training.trainer import Trainer

SAVING_SHARE = 20  # a checkpoint is due no sooner than 20 times the time that the last one took: 5% of the time at most
_OWN = ("random", "svi")  # what a state holds that differs between processes
_COUNTS = ("epoch", "position", "step", "loss_sum", "skipped", "in_a_row", "rollbacks")


class Unsaved(OSError):
    """A checkpoint could not be written; the last good one is still there."""


class Best(NamedTuple):
    """The best epoch so far."""

    elbo: float = -math.inf
    epoch: int = -1
    parameters: dict[str, Tensor] | None = None


@dataclass
class State:
    """Where the loop is; everything but what `Trainer` holds.

    Attributes:
        epoch: epochs done.
        position: batches done of the next.
        step: steps taken in all.
        loss_sum: of the losses of this epoch.
        skipped: batches of this epoch that were passed over because of a non-finite loss or
            gradient.
        in_a_row: how many of them were the last ones.
        rollbacks: how often the run went back to an epoch's beginning.
        history: a row per epoch.
        best: the best epoch.
    """

    epoch: int = 0
    position: int = 0
    step: int = 0
    loss_sum: float = 0.0
    skipped: int = 0
    in_a_row: int = 0
    rollbacks: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    best: Best = field(default_factory=Best)

    def state_dict(self) -> dict[str, Any]:
        """Return it as plain values and tensors."""
        elbo, epoch, parameters = self.best
        counts = {name: getattr(self, name) for name in _COUNTS}
        return {**counts, "history": list(self.history), "best": (elbo, epoch, parameters or {})}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what ``state_dict`` returned."""
        for name in _COUNTS:
            setattr(self, name, state[name])
        self.history = list(state["history"])
        elbo, epoch, parameters = state["best"]
        self.best = Best(elbo, epoch, parameters or None)


class Keeper:
    """Keeps the state of a run.

    Args:
        trainer: what a step changes.
        state: where the loop is.
        run: the folder to write to, or None.
        note: says a sentence to the user.

    Attributes:
        good: the state that a rollback goes back to, None where there is none.
    """

    def __init__(self, trainer: Trainer, state: State, run: Run | None, note: Callable[[str], None]) -> None:
        self.trainer, self.state, self.run, self.note = trainer, state, run, note
        self.good: dict[str, Any] | None = None
        self._best_written = -1
        self._saved: tuple[int, int] | None = None  # (epoch, step) of the last checkpoint
        self._saved_at, self._save_took = time.monotonic(), 0.0
        self._began = time.monotonic()
        self._before: float | None = 0.0  # seconds of training before that; None where they are not known

    @property
    def world(self) -> World:
        """The processes of this job."""
        return self.trainer.world

    def collect(self) -> dict[str, Any]:
        """Return the whole state; tensors are those in use, not copies."""
        return {**self.state.state_dict(), **self.trainer.state_dict()}

    def apply(self, state: dict[str, Any]) -> None:
        """Set the run to a whole state."""
        self.state.load_state_dict(state)
        self.trainer.load_state_dict(state)

    def mark(self) -> None:
        """Keep the present state as the one that a rollback goes back to."""
        self.good = copy.deepcopy(self.collect())

    def due(self) -> bool:
        """Return whether it is time for a checkpoint."""
        every = self.trainer.training.save_every
        past = time.monotonic() - self._saved_at
        return self.run is not None and (every == 0 or past > max(every, SAVING_SHARE * self._save_took))

    def save(self) -> None:
        """Write the state, on process 0, with what is each process's own; nothing if it is written
        already.

        Raises:
            Unsaved: it cannot be written.
        """
        if self.run is None or self._saved == (self.state.epoch, self.state.step):
            return
        state, good = self._of_all(self.collect()), None if self.good is None else self._of_all(self.good)
        began = time.monotonic()
        if self.world.rank == 0:
            try:
                self._write(self.run, {**state, "good": good})
            except OSError as error:
                last = f"is of step {self._saved[1]}" if self._saved else "is the one before this start, if any"
                raise Unsaved(
                    f"cannot save to {self.run} at step {self.state.step}: {error.strerror}; "
                    f"the last good checkpoint {last}: make room and go on with `pyro-vae resume {self.run}`"
                ) from error
        self._saved_at = time.monotonic()
        self._save_took, self._saved = self._saved_at - began, (self.state.epoch, self.state.step)

    def _write(self, run: Run, state: dict[str, Any]) -> None:
        best = self.state.best
        if best.parameters and best.epoch != self._best_written:
            run.save_best({"parameters": best.parameters, "epoch": best.epoch + 1, "elbo": best.elbo})
            self._best_written = best.epoch
        run.write_history(self.state.history)
        seconds = None if self._before is None else self._before + time.monotonic() - self._began
        run.remember(seconds, self.state.step, machine(self.trainer.device))
        run.save(state)

    def restore(self) -> None:
        """Go on from the last checkpoint; from the beginning if the run was killed before its
        first.
        """
        run = self.run
        assert run is not None
        if not self.world.first(lambda: run.begun):
            self.note(f"{run} has no checkpoint yet: beginning anew")
            return
        state, passed_over = self.world.first(run.load)
        if passed_over:
            self.note(f"{passed_over}; going on from the checkpoint before it")
        if len(state["random"]) != self.world.size:
            self.note(
                f"{run} was trained by {len(state['random'])} processes and goes on with {self.world.size}: the draws "
                "will be others"
            )
        self.good = None if state["good"] is None else self._of_this(state["good"])
        self.apply(self._of_this(state))
        self._saved = self.state.epoch, self.state.step
        self._before = self.world.first(lambda: run.time_up_to(self.state.step))

    def _of_all(self, state: dict[str, Any]) -> dict[str, Any]:
        """Return the state with every process's draws and counts, by rank.

        The shares of a batch differ in shape, and counts go by shape.
        """
        every = self.world.gather({name: state[name] for name in _OWN})
        return {**state, **{name: [own[name] for own in every] for name in _OWN}}

    def _of_this(self, state: dict[str, Any]) -> dict[str, Any]:
        """Return the state of all as this process's; a process that was not there keeps its draws."""
        rank, random = self.world.rank, state["random"]
        own = random[rank] if rank < len(random) else checkpoint.random_state()
        return {**state, "random": own, "svi": state["svi"][min(rank, len(state["svi"]) - 1)]}
