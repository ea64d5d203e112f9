"""The only training loop."""

import copy
import math
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import pyro
import torch
from torch import Tensor

from pyro_vae import checkpoint
from pyro_vae.aggregate import MaximumMeanDiscrepancy, TotalCorrelation
from pyro_vae.binarize import key
from pyro_vae.bounds import Bound, ReweightedWakeSleep
from pyro_vae.checking import require_sound
from pyro_vae.data import Data
from pyro_vae.distributed import Exchange, World
from pyro_vae.evaluation import bound
from pyro_vae.handlers import FreeBits, PerDatum, Tempered, Wrapped
from pyro_vae.nonfinite import NonFinite, explain
from pyro_vae.pairing import Pair
from pyro_vae.pathwise import PathDerivative
from pyro_vae.progress import Progress
from pyro_vae.runs import Run
from pyro_vae.settings import SCHEDULES, SettingsError, Training, optimizer, optimizer_state
from pyro_vae.svi import SVI

if TYPE_CHECKING:
    from pyro_vae.training import Fitted

CHECKED_BATCH = 16  # data that the pair is tried on before the first step
VALIDATION_ROWS = 1000
SAVING_SHARE = 20  # a checkpoint is due no sooner than 20 times the time that the last one took: 5% of the time at most
MOST_SKIPPED = 10  # batches in a row: more are no accident of the data
MOST_ROLLBACKS = 10  # each halves the learning rate
_OWN = ("random", "svi")  # what a state holds that differs between processes
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(Exception):
    """Training was asked to stop, and has saved what resuming needs."""

    def __init__(self, signum: int, run: Run | None) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name}")
        self.signum = signum
        self.run = run


class Unsaved(OSError):
    """A checkpoint could not be written; the last good one is still there."""


class _Back(Exception):
    """The state has been set back to an epoch's beginning."""


