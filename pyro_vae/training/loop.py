"""The training loop: epochs of steps, with validation, checkpoints, and stops on request."""

import math
import time
import warnings
from collections.abc import Sequence

import pyro
from torch import Tensor

from pyro_vae.data import Data, key
from pyro_vae.program import declared
from pyro_vae.runs import Run, checkpoint
from pyro_vae.training.feed import Feed
from pyro_vae.training.fitted import Fitted
from pyro_vae.training.interruption import SIGNALS, Interrupted, StopRequest
from pyro_vae.training.nonfinite import parameters
from pyro_vae.training.progress import Callback, Observer, figure_named
from pyro_vae.training.recovery import Recovery, RolledBack
from pyro_vae.training.run_state import Best, Keeper, State
from pyro_vae.training.trainer import Trainer
from pyro_vae.training.undo import Undo
from pyro_vae.training.validation import Validation

MAX_SECONDS = 1.0  # that many steps in one call take, before progress is shown


class Loop:
    """One training run."""

    def __init__(
        self, trainer: Trainer, data: Data, run: Run | None, observer: Observer, callbacks: Sequence[Callback] = ()
    ) -> None:
        self.trainer, self.data, self.run, self.observer = trainer, data, run, observer
        self.callbacks = callbacks
        self.pair, self.training, self.world = trainer.pair, trainer.training, trainer.world
        self.state = State()
        self.keeper = Keeper(self.trainer, self.state, run, self._note)
        self.recovery = Recovery(self.keeper)
        self.undo = Undo(self.trainer, self.state)
        self.validation = Validation(self.trainer, data)
        self.request = StopRequest()
        self.yields = declared(self.pair.objective)
        observer.figure = self.yields.shown

    def train(self, resume: bool) -> Fitted:
        """Train to the end and return the pair with its best parameters."""
        begun = time.monotonic()
        self._seed()
        if resume:
            self.keeper.restore()
        self.observer.start(self.training.epochs, self.trainer.steps_per_epoch, self.state.epoch)
        with self.request.listening(), pyro.validation_enabled(False), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Encountered ")  # Pyro's, of a non-finite loss: ours is an error
            warnings.filterwarnings("ignore", ".* because requires_grad=False")  # Pyro's, of parts that are frozen
            self.pair.train(True)
            try:
                while self.state.epoch < self.training.epochs and not self._out_of_patience():
                    self._one_epoch()
                self.keeper.save()
                self.world.wait()  # none leaves before the checkpoint is written: its end would end the others
            finally:
                self.pair.train(False)
                self.observer.stop()
        state, best = self.state, self.state.best.parameters
        if best:
            self.pair.load_state_dict(best)
        seconds, compiled = time.monotonic() - begun, self.trainer.stepper.compiled
        counts = (state.epoch, state.step, seconds, compiled)
        return Fitted(self.pair, self.data, state.history, *counts, self.run, self.training)

    def _seed(self) -> None:
        """Seed each process differently; the first draws what a single process would."""
        if self.world.rank > 0:
            checkpoint.seed_all(key("draws", self.training.seed, self.world.rank) >> 1)

    def _note(self, text: str) -> None:
        if self.world.rank == 0:
            self.observer.note(text)

    def _out_of_patience(self) -> bool:
        patience = self.training.patience
        return patience is not None and self.state.epoch - 1 - self.state.best.epoch >= patience

    def _one_epoch(self) -> None:
        state = self.state
        if self.training.on_nonfinite == "rollback" and (self.keeper.good is None or state.position == 0):
            self.keeper.mark()
        batches = self.data.epoch(
            state.epoch,
            self.trainer.rows,
            seed=self.training.seed,
            start=state.position,
            rank=self.world.rank,
            world=self.world.size,
        )
        try:
            with Feed(batches, self.trainer.device, self.trainer.dtype) as feed:
                while ready := feed.peek():
                    if self.trainer.in_blocks and not self.undo.steps_singly:
                        feed.advance(self._many_steps(ready))
                    else:
                        self.undo.prepare(begins=feed.place == 0)
                        feed.advance(self._one_step({name: values[0] for name, values in ready.items()}))
                    self._save_or_stop()
        except RolledBack:
            return
        self._validate()
        state.epoch, state.position, state.skipped, state.loss_sum = state.epoch + 1, 0, 0, 0.0
        if self.trainer.exchange is None:
            self._save_or_stop()

    def _many_steps(self, batches: dict[str, Tensor]) -> int:
        """Take steps on a block of batches until it ends or something else is due; return how many.

        If one of them comes to nothing that is none, and they are to be taken one by one.
        """
        state = self.state
        late = time.monotonic() + MAX_SECONDS
        until = lambda: self._wanted() or time.monotonic() > late  # noqa: E731
        losses = self.trainer.steps(batches, state.step, state.rollbacks, until)
        if losses is None:
            self.undo.step_singly(len(next(iter(batches.values()))))
            return 0
        for loss in losses:
            self._enter(loss)
        self.undo.forget()
        return len(losses)

    def _wanted(self) -> bool:
        """Return whether to stop, or to save, now."""
        return self.request.signum is not None or self.keeper.due()

    def _enter(self, loss: float) -> None:
        """Count a step and its loss."""
        state = self.state
        state.loss_sum += loss
        state.in_a_row = 0
        self.observer.step(state.epoch, state.position + 1, loss)
        state.step += 1
        state.position += 1

    def _one_step(self, batch: dict[str, Tensor]) -> int:
        """Take a step; return by how many batches to advance, fewer than none if it was undone."""
        state, exchange = self.state, self.trainer.exchange
        if exchange is not None:
            exchange.weight = len(batch["x"])
            asks = [self.world.rank == 0 and self.keeper.due(), *(self.request.signum == s for s in SIGNALS)]
            exchange.votes = list(map(float, asks))
        before = self.recovery.before()
        taken = self.trainer.step(batch, state.step, state.rollbacks)
        if taken.finite and taken.sound:
            self._enter(taken.loss)
            return 1
        overflow = parameters(self.trainer.watched) if taken.finite else None
        if taken.finite and (back := self.undo.undo()):
            return -back
        self.undo.forget()
        self.recovery.recover(batch, taken.loss, before, overflow)
        state.step += 1
        state.position += 1
        return 1

    def _save_or_stop(self) -> None:
        """Save if it is time, and stop if asked to; several processes do either after the same
        step.
        """
        exchange = self.trainer.exchange
        if exchange is None:
            due, stop = self.keeper.due(), self.request.signum
        else:
            saving, *signals = exchange.counted
            due, stop = saving > 0, next((s for s, count in zip(SIGNALS, signals, strict=True) if count), None)
        if due or stop is not None:
            self.keeper.save()
        if stop is not None:
            self.world.wait()
            raise Interrupted(stop, self.run)

    def _never_best(self, value: float, whole: bool) -> str:
        """Say that the figure of the epoch that ends is not finite, and because of which datum.

        ``whole`` says that it has no parts.
        """
        name = figure_named(self.yields.shown, self.validation.meaning(), whole)
        split, never = self.validation.split, self.validation.impossible() if value == -math.inf else None
        why = "" if never is None else f": the model gives datum {never} of it probability 0"
        return (
            f"after epoch {self.state.epoch + 1} {name} = {value} on the {split} split{why}; "
            "such an epoch cannot be the best"
        )

    def _validate(self) -> None:
        """Enter the epoch's figures into the history, and its parameters as the best if they are."""
        with self.trainer.judged():
            self._judge()

    def _judge(self) -> None:
        state, epoch = self.state, self.state.epoch
        value, reconstruction, kl = self.validation.measure()
        row = {
            "epoch": epoch + 1,
            "step": state.step,
            "loss": state.loss_sum / max(1, state.position - state.skipped),
            "elbo": value if self.yields.is_elbo else math.nan,
            "reconstruction": reconstruction,
            "kl": kl,
            "beta": self.trainer.beta.item(),
            "lr": self.trainer.optimizer.param_groups[0]["lr"],
            **({} if self.yields.is_elbo else {"figure": value}),
            **self.validation.codes(),
            **getattr(self.trainer.stepper, "figures", {}),
        }
        before = [old["elbo" if self.yields.is_elbo else "figure"] for old in state.history[-1:]]
        state.history.append(row)
        if not math.isfinite(value) and all(map(math.isfinite, before)):  # said once, not after every epoch
            self._note(self._never_best(value, math.isnan(kl)))
        better = math.isfinite(value) and (value > state.best.elbo or not self.yields.figure.comparable)
        if better:
            parameters = {name: tensor.cpu().clone() for name, tensor in self.pair.state_dict().items()}
            state.best = Best(value, epoch, parameters)
        self.observer.epoch(row)
        if self.world.rank == 0:
            for callback in self.callbacks:
                with checkpoint.seeded(self.training.seed), self.pair.evaluating():
                    callback(dict(row), self.pair)
