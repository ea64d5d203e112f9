"""All that a training step changes: the pair, its optimizer, the weight of the KL, and the stepper."""

import copy
import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_vae.data import Data
from pyro_vae.objectives import Dreaming, InPieces
from pyro_vae.program import Pair, declared, require_trainable
from pyro_vae.runs import checkpoint
from pyro_vae.svi import SVI, Exchange, Schedule, World
from pyro_vae.training.average import Average
from pyro_vae.training.devices import convert, place, resolve_device
from pyro_vae.training.expectation_maximization import EM, owners_of
from pyro_vae.training.interruption import SIGNALS
from pyro_vae.training.optimizers import optimizer, optimizer_state
from pyro_vae.training.programs import require_possible, weighted_programs
from pyro_vae.training.settings import SCHEDULES, SettingsError, Training, own_name
from pyro_vae.training.starting import SEEN, start_from_data, warn_of_symmetry
from pyro_vae.training.stepper import BlockStepper, Stepper, require_stepper

CHECKED_BATCH = 16  # data that the pair is tried on before the first step


class Taken(NamedTuple):
    """How a step went."""

    loss: float
    """In nats per datum."""
    finite: bool
    """Whether loss and gradient were; the step has changed nothing if not."""
    sound: bool
    """Whether parameters and buffers are finite after it."""