class Loop:
    """One training run: state, and the steps that change it."""

    def __init__(
        self, pair: Pair, data: Data, training: Training, run: Run | None, observer: Progress, world: World
    ) -> None:
        self.pair, self.data, self.training, self.run, self.observer = pair, data, training, run, observer
        self.world = world
        self.device = possible(training, data, world)
        self.dtype = torch.float64 if training.precision == "64" else torch.float32
        _convert(pair, self.device, self.dtype)
        require_sound(pair, self._place(data.batch("train", CHECKED_BATCH)))
        self.steps_an_epoch = data.num_batches(training.batch_size)
        self.steps = training.epochs * self.steps_an_epoch
        self.beta = torch.tensor(training.beta, dtype=self.dtype, device=self.device)
        self.optimizer = optimizer(training.optimizer, list(pair.named_parameters().values()), training.lr)
        self.exchange = self._join() if world.size > 1 else None
        self.svi = SVI(
            *_weighed(pair, training, data.size("train"), self.beta, self.device),
            self.optimizer,
            pair.objective,
            # without a bound too: the norm is what tells a gradient that is not finite before it reaches the parameters
            clip=math.inf if training.clip is None else training.clip,
            compile=training.compile,
            exchange=self.exchange,
        )
        self.epoch = self.position = self.step = 0
        self.loss_sum = torch.zeros((), dtype=torch.float64)
        self.history: list[dict[str, float]] = []
        self.best: tuple[float, int, dict[str, Tensor]] = (-math.inf, -1, {})
        self.best_written = -1
        self.skipped = self.in_a_row = self.rollbacks = 0
        self.good: dict[str, Any] | None = None
        self.buffers = [b for b in pair.named_buffers().values() if b.is_floating_point()]
        self.settled = False  # whether `buffers` are only those that steps change
        self.watched = "valid" if data.size("valid") else "train"
        self.saved_at, self.save_took = time.monotonic(), 0.0
        self.saved: tuple[int, int] | None = None  # (epoch, step) of the last checkpoint
        self.stopped_by: int | None = None

    def _join(self) -> Exchange:
        self.world.share([*self.pair.named_parameters().values(), *self.pair.named_buffers().values()])
        return Exchange(self.world, list(self.pair.named_buffers().values()), wishes=1 + len(_SIGNALS))

    def go(self, resume: bool) -> "Fitted":
        """Train to the end and return the pair with its best parameters."""
        from pyro_vae.training import Fitted

        begun = time.monotonic()
        self._seed()
        if resume:
            self._restore()
        self.observer.start(self.training.epochs, self.steps_an_epoch, self.epoch)
        with _signals(self._stop), pyro.validation_enabled(False), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Encountered ")  # Pyro's, of a loss that is not finite: ours is an error
            self.pair.train(True)
            try:
                while self.epoch < self.training.epochs and not self._out_of_patience():
                    self._one_epoch()
                self._save()
                self.world.wait()  # none leaves before the checkpoint is written: its end would end the others
            finally:
                self.pair.train(False)
                self.observer.stop()
        if self.best[2]:
            self.pair.load_state_dict(self.best[2])
        return Fitted(
            self.pair,
            self.data,
            self.history,
            self.epoch,
            self.step,
            time.monotonic() - begun,
            self.svi.compiled,
            self.run,
        )

    def _one_epoch(self) -> None:
        if self.training.on_nonfinite == "rollback" and (self.good is None or self.position == 0):
            self.good = copy.deepcopy(self._state())
        batches = self.data.epoch(
            self.epoch,
            self.training.batch_size,
            seed=self.training.seed,
            start=self.position,
            rank=self.world.rank,
            world=self.world.size,
        )
        try:
            for batch in batches:
                self._one_step(batch)
                self._heed()
        except _Back:
            return
        self._validate()
        self.epoch, self.position, self.skipped = self.epoch + 1, 0, 0
        self.loss_sum.zero_()
        if self.exchange is None:
            self._heed()

    def _heed(self) -> None:
        """Save if it is time, stop if that was asked for; several processes do either after the same step."""
        if self.exchange is None:
            due, stop = self._due(), self.stopped_by
        else:
            wish, *signals = self.exchange.heard
            due, stop = wish > 0, next((s for s, count in zip(_SIGNALS, signals, strict=True) if count), None)
        if due or stop is not None:
            self._save()
        if stop is not None:
            self.world.wait()
            raise Interrupted(stop, self.run)

    def _due(self) -> bool:
        every = self.training.save_every
        past = time.monotonic() - self.saved_at
        return self.run is not None and (every == 0 or past > max(every, SAVING_SHARE * self.save_took))

    def _one_step(self, batch: Mapping[str, Tensor]) -> None:
        t = self.training
        for group in self.optimizer.param_groups:
            group["lr"] = t.lr * SCHEDULES[t.schedule](self.step, self.steps) * 0.5**self.rollbacks
        if t.warm_up:
            self.beta.fill_(t.beta * min(1.0, self.step / (t.warm_up * self.steps_an_epoch)))
        if self.exchange is not None:
            self.exchange.weight = len(batch["x"])
            asked = [self.world.rank == 0 and self._due(), *(self.stopped_by == s for s in _SIGNALS)]
            self.exchange.wishes = list(map(float, asked))
        placed = self._place(batch)
        random, buffers = _generators(self.device), [b.clone() for b in self.buffers]
        loss = self.svi.update(placed).item()
        if not math.isfinite(loss) or not self.svi.finite:
            self._non_finite(placed, loss, random, buffers)
        else:
            self.loss_sum += loss
            self.in_a_row = 0
            self.observer.step(self.epoch, self.position + 1, loss)
        if not self.settled:
            self.buffers = [b for b, old in zip(self.buffers, buffers, strict=True) if not torch.equal(b, old)]
            self.settled = True
        self.step += 1
        self.position += 1

    # --- numbers that are none -----------------------------------------------------------------------------------------

    def _non_finite(self, batch: dict[str, Tensor], loss: float, random: list[Tensor], buffers: list[Tensor]) -> None:
        """Find what is to blame with the same draws, save the batch, then stop, skip or go back."""
        drawn = _generators(self.device)
        site, reason, bad, culprit = self._explain(batch, random, buffers)
        _set_generators(self.device, drawn)
        what = "the gradient is not finite" if math.isfinite(loss) else f"the loss is {loss}"
        where = f"at step {self.step} (epoch {self.epoch + 1}, batch {self.position + 1})"
        where += f" in process {culprit}" if self.world.size > 1 else ""
        path = None if self.run is None else self.run.folder / "bad_batch.pt"
        if path is not None and self.world.rank == 0:
            parameters = {name: tensor.cpu() for name, tensor in self.pair.state_dict().items()}
            facts = {"step": self.step, "epoch": self.epoch + 1, "site": site, "reason": reason, "batch": bad}
            checkpoint.save(path, {**facts, "parameters": parameters, "random": random})
        kept = f" (kept in {path})" if path else ""
        said = f"{what} {where}: {reason}"
        policy = self.training.on_nonfinite
        if policy == "skip" and self.in_a_row < MOST_SKIPPED:
            self.skipped, self.in_a_row = self.skipped + 1, self.in_a_row + 1
            self._note(f"{said}; batch skipped{kept}")
            return
        if policy == "rollback" and self.good is not None and self.rollbacks < MOST_ROLLBACKS:
            rollbacks = self.rollbacks + 1
            self._apply(copy.deepcopy(self.good))
            self.rollbacks = rollbacks
            self._note(f"{said}{kept}; going back to the beginning of epoch {self.epoch + 1} at half the learning rate")
            raise _Back
        tried = {
            "stop": "",
            "skip": f", after {self.in_a_row} batches in a row were skipped",
            "rollback": f", after going back {self.rollbacks} times",
        }[policy]
        advice = "lower --lr, set --clip, or look at the batch" + kept
        other = ", or pass over such batches with --on_nonfinite skip" if policy == "stop" else ""
        raise NonFinite(f"{said}{tried}; {advice}{other}", site=site, step=self.step, epoch=self.epoch + 1, batch=bad)

    def _explain(
        self, batch: dict[str, Tensor], random: list[Tensor], buffers: list[Tensor]
    ) -> tuple[str | None, str, dict[str, Tensor], int]:
        """Return the site to blame, what is wrong in words, the batch on the CPU and the process that had it."""

        def put_back() -> None:
            _set_generators(self.device, random)
            with torch.no_grad():
                for buffer, old in zip(self.buffers, buffers, strict=True):
                    buffer.copy_(old)

        put_back()
        try:
            site, reason, sound = *explain(lambda: self.svi.gradients((batch,), {}), self.pair.named_parameters()), True
        except Exception as error:  # the program itself may fail on such numbers
            site, reason, sound = None, f"an eager run fails: {str(error).splitlines()[0]}", False
        put_back()
        self.optimizer.zero_grad()
        guilty = site is not None or not sound or "every site" not in reason
        mine = {name: value.cpu() for name, value in batch.items()}
        found = self.world.gather((guilty, site, reason, mine if guilty or self.world.size == 1 else None))
        culprit = next((rank for rank, (bad, *_) in enumerate(found) if bad), 0)
        _, site, reason, theirs = found[culprit]
        return site, reason, theirs or mine, culprit

    def _note(self, text: str) -> None:
        if self.world.rank == 0:
            self.observer.note(text)

    # --- figures -------------------------------------------------------------------------------------------------------

    def _validate(self) -> None:
        """Measure the ELBO at beta = 1 on the validation split (on the training split if it is empty), with fixed draws."""
        elbo, reconstruction, kl = self._bound()
        row = {
            "epoch": self.epoch + 1,
            "step": self.step,
            "loss": self.loss_sum.item() / max(1, self.position - self.skipped),
            "elbo": elbo,
            "reconstruction": reconstruction,
            "kl": kl,
            "beta": self.beta.item(),
            "lr": self.optimizer.param_groups[0]["lr"],
        }
        self.history.append(row)
        if not math.isfinite(elbo):
            self._note(
                f"the ELBO on the {self.watched} split is {elbo} after epoch {self.epoch + 1}; this epoch is not the best"
            )
        if (elbo > self.best[0] and math.isfinite(elbo)) or not self.best[2]:
            state = {name: tensor.cpu().clone() for name, tensor in self.pair.state_dict().items()}
            self.best = (elbo if math.isfinite(elbo) else -math.inf, self.epoch, state)
        self.observer.epoch(row)

    def _bound(self) -> tuple[float, float, float]:
        """Return ELBO, reconstruction and KL; several processes take turns with the batches."""
        total, world = self.data.size(self.watched), self.world
        rows = min(VALIDATION_ROWS, -(-total // world.size))
        starts = range(0, total, rows)[world.rank :: world.size]
        batches = [self._place(self.data.batch(self.watched, rows, start=start)) for start in starts]
        if world.size == 1:
            table = bound(self.pair, batches, self.data.size("train"))
            return table.elbo, table.reconstruction, table.kl
        sums = [0.0] * 4
        if batches:
            table, weight = bound(self.pair, batches, self.data.size("train")), sum(len(b["x"]) for b in batches)
            sums = [table.elbo * weight, table.reconstruction * weight, table.kl * weight, weight]
        *sums, count = world.add(sums)
        elbo, reconstruction, kl = (value / count for value in sums)
        return elbo, reconstruction, kl

    def _out_of_patience(self) -> bool:
        patience = self.training.patience
        return patience is not None and self.epoch - 1 - self.best[1] >= patience

    def _place(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {
            name: value.to(self.device, self.dtype if value.is_floating_point() else None)
            for name, value in batch.items()
        }

    # --- state ---------------------------------------------------------------------------------------------------------

    def _state(self) -> dict[str, Any]:
        """Return all that the next step depends on; tensors are those in use, not copies."""
        return {
            "parameters": {name: tensor.cpu() for name, tensor in self.pair.state_dict().items()},
            "optimizer": self.optimizer.state_dict(),
            "svi": self.svi.state_dict(),
            "epoch": self.epoch,
            "position": self.position,
            "step": self.step,
            "beta": self.beta.item(),
            "loss_sum": self.loss_sum.item(),
            "skipped": self.skipped,
            "in_a_row": self.in_a_row,
            "rollbacks": self.rollbacks,
            "history": list(self.history),
            "best": self.best,
            "random": checkpoint.random_state(),
        }

    def _apply(self, state: dict[str, Any]) -> None:
        self.pair.load_state_dict(state["parameters"])
        self.optimizer.load_state_dict(optimizer_state(state["optimizer"], self.optimizer))
        self.svi.load_state_dict(state["svi"])
        self.epoch, self.position, self.step = state["epoch"], state["position"], state["step"]
        self.beta.fill_(state["beta"])
        self.loss_sum.fill_(state["loss_sum"])
        self.skipped, self.in_a_row, self.rollbacks = state["skipped"], state["in_a_row"], state["rollbacks"]
        self.history = list(state["history"])
        value, epoch, parameters = state["best"]
        self.best = (value, epoch, parameters)
        checkpoint.set_random_state(state["random"])

    def _save(self) -> None:
        """Write the state, on process 0, with what is each process's own; nothing if it is written already."""
        if self.run is None or self.saved == (self.epoch, self.step):
            return
        state, good = self._of_all(self._state()), None if self.good is None else self._of_all(self.good)
        began = time.monotonic()
        if self.world.rank == 0:
            try:
                if self.best[2] and self.best[1] != self.best_written:
                    self.run.save_best({"parameters": self.best[2], "epoch": self.best[1] + 1, "elbo": self.best[0]})
                    self.best_written = self.best[1]
                self.run.write_history(self.history)
                self.run.save({**state, "good": good})
            except OSError as error:
                last = f"is of step {self.saved[1]}" if self.saved else "is the one before this start, if any"
                raise Unsaved(
                    f"cannot save to {self.run} at step {self.step}: {error.strerror}; the last good checkpoint {last}: "
                    f"make room and go on with `pyro-vae resume {self.run}`"
                ) from error
        self.saved_at = time.monotonic()
        self.save_took, self.saved = self.saved_at - began, (self.epoch, self.step)

    def _restore(self) -> None:
        """Go on from the last checkpoint; from the beginning if the run was killed before its first."""
        assert self.run is not None
        if not self.world.first(lambda: self.run.begun):  # type: ignore[union-attr]
            self._note(f"{self.run} has no checkpoint yet: beginning anew")
            return
        state, passed_over = self.world.first(self.run.load)
        if passed_over:
            self._note(f"{passed_over}; going on from the checkpoint before it")
        if len(state["random"]) != self.world.size:
            self._note(
                f"{self.run} was trained by {len(state['random'])} processes and goes on with {self.world.size}: the draws "
                "will be others"
            )
        self.good = None if state["good"] is None else self._of_this(state["good"])
        self._apply(self._of_this(state))
        self.saved = self.epoch, self.step

    def _of_all(self, state: dict[str, Any]) -> dict[str, Any]:
        """Return the state with every process's draws and counts, by rank: shares differ in shape, and counts go by shape."""
        every = self.world.gather({name: state[name] for name in _OWN})
        return {**state, **{name: [own[name] for own in every] for name in _OWN}}

    def _of_this(self, state: dict[str, Any]) -> dict[str, Any]:
        """Return the state of all as this process's; a process that was not there keeps its draws."""
        rank, random = self.world.rank, state["random"]
        own = random[rank] if rank < len(random) else checkpoint.random_state()
        return {**state, "random": own, "svi": state["svi"][min(rank, len(state["svi"]) - 1)]}

    def _seed(self) -> None:
        """Give each process draws of its own; the first has those of a process alone."""
        if self.world.rank > 0:
            checkpoint.seed_all(key("draws", self.training.seed, self.world.rank) >> 1)

    def _stop(self, signum: int) -> None:
        self.stopped_by = signum


def _generators(device: torch.device) -> list[Tensor]:
    """Return the states of the generators that programs draw from."""
    states = [torch.get_rng_state()]
    return [*states, torch.cuda.get_rng_state(device)] if device.type == "cuda" else states


def _set_generators(device: torch.device, states: list[Tensor]) -> None:
    torch.set_rng_state(states[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states[1], device)


def _weighed(
    pair: Pair, training: Training, num_data: int, beta: Tensor, device: torch.device
) -> tuple[Callable, Callable]:
    """Return model and guide under the handlers that this training asks for, in nats per datum."""
    plate = pair.data_plate
    tempered = training.beta != 1 or training.warm_up > 0
    mixed = training.precision == "bf16-mixed"

    def handlers() -> ExitStack:
        stack = ExitStack()
        stack.enter_context(PerDatum(num_data, plate))
        if tempered:
            stack.enter_context(Tempered(beta))
        if mixed:
            stack.enter_context(torch.autocast(device.type, torch.bfloat16))
        return stack

    model, guide = Wrapped(pair.bound_model, handlers), Wrapped(pair.bound_guide, handlers)
    if training.free_bits:
        free = FreeBits(training.free_bits)
        return free.model(model), free.guide(guide)
    return model, guide


def refuse_unheeded(training: Training, pair: Pair, data: Data) -> None:
    """Refuse settings that the pair or its objective has no place for.

    Raises:
        SettingsError: beta or warm-up without a KL in the objective; free bits where each datum is weighed by itself; few labels for a
            pair that takes every y for one.
    """
    labels = ((data.recipe or {}).get("options") or {}).get("labels")
    if labels is not None and "y" in pair.fields and "labelled" not in pair.fields:
        raise SettingsError(
            f"the pair reads y, which --labels {labels} hides, and not labelled, which tells where; leave --labels out, or use semi_supervised"
        )
    objective = pair.objective
    name = type(objective).__name__
    by_datum = (Bound, PathDerivative, ReweightedWakeSleep, TotalCorrelation, MaximumMeanDiscrepancy)
    for setting in ("beta", "warm_up"):
        value = getattr(training, setting)
        if isinstance(objective, MaximumMeanDiscrepancy) and not objective.kl and value != getattr(Training, setting):
            raise SettingsError(
                f"{setting} {value} weighs the KL, and {name} has none; leave --{setting} out, or use another objective"
            )
    if training.free_bits and isinstance(objective, by_datum):
        raise SettingsError(
            f"free_bits {training.free_bits} are of the KL over the batch, and {name} weighs each datum by itself; "
            "leave --free_bits out, or use the objective elbo or analytic-kl"
        )


def possible(training: Training, data: Data, world: World) -> torch.device:
    """Return the device that this process trains on.

    Raises:
        SettingsError: when there is no such device, or a batch has fewer data than there are processes.
    """
    size = min(training.batch_size, data.size("train"))
    if size < world.size:
        raise SettingsError(
            f"a batch of {size} data cannot be shared by {world.size} processes; raise --batch_size or lower --devices"
        )
    return world.device or _device(training.device)


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise SettingsError(
            f"device {name!r} cannot be used: {str(error).splitlines()[0]}; use --device cpu or auto"
        ) from None
    return device


def _convert(pair: Pair, device: torch.device, dtype: torch.dtype) -> None:
    pair.to(device)
    if dtype is torch.float64:
        for module in pair.modules().values():
            module.double()


@contextmanager
def _signals(stop: Callable[[int], None]) -> Iterator[None]:
    """Turn SIGINT and SIGTERM into a request to stop after the step; the second one of a kind acts at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}

    def handle(signum: int, frame: Any) -> None:
        signal.signal(signum, before[signal.Signals(signum)])
        stop(signum)

    for signum in before:
        signal.signal(signum, handle)
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
