"""The settings of training."""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, get_type_hints

from torch.optim import Optimizer

from pyro_vae.options import accept, checked, is_plain
from pyro_vae.runs import check_seed

Schedule = Literal["inverse-time", "constant", "cosine", "one-cycle"] | Callable[[int, int], float]
Chosen = Literal["adam", "adamw", "adamax", "sgd", "em"] | Callable[..., Optimizer]
Precision = Literal["32", "64", "bf16-mixed"]
Compile = Literal["auto", "recorded", "on", "off"]
Policy = Literal["stop", "skip", "rollback"]


class SettingsError(ValueError):
    """A setting that is not allowed, or not possible on this machine; the message says what to
    change.
    """


class Elsewhere:
    """Stands for a function of the user's that a run was trained with, and that the run cannot
    hold.
    """

    def __init__(self, setting: str, name: str) -> None:
        self.setting, self.__name__ = setting, name

    def __call__(self, *args: Any) -> Any:
        """Refuse to be used."""
        article = "an" if self.setting == "optimizer" else "a"
        raise SettingsError(
            f"the run was trained with {article} {self.setting} of its own, {self.__name__}; go on with it in Python: "
            f"fit(pair, data, run=..., resume=True, {self.setting}=...)"
        )


def own_name(value: Any) -> str:
    """Return what a user's own function, class or object is called."""
    value = getattr(value, "pt_optim_constructor", value)  # of a Pyro optimizer
    return getattr(value, "__name__", None) or type(value).__name__


@dataclass(frozen=True)
class Training:
    """How to train; the defaults suit the default pair.

    Args:
        epochs: passes over the training data.
        batch_size: data per step: 128 by default, and all of them with the optimizer em.
        lr: learning rate at its peak.
        schedule: ``inverse-time`` is lr / (1 + step / 3000), which does not look ahead, so k epochs
            and then k more are the same as 2 k; ``one-cycle`` (linear up over a tenth, cosine down)
            and ``cosine`` plan for ``epochs``. In Python also your own function ``step, steps ->
            factor`` of the learning rate.
        optimizer: from torch.optim; or em, expectation maximisation, for pairs whose parameters have
            an M step. In Python also a class of torch.optim, a Pyro optimizer, or a function of the
            parameters that returns a torch optimizer, whose learning rates are the peaks.
        weight_decay: pull of the parameters towards 0; adamw keeps it apart from the gradient.
        ema: decay per step of a running average of the parameters, which validation looks at and
            which is kept; 0 for none. At equal time it raises the ELBO by 3.6 nats and log p(x) by
            1.3 on the bundled digits, by 1.2 and 0.2 on MNIST after ten epochs. The optimizer em
            has none.
        accumulate: pieces that a batch is taken in, one after the other, for less memory; their
            gradients add up to the batch's.
        clip: largest norm of the gradient.
        beta: weight of the KL in training; figures are always at beta = 1.
        warm_up: epochs over which beta rises linearly from 0.
        free_bits: nats of KL that every latent site keeps for free.
        dream: weight of log q(z | x) at z and x drawn from the model, for the guide: a net that has
            seen few data learns to invert the model wherever it draws.
        patience: stop after this many epochs without a better validation ELBO.
        seed: of order and draws; on the command line of the parameters to begin with, too.
        device: cpu, cuda, mps, or auto for the fastest there is.
        precision: of arithmetic: 32, 64, or bf16-mixed.
        compile: record the pair once and replay it without Pyro; auto does so when the run is long
            enough to earn it.
        devices: processes on this machine, one per device, that share each batch; torchrun and
            SLURM set it themselves.
        save_every: seconds between checkpoints, 0 for one after every step; what is trained does
            not depend on it.
        on_nonfinite: what a non-finite loss or gradient does: stop, skip the batch, or go back to
            the last epoch's beginning (rollback) at half the learning rate.
    """

    epochs: int = 100
    batch_size: int | None = None
    lr: float = 2e-3
    schedule: Schedule = "inverse-time"
    optimizer: Chosen = "adam"
    weight_decay: float = 0.0
    ema: float = 0.999
    accumulate: int = 1
    clip: float | None = None
    beta: float = 1.0
    warm_up: float = 0.0
    free_bits: float = 0.0
    dream: float = 0.0
    patience: int | None = None
    seed: int = 0
    device: str = "auto"
    precision: Precision = "32"
    compile: Compile = "auto"
    devices: int = 1
    save_every: float = 10.0
    on_nonfinite: Policy = "stop"

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "accumulate", "patience", "devices"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise SettingsError(f"{name} must be at least 1, got {value}")
        try:
            check_seed(self.seed)
        except ValueError as error:
            raise SettingsError(str(error)) from None
        for name in ("weight_decay", "beta", "warm_up", "free_bits", "dream", "save_every"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise SettingsError(f"{name} must be a finite number, 0 or more, got {value}")
        if not 0 <= self.ema < 1:
            raise SettingsError(f"ema must be at least 0 and below 1, got {self.ema}")
        for name in ("lr", "clip"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise SettingsError(f"{name} must be a finite number above 0, got {value}")

    def rows(self, num_data: int) -> int:
        """Return how many of ``num_data`` training data a step takes, before it is cut to them."""
        if self.batch_size is not None:
            return self.batch_size
        return num_data if self.optimizer == "em" else 128

    def to_dict(self) -> dict[str, Any]:
        """Return the settings by name, as ``config.yaml`` holds them: functions of the user's by their
        names.
        """
        found = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: value if is_plain(value) else f"own ({own_name(value)})" for name, value in found.items()}

    @classmethod
    def read(cls, stored: Mapping[str, Any]) -> "Training":
        """Return the settings of a ``config.yaml``; what an older version did not have is as it was
        then.

        Raises:
            SettingsError: for an unknown setting, or a value of the wrong kind.
        """
        kinds = get_type_hints(cls)
        stored = {name: _elsewhere(name, value) for name, value in stored.items()}
        for name, value in stored.items():
            if name not in kinds:
                raise SettingsError(
                    f"there is no training setting {str(name)[:50]!r}; restore config.yaml or train anew"
                )
            try:
                accept(name, value, kinds[name])
            except (TypeError, ValueError) as error:
                raise SettingsError(
                    f"training setting {name} cannot be {repr(value)[:50]}; restore config.yaml or train anew"
                ) from error
        return cls(**{"ema": 0.0, **stored})

    @classmethod
    def names(cls) -> list[str]:
        """Return the names of all settings."""
        return [f.name for f in fields(cls)]


def _elsewhere(name: str, value: Any) -> Any:
    own = re.fullmatch(r"own \((.*)\)", value) if name in ("optimizer", "schedule") and isinstance(value, str) else None
    return Elsewhere(name, own[1]) if own else value


SCHEDULES: dict[str, Callable[[int, int], float]] = {
    "inverse-time": lambda step, steps: 1 / (1 + step / 3000),
    "constant": lambda step, steps: 1.0,
    "cosine": lambda step, steps: 0.5 + 0.5 * math.cos(math.pi * step / steps),
    "one-cycle": lambda step, steps: min(1.0, 10 * (step + 1) / steps) * (0.5 + 0.5 * math.cos(math.pi * step / steps)),
}


# as every option is: each setting against its annotation
Training.__init__ = checked(SettingsError)(Training.__init__)  # type: ignore[method-assign]
