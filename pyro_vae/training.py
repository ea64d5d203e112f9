"""``fit``: the only training loop."""

import math
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

import pyro
import torch
from torch import Tensor

from pyro_vae import checkpoint
from pyro_vae.checking import require_sound
from pyro_vae.data import Data, load_data
from pyro_vae.evaluation import bound
from pyro_vae.handlers import FreeBits, PerDatum, Tempered, Wrapped
from pyro_vae.pairing import Pair
from pyro_vae.progress import Progress, Silent
from pyro_vae.runs import Run
from pyro_vae.svi import SVI

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "adamax": torch.optim.Adamax,
    "sgd": torch.optim.SGD,
}
CHECKED_BATCH = 16  # data that the pair is tried on before the first step
SECONDS_BETWEEN_CHECKPOINTS = 10.0


class NonFinite(ArithmeticError):
    """A loss that is not a number any more."""


class Interrupted(Exception):
    """Training was asked to stop, and has saved what resuming needs."""

    def __init__(self, signum: int, run: Run | None) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name}")
        self.signum = signum
        self.run = run


@dataclass(frozen=True)
class Training:
    """How to train; the defaults suit the default pair.

    Args:
        epochs: passes over the training data.
        batch_size: data a step.
        lr: learning rate at its peak.
        schedule: ``inverse-time`` is lr / (1 + step / 2000), which does not look ahead, so k epochs and then k more are
            the same as 2 k; ``one-cycle`` (linear up over a tenth, cosine down) and ``cosine`` plan for ``epochs``.
        optimizer: from torch.optim.
        clip: largest norm of the gradient.
        beta: weight of the KL in training; figures are always at beta = 1.
        warm_up: epochs over which beta rises linearly from 0.
        free_bits: nats of KL that every latent site keeps for free.
        patience: stop after this many epochs without a better validation ELBO.
        seed: of initialisation, order and draws.
        device: cpu, cuda, mps, or auto for the fastest there is.
        precision: of arithmetic: 32, 64, or bf16-mixed.
        compile: record the pair once and replay it without Pyro; auto does so when the run is long enough to earn it.
    """

    epochs: int = 100
    batch_size: int = 128
    lr: float = 2e-3
    schedule: Literal["inverse-time", "constant", "cosine", "one-cycle"] = "inverse-time"
    optimizer: Literal["adam", "adamw", "adamax", "sgd"] = "adam"
    clip: float | None = None
    beta: float = 1.0
    warm_up: float = 0.0
    free_bits: float = 0.0
    patience: int | None = None
    seed: int = 0
    device: str = "auto"
    precision: Literal["32", "64", "bf16-mixed"] = "32"
    compile: Literal["auto", "on", "off"] = "auto"

    def __post_init__(self) -> None:
        for name, least in (("epochs", 1), ("batch_size", 1), ("patience", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        for name in ("beta", "warm_up", "free_bits"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} must be a finite number, 0 or more, got {value}")
        for name in ("lr", "clip"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} must be a finite number above 0, got {value}")
        for name, choices in (("schedule", _SCHEDULES), ("optimizer", OPTIMIZERS)):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}, got {getattr(self, name)!r}")

    @classmethod
    def names(cls) -> list[str]:
        """Return the names of all settings."""
        return [f.name for f in fields(cls)]


_SCHEDULES: dict[str, Callable[[int, int], float]] = {
    "inverse-time": lambda step, steps: 1 / (1 + step / 2000),
    "constant": lambda step, steps: 1.0,
    "cosine": lambda step, steps: 0.5 + 0.5 * math.cos(math.pi * step / steps),
    "one-cycle": lambda step, steps: min(1.0, 10 * (step + 1) / steps) * (0.5 + 0.5 * math.cos(math.pi * step / steps)),
}


@dataclass(frozen=True)
class Fitted:
    """A trained pair.

    Its parameters are those with the best ELBO (beta = 1) on the validation split.
    """

    pair: Pair
    data: Data
    history: list[
        dict[str, float]
    ]  # a row an epoch: loss in training; elbo, reconstruction, kl on the validation split
    epochs: int
    steps: int
    seconds: float
    compiled: bool
    run: Run | None


def fit(
    pair: Pair,
    data: Data | Mapping[str, Any] | str,
    *,
    run: str | os.PathLike | Run | None = None,
    resume: bool = False,
    progress: Progress | bool = False,
    config: Mapping[str, Any] | None = None,
    **settings: Any,
) -> Fitted:
    """Train a pair by stochastic variational inference and return it with its history.

    The pair is checked first (see ``check_pair``). Every random number follows from ``seed``; the global random states are left as
    they were. Draws, data order and schedules do not depend on when checkpoints are written, so a resumed run ends with
    the same bits as one that was never stopped.

    Args:
        pair: model and guide; trained in place.
        data: from ``load_data``, or what ``load_data`` takes.
        run: folder for checkpoints and history; none are written without one.
        resume: go on from the folder's last checkpoint.
        progress: True for a line an epoch on stderr, or an object with ``Progress``'s methods.
        config: how to build pair and data anew, stored in the run folder; pairs from ``pyro_vae.pairs`` bring theirs.
        settings: any field of ``Training``.

    Raises:
        PairError: when the pair breaks its contract.
        NonFinite: when a loss is not finite; the parameters are those before it.
    """
    training = Training(**settings)
    data = data if isinstance(data, Data) else load_data(data)
    if run is not None and not isinstance(run, Run):
        run = (
            Run.open(run)
            if resume
            else Run.create(run, {**(config or describe(pair, data)), "training": asdict(training)})
        )
    observer = progress if isinstance(progress, Progress) else (Progress() if progress else Silent())
    with checkpoint.seeded(training.seed):
        return _Loop(pair, data, training, run, observer).go(resume)


def describe(pair: Pair, data: Data) -> dict[str, Any]:
    """Return what rebuilds the pair and the data, for ``config.yaml``."""
    return {"pair": pair.recipe, "data": data.recipe}


class _Loop:
    """One training run: state, and the steps that change it."""

    def __init__(self, pair: Pair, data: Data, training: Training, run: Run | None, observer: Progress) -> None:
        self.pair, self.data, self.training, self.run, self.observer = pair, data, training, run, observer
        self.device = _device(training.device)
        self.dtype = torch.float64 if training.precision == "64" else torch.float32
        _convert(pair, self.device, self.dtype)
        require_sound(pair, self._place(data.batch("train", CHECKED_BATCH)))
        self.steps_an_epoch = data.num_batches(training.batch_size)
        self.steps = training.epochs * self.steps_an_epoch
        self.beta = torch.tensor(training.beta, dtype=self.dtype, device=self.device)
        self.optimizer = OPTIMIZERS[training.optimizer](list(pair.named_parameters().values()), lr=training.lr)
        self.svi = SVI(
            *_weighed(pair, training, data.size("train"), self.beta, self.device),
            self.optimizer,
            pair.objective,
            clip=training.clip,
            compile=training.compile,
        )
        self.epoch = self.position = self.step = 0
        self.loss_sum = torch.zeros((), dtype=torch.float64)
        self.history: list[dict[str, float]] = []
        self.best: tuple[float, int, dict[str, Tensor]] = (-math.inf, -1, {})
        self.best_written = -1
        self.watched = "valid" if data.size("valid") else "train"
        self.saved_at = time.monotonic()
        self.stopped_by: int | None = None

    def go(self, resume: bool) -> Fitted:
        begun = time.monotonic()
        if resume:
            self._restore()
        first = self.step
        self.observer.start(self.training.epochs, self.steps_an_epoch, self.epoch)
        with _signals(self._stop), pyro.validation_enabled(False), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Encountered ")  # Pyro's, of a loss that is not finite: ours is an error
            self.pair.train(True)
            try:
                while self.epoch < self.training.epochs and not self._out_of_patience():
                    self._one_epoch()
                self._save()
            finally:
                self.pair.train(False)
                self.observer.stop()
        if self.best[2]:
            self.pair.load_state_dict(self.best[2])
        seconds = time.monotonic() - begun
        return Fitted(
            self.pair,
            self.data,
            self.history,
            self.epoch,
            self.step - first,
            seconds,
            self.svi.compiled,
            self.run,
        )

    def _one_epoch(self) -> None:
        batches = self.data.epoch(self.epoch, self.training.batch_size, seed=self.training.seed, start=self.position)
        for batch in batches:
            self._one_step(batch)
            if self.stopped_by is not None:
                self._save()
                raise Interrupted(self.stopped_by, self.run)
        self._validate()
        self.epoch, self.position = self.epoch + 1, 0
        self.loss_sum.zero_()
        if self.run is not None and time.monotonic() - self.saved_at > SECONDS_BETWEEN_CHECKPOINTS:
            self._save()

    def _one_step(self, batch: Mapping[str, Tensor]) -> None:
        t = self.training
        for group in self.optimizer.param_groups:
            group["lr"] = t.lr * _SCHEDULES[t.schedule](self.step, self.steps)
        if t.warm_up:
            self.beta.fill_(t.beta * min(1.0, self.step / (t.warm_up * self.steps_an_epoch)))
        loss = self.svi.update(self._place(batch)).item()
        if not math.isfinite(loss):
            raise NonFinite(
                f"the loss is {loss} at step {self.step} (epoch {self.epoch + 1}); lower --lr, set --clip, or look at the data"
            )
        self.loss_sum += loss
        self.step += 1
        self.position += 1
        self.observer.step(self.epoch, self.position, loss)

    def _validate(self) -> None:
        """Measure the ELBO at beta = 1 on the validation split (on the training split if it is empty), with fixed draws."""
        batches = (self._place(b) for b in self.data.batches(self.watched, 1000))
        table = bound(self.pair, batches, self.data.size("train"))
        row = {
            "epoch": self.epoch + 1,
            "step": self.step,
            "loss": self.loss_sum.item() / self.position,
            "elbo": table.elbo,
            "reconstruction": table.reconstruction,
            "kl": table.kl,
            "beta": self.beta.item(),
            "lr": self.optimizer.param_groups[0]["lr"],
        }
        self.history.append(row)
        if table.elbo > self.best[0] or not self.best[2]:
            state = {name: tensor.cpu().clone() for name, tensor in self.pair.state_dict().items()}
            self.best = (table.elbo, self.epoch, state)
        self.observer.epoch(row)

    def _out_of_patience(self) -> bool:
        patience = self.training.patience
        return patience is not None and self.epoch - 1 - self.best[1] >= patience

    def _place(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {
            name: value.to(self.device, self.dtype if value.is_floating_point() else None)
            for name, value in batch.items()
        }

    def _save(self) -> None:
        if self.run is None:
            return
        self.saved_at = time.monotonic()
        if self.best[2] and self.best[1] != self.best_written:
            self.run.save_best({"parameters": self.best[2], "epoch": self.best[1] + 1, "elbo": self.best[0]})
            self.best_written = self.best[1]
        self.run.write_history(self.history)
        self.run.save(
            {
                "parameters": {name: tensor.cpu() for name, tensor in self.pair.state_dict().items()},
                "optimizer": self.optimizer.state_dict(),
                "svi": self.svi.state_dict(),
                "epoch": self.epoch,
                "position": self.position,
                "step": self.step,
                "beta": self.beta.item(),
                "loss_sum": self.loss_sum.item(),
                "history": self.history,
                "best": self.best,
                "random": checkpoint.random_state(),
            }
        )

    def _restore(self) -> None:
        assert self.run is not None
        state, passed_over = self.run.load()
        if passed_over:
            self.observer.note(f"{passed_over}; going on from the checkpoint before it")
        self.pair.load_state_dict(state["parameters"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.svi.load_state_dict(state["svi"])
        self.epoch, self.position, self.step = state["epoch"], state["position"], state["step"]
        self.beta.fill_(state["beta"])
        self.loss_sum.fill_(state["loss_sum"])
        self.history = state["history"]
        value, epoch, parameters = state["best"]
        self.best = (value, epoch, parameters)
        checkpoint.set_random_state(state["random"])

    def _stop(self, signum: int) -> None:
        self.stopped_by = signum


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


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
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
