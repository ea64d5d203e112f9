"""The whole step as one piece of compiled code: recorded gradients, then the optimizer's update on its own tensors.

The recorded graph yields loss and gradients; `optimizers.Update` continues it, in tensor operations, to new parameters
and averages, which the graph writes where the optimizer keeps them. What the host computes for a step (learning rate,
bias corrections) is an input. So one call of inductor's code takes the step. The code is compared with its graph on
those very tensors, which are put back.
"""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import pyro
import torch
from pyro.optim import PyroOptim
from pyro.optim.lr_scheduler import PyroLRScheduler
from torch import Tensor
from torch.optim import Optimizer

from pyro_vae.compiled import (
    Recording,
    capturable,
    captured,
    copies,
    in_short,
    inductor,
    inductors_distance,
    like,
    private,
    trace,
    undisturbed,
)
from pyro_vae.svi.optimizers import Update, owners

_CALLS = PyroOptim.__call__, PyroLRScheduler.__call__  # which do nothing but step; one's own may do more


class UpdateCode:
    """Inductor's code for what ends in an update of parameters.

    Args:
        step: what it does: takes `outside`, the optimizer's tensors and numbers, then `tensors`; the last two tensors that it returns
            say whether the loss was finite, and whether all values were valid.
        update: the update that is part of it.
        outside: tensors that it reads or writes where they are.
        written: those of them that it writes besides parameters.
        places: where the parameters are among them.
        tensors: data, like those it will be called with.
    """

    def __init__(
        self,
        step: Callable[..., list[Tensor]],
        update: Update,
        outside: Sequence[Tensor],
        written: Sequence[Tensor],
        places: Sequence[int],
        tensors: Sequence[Tensor],
    ) -> None:
        self._outside, self._places = outside, set(places)
        statistics = {id(t) for t in written}
        self._statistics = [i for i, t in enumerate(self._outside) if id(t) in statistics]
        self._hold(update)
        changed = {*self._places, *self._averages}
        spare = [like(t) if i in changed else t for i, t in enumerate(self._held)]
        with undisturbed(), torch.no_grad():
            self._graph = trace(step, [*spare, *tensors])
        self._code = inductor.compile_graph(self._graph, [*self._held, *tensors])
        self._run = self._code

    def _hold(self, update: Update) -> None:
        self.update = update
        self._held = [t.detach() for t in (*self._outside, *update.state, update.numbers)]
        first = len(self._outside)
        self._averages = [*self._statistics, *range(first, first + len(update.state))]

    def moved(self, update: Update, tensors: Sequence[Tensor]) -> "UpdateCode":
        """Return the same code on other tensors of the optimizer."""
        self._hold(update)
        if self._run is not self._code and self.capture(tensors) is not None:
            self.launch_one_by_one()
        return self

    def capturable(self, tensors: Sequence[Tensor]) -> bool:
        """Return whether it could be one CUDA graph."""
        return capturable([*self._held, *tensors])

    def capture(self, tensors: Sequence[Tensor]) -> str | None:
        """Replay it as one CUDA graph from now on; return why not."""
        try:
            self._run = captured(self._code, [*self._held, *tensors], len(self._held) - 1, self._written())
        except Exception as error:  # the code itself is there
            return in_short(error)
        return None

    def launch_one_by_one(self) -> None:
        """Run the code itself again."""
        self._run = self._code

    def _written(self) -> list[Tensor]:
        return [self._held[i] for i in (*self._places, *self._averages)]

    def __call__(self, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
        """Count a step, take it, and return what it returns."""
        self.update.prepare()
        grad = torch.is_grad_enabled()
        set_grad_enabled = private("set_grad_enabled")  # torch.no_grad() itself takes 17 us here
        set_grad_enabled(False)
        try:
            return self._run(*self._held, *tensors)
        finally:
            set_grad_enabled(grad)

    def run_on(
        self, slices: Sequence[Sequence[Tensor]], prepare: Callable[[], None], until: Callable[[], bool]
    ) -> list[Sequence[Tensor]]:
        """Run on each, after a ``prepare`` for each, until told to stop."""
        outs: list[Sequence[Tensor]] = []
        with torch.no_grad():
            for tensors in slices:
                prepare()
                self.update.prepare()
                outs.append(self._run(*self._held, *tensors))
                if until():
                    break
        return outs

    def distance(self, losses: int, tensors: Sequence[Tensor], seed: int | None = None) -> float:
        """Compare compiled code with the recorded graph, on the very tensors that it will write, and put them back: the loss,
        buffers and the optimizer's averages.

        Not the parameters: where a gradient is nothing but rounding, Adam's first steps make a full step of
        it.
        """
        results = []
        averages = [self._held[i] for i in self._averages]
        for run in (self._graph, self._run):
            with undisturbed(copies(self._written())), torch.no_grad():
                if seed is not None:
                    torch.manual_seed(seed)
                out = run(*self._held, *tensors)
                results.append([*out[:losses], *(t.clone() for t in averages)])
        return inductors_distance(self._graph, *results)


def whole_step(
    recording: Recording,
    params: Sequence[Tensor],
    optim: PyroOptim | Optimizer,
    clip: float | None,
    tensors: Sequence[Tensor],
    old: UpdateCode | None = None,
) -> UpdateCode | None:
    """Return a recorded step with its update as compiled code; None if the optimizer's update has no such form.

    Args:
        recording: of loss or losses, and of the gradient of each of `params` or None.
        params: the parameters that the step trains.
        optim: what makes the update.
        clip: largest norm of the gradient of all parameters together, or None.
        tensors: data, like those it will be called with.
        old: code of the same step that may serve again, on other tensors of the optimizer.
    """
    reached = recording.present[-len(params) :] if params else []
    owned = _updated(optim, params, reached)
    if owned is None:
        return None
    update = Update(owned, clip, _held_by_pyro(optim, params, reached))
    if old is not None and old.update.plan == update.plan:
        return old.moved(update, tensors)
    trained = [p for p, *_ in owned]
    places = [next(i for i, t in enumerate(recording.outside) if t is p) for p in trained]
    wanted = {id(p) for p in trained}
    chosen = [id(p) in wanted for p, here in zip(params, reached, strict=True) if here]
    n, s, losses = len(recording.outside), len(update.state), sum(recording.present) - sum(reached)

    def step(*inputs: Tensor) -> list[Tensor]:
        out = recording.graph(*inputs[:n], *inputs[n + s + 1 :])
        valid = out[-1] if recording.checks else None
        grads = [grad for grad, here in zip(out[losses:], chosen, strict=False) if here]
        loss = torch.stack([part.reshape(()) for part in out[:losses]])
        guarded = isinstance(optim, Optimizer)  # Pyro's take their step whatever the loss
        finite = update.apply(
            [inputs[i] for i in places], grads, inputs[n : n + s], inputs[n + s], loss, valid, guarded
        )
        return [*out[:losses], finite, torch.ones_like(finite) if valid is None else valid]

    return UpdateCode(step, update, recording.outside, recording.written, places, tensors)


def _updated(
    optim: PyroOptim | Optimizer, params: Sequence[Tensor], reached: Sequence[bool]
) -> list[tuple[Tensor, Optimizer, dict[str, Any]]] | None:
    """Return the parameters that a step updates, each with its optimizer and group; None if not all can be in a graph."""
    if isinstance(optim, PyroOptim):
        if type(optim).__call__ not in _CALLS:
            return None
        _create_optimizers(optim, params)
    owner = owners(optim)
    owned = []
    for p, here in zip(params, reached, strict=True):
        if id(p) not in owner:
            continue
        if here:
            owned.append((p, *owner[id(p)]))
        elif isinstance(optim, PyroOptim) and owner[id(p)][0].state.get(p):
            return None  # a gradient reached it in other steps, so Pyro's optimizers go on moving it
    if isinstance(optim, PyroOptim) and any(optim.grad_clip.get(p) for p, *_ in owned):
        return None
    return None if not owned or any(Update.why_not(*owner[id(p)]) for p, *_ in owned) else owned


def _held_by_pyro(
    optim: PyroOptim | Optimizer, params: Sequence[Tensor], reached: Sequence[bool]
) -> list[dict[Any, Any]]:
    """Return the dictionaries of a Pyro optimizer that must stay as they are, and leave zeros for gradients as Pyro does."""
    if not isinstance(optim, PyroOptim):
        return []
    owner = owners(optim)
    held: list[dict[Any, Any]] = [optim.optim_objs, optim.grad_clip]
    for p, here in zip(params, reached, strict=True):
        if not here:
            held.append(owner[id(p)][0].state)
        elif id(p) in owner:
            p.grad = torch.zeros_like(p)  # steps that do not reach it go on moving it
    return held


def _create_optimizers(optim: PyroOptim, params: Sequence[Tensor]) -> None:
    """Create the optimizer of each new parameter as PyroOptim does at its first step, without a step."""
    for p in params:
        if p not in optim.optim_objs:
            optim.optim_objs[p] = optim._get_optim(p)
            optim.grad_clip[p] = optim._get_grad_clip(p)
            with contextlib.suppress(KeyError):  # nothing loaded is waiting for it
                state = optim._state_waiting_to_be_consumed.pop(pyro.get_param_store().param_name(p))
                pyro.optim.optim._load_state_dict(optim.optim_objs[p], state)
