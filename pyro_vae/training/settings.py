"""The settings of training."""

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, get_type_hints

import torch
from torch import Tensor

from pyro_vae.options import accept, checked
from pyro_vae.runs import check_seed

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "adamax": torch.optim.Adamax,
    "sgd": torch.optim.SGD,
    "em": torch.optim.SGD,  # holds the parameters; the M step moves them
}


def optimizer(name: str, params: Sequence[Tensor], lr: float) -> torch.optim.Optimizer:
    """Return the optimizer of that name; on a CPU with torch's fused update, a third of the time,
    where it has one.
    """
    kind = OPTIMIZERS[name]
    # torch's fused update takes each gradient to lie in memory as autograd leaves it; on a GPU the
    # compiled step has its own
    fused = "fused" in inspect.signature(kind).parameters and all(p.device.type == "cpu" for p in params)
    return kind(params, lr=lr, **({"fused": True} if fused else {}))


def optimizer_state(state: Mapping[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return an optimizer's state for this one to load, which may lie on another device and be
    fused.
    """
    groups = zip(state["param_groups"], optimizer.param_groups, strict=True)
    return {
        **state,
        "param_groups": [{**old, **({"fused": new["fused"]} if "fused" in new else {})} for old, new in groups],
    }


class SettingsError(ValueError):
    """A setting that is not allowed, or not possible on this machine; the message says what to
    change.
    """


@dataclass(frozen=True)
class Training:
    """How to train; the defaults suit the default pair.

    Args:
        epochs: passes over the training data.
        batch_size: data per step: 128 by default, and all of them with the optimizer em.
        lr: learning rate at its peak.
        schedule: ``inverse-time`` is lr / (1 + step / 3000), which does not look ahead, so k epochs
            and then k more are the same as 2 k; ``one-cycle`` (linear up over a tenth, cosine down)
            and ``cosine`` plan for ``epochs``.
        optimizer: from torch.optim; or em, expectation maximisation, for pairs whose parameters have
            an M step.
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
    schedule: Literal["inverse-time", "constant", "cosine", "one-cycle"] = "inverse-time"
    optimizer: Literal["adam", "adamw", "adamax", "sgd", "em"] = "adam"
    clip: float | None = None
    beta: float = 1.0
    warm_up: float = 0.0
    free_bits: float = 0.0
    dream: float = 0.0
    patience: int | None = None
    seed: int = 0
    device: str = "auto"
    precision: Literal["32", "64", "bf16-mixed"] = "32"
    compile: Literal["auto", "recorded", "on", "off"] = "auto"
    devices: int = 1
    save_every: float = 10.0
    on_nonfinite: Literal["stop", "skip", "rollback"] = "stop"

    def __post_init__(self) -> None:
        for name, least in (("epochs", 1), ("batch_size", 1), ("patience", 1), ("devices", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise SettingsError(f"{name} must be at least {least}, got {value}")
        try:
            check_seed(self.seed)
        except ValueError as error:
            raise SettingsError(str(error)) from None
        for name in ("beta", "warm_up", "free_bits", "dream", "save_every"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise SettingsError(f"{name} must be a finite number, 0 or more, got {value}")
        for name in ("lr", "clip"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise SettingsError(f"{name} must be a finite number above 0, got {value}")

    def rows(self, num_data: int) -> int:
        """Return how many of ``num_data`` training data a step takes, before it is cut to them."""
        if self.batch_size is not None:
            return self.batch_size
        return num_data if self.optimizer == "em" else 128

    @classmethod
    def read(cls, stored: Mapping[str, Any]) -> "Training":
        """Return the settings of a ``config.yaml``; what an older version did not have gets its
        default.

        Raises:
            SettingsError: for an unknown setting, or a value of the wrong kind.
        """
        kinds = get_type_hints(cls)
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
        return cls(**stored)

    @classmethod
    def names(cls) -> list[str]:
        """Return the names of all settings."""
        return [f.name for f in fields(cls)]


SCHEDULES: dict[str, Callable[[int, int], float]] = {
    "inverse-time": lambda step, steps: 1 / (1 + step / 3000),
    "constant": lambda step, steps: 1.0,
    "cosine": lambda step, steps: 0.5 + 0.5 * math.cos(math.pi * step / steps),
    "one-cycle": lambda step, steps: min(1.0, 10 * (step + 1) / steps) * (0.5 + 0.5 * math.cos(math.pi * step / steps)),
}


# as every option is: each setting against its annotation
Training.__init__ = checked(SettingsError)(Training.__init__)  # type: ignore[method-assign]