class Trainer:
    """A pair with what trains it.

    Args:
        pair: trained in place, after it was checked on a few data.
        data: to train on.
        training: the settings.
        world: the processes of the job; they begin with process 0's parameters.

    Attributes:
        rows: data of a batch, all processes together.
        steps_per_epoch: how many batches an epoch has.
        exchange: what connects several processes, or None.
        stepper: what takes the steps.
        watched: parameters and buffers that steps must leave finite; one that was not from the
            start, such as a mask of -inf, is none of them.

    Raises:
        PairError: when the pair breaks its contract.
        SettingsError: when there is no such device.
    """

    def __init__(self, pair: Pair, data: Data, training: Training, world: World) -> None:
        self.pair, self.training, self.world = pair, training, world
        self.device = resolve_device(training, data, world)
        self.dtype = torch.float64 if training.precision == "64" else torch.float32
        convert(pair, self.device, self.dtype)
        require_trainable(pair, self.place(data.batch("train", CHECKED_BATCH)))
        require_possible(pair, data, self.place)
        start_from_data(pair, self.place(data.subset("train", SEEN)[0]))
        warn_of_symmetry(pair)
        self.rows = training.rows(data.size("train"))
        self.steps_per_epoch = data.num_batches(self.rows)
        self.beta = torch.tensor(training.beta, dtype=self.dtype, device=self.device)
        params = list(pair.named_parameters().values())
        self.optimizer = optimizer(training, params, declared(pair.objective).momentum)
        self._peaks = [group["lr"] for group in self.optimizer.param_groups]
        self.exchange = self._join() if world.size > 1 else None
        make: Any = pair.stepper or SVI
        if training.optimizer == "em":
            make = partial(EM, owners=owners_of(pair), stepwise=self.rows < data.size("train"))
        self.stepper: Stepper = make(
            *weighted_programs(pair, training, data.size("train"), self.beta, self.device),
            self.optimizer,
            self._objective(),
            # without a bound too: the norm reveals a non-finite gradient before it reaches the parameters
            clip=math.inf if training.clip is None else training.clip,
            compile=training.compile,
            exchange=self.exchange,
        )
        require_stepper(self.stepper)
        tensors = pair.named_parameters() | pair.named_buffers()
        floats = {name: t for name, t in tensors.items() if t.is_floating_point() and t.numel()}
        self.watched = {name: t for name, t in floats.items() if t.isfinite().all()}
        self.average = Average(pair, training.ema) if training.ema and training.optimizer != "em" else None
        one_rate = len(set(self._peaks)) == 1
        self._takes_blocks = isinstance(self.stepper, BlockStepper) and one_rate

    def _objective(self) -> Any:
        found, training = self.pair.objective, self.training
        if training.dream:
            found = Dreaming(found, training.dream)
        return InPieces(found, training.accumulate) if training.accumulate > 1 else found

    def _join(self) -> Exchange:
        self.world.share([*self.pair.named_parameters().values(), *self.pair.named_buffers().values()])
        return Exchange(self.world, list(self.pair.named_buffers().values()), votes=1 + len(SIGNALS))

    def place(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the batch where the pair is."""
        return place(batch, self.device, self.dtype)

    def rates(self, step: int, rollbacks: int) -> list[float]:
        """Return each parameter group's learning rate at a step, counted from 0; each going back has
        halved it.

        Raises:
            SettingsError: the user's own schedule does not return a number, 0 or more.
        """
        t = self.training
        chosen = SCHEDULES[t.schedule] if isinstance(t.schedule, str) else t.schedule
        factor = chosen(step, t.epochs * self.steps_per_epoch)
        if not isinstance(factor, int | float) or not factor >= 0:
            raise SettingsError(
                f"schedule {own_name(chosen)} returned {factor!r} for step {step}; return a factor of the learning rate, "
                "a number of 0 or more"
            )
        # torch refuses a number too large for its type, and takes infinity
        most = torch.finfo(self.dtype).max / 100
        return [rate if (rate := peak * factor * 0.5**rollbacks) < most else math.inf for peak in self._peaks]

    def weight(self, step: int) -> float:
        """Return the KL's weight at a step, counted from 0."""
        t = self.training
        return t.beta * min(1.0, step / (t.warm_up * self.steps_per_epoch)) if t.warm_up else t.beta

    def step(self, batch: Mapping[str, Tensor], step: int, rollbacks: int) -> Taken:
        """Take a step on a batch that is placed; what it gave is read from the device at once."""
        for group, rate in zip(self.optimizer.param_groups, self.rates(step, rollbacks), strict=True):
            group["lr"] = rate
        if self.training.warm_up:
            self.beta.fill_(self.weight(step))
        loss = self.stepper.update(batch)
        found, finite, sound = self._read(loss.reshape(1))
        taken = Taken(found, math.isfinite(found) and bool(finite), bool(sound))
        if self.average is not None and taken.finite and taken.sound:
            self.average.update()
        return taken

    def _read(self, losses: Tensor) -> list[float]:
        """Return losses, whether they and the gradients were finite, and whether the parameters are."""
        with torch.no_grad():
            sums = [tensor.sum(dtype=self.dtype) for tensor in self.watched.values()]
        told = (losses, self.stepper.finite.reshape(1), *(each.reshape(1) for each in sums))
        read = torch.cat([each.to(self.device, torch.float64) for each in told]).tolist()
        count = len(losses) + 1
        # a sum is finite only if all its terms are; where it is not, it may still be large for its type alone
        sound = all(map(math.isfinite, read[count:])) or all(t.isfinite().all() for t in self.watched.values())
        return [*read[:count], sound]

    @property
    def in_blocks(self) -> bool:
        """Whether many steps in one call are faster by now than one by one."""
        return self._takes_blocks and self.stepper.settled  # type: ignore[attr-defined]

    def steps(
        self, batches: Mapping[str, Tensor], step: int, rollbacks: int, until: Callable[[], bool]
    ) -> list[float] | None:
        """Take a step on each slice of placed data until told to stop; return the losses.

        They are read from the device at the end, once. If one of them, its gradient or a parameter
        is not finite, the result is None and everything is as it was before the first.
        """
        assert isinstance(self.stepper, BlockStepper)
        before = self.snapshot()
        numbers = range(step, step + len(next(iter(batches.values()))))
        weights = torch.tensor([self.weight(i) for i in numbers], dtype=self.dtype).to(self.device, non_blocking=True)
        schedule = Schedule(
            torch.tensor([self.rates(i, rollbacks)[0] for i in numbers], dtype=torch.float64),
            [(self.beta, weights)] if self.training.warm_up else (),
        )
        losses = self.stepper.steps(batches, schedule=schedule, until=self._averaging(until))
        *found, finite, sound = self._read(losses)
        if finite and sound and all(map(math.isfinite, found)):
            return found
        self.load_state_dict(before)
        return None

    def _averaging(self, until: Callable[[], bool]) -> Callable[[], bool]:
        """Return what is asked after each step, and takes the parameters into their average then."""
        if self.average is None:
            return until
        average = self.average

        def asked() -> bool:
            average.update()
            return until()

        return asked

    def judged(self) -> AbstractContextManager[None]:
        """Let the pair have the parameters that are judged and kept: their average, if one is wanted."""
        return nullcontext() if self.average is None else self.average.in_place()

    def snapshot(self) -> dict[str, Any]:
        """Return a copy of the state, on the device."""
        state = self._state({name: tensor.clone() for name, tensor in self.pair.state_dict().items()})
        return {**state, "optimizer": copy.deepcopy(state["optimizer"]), "svi": copy.deepcopy(state["svi"])}

    def state_dict(self) -> dict[str, Any]:
        """Return all that the next step depends on; tensors are those in use, not copies."""
        return self._state({name: tensor.cpu() for name, tensor in self.pair.state_dict().items()})

    def _state(self, parameters: dict[str, Tensor]) -> dict[str, Any]:
        return {
            "parameters": parameters,
            "optimizer": self.optimizer.state_dict(),
            "svi": self.stepper.state_dict(),
            "beta": self.beta.item(),
            "random": checkpoint.random_state(),
            "average": None if self.average is None else self.average.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what ``state_dict`` returned, perhaps on another device."""
        self.pair.load_state_dict(state["parameters"])
        self.optimizer.load_state_dict(optimizer_state(state["optimizer"], self.optimizer))
        self.stepper.load_state_dict(state["svi"])
        self.beta.fill_(state["beta"])
        if self.average is not None and state.get("average"):
            self.average.load_state_dict(state["average"])
        checkpoint.set_random_state(state["random"])
