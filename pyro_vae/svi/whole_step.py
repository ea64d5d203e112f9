"""The whole step as one piece of compiled code: recorded gradients, then the optimizer's update on its own tensors.

The recorded graph yields loss and gradients; `optimizers.Update` continues it, in tensor operations, to new parameters
and averages, which the graph writes where the optimizer keeps them. What the host computes for a step (learning rate,
bias corrections) is an input. So one call of inductor's code takes the step.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import pyro
import torch
from pyro.optim import PyroOptim
from pyro.optim.lr_scheduler import PyroLRScheduler
from torch import Tensor
from torch.optim import Optimizer

from pyro_vae.compiled import Code, Recording, copies, trace, undisturbed
from pyro_vae.svi.optimizers import Owned, Update, owners

_CALLS = PyroOptim.__call__, PyroLRScheduler.__call__  # which do nothing but step; one's own may do more


class UpdateCode:
    """Inductor's code for what ends in an update of parameters.

    Compared with its graph, on the very tensors that it writes, are the losses, buffers and the optimizer's averages; not the
    parameters: where a gradient is nothing but rounding, Adam's first steps make a full step of it.

    Args:
        step: what it does: takes `outside`, the optimizer's tensors and numbers, then `tensors`; it returns `losses` losses, and
            whether they were finite, and whether all values were valid.
        update: the update that is part of it.
        outside: tensors that it reads or writes where they are.
        params: those of them that it trains.
        statistics: those of them that it writes besides.
        tensors: data, like those it will be called with.
        losses: how many there are.
    """

    def __init__(
        self,
        step: Callable[..., list[Tensor]],
        update: Update,
        outside: Sequence[Tensor],
        params: Sequence[Tensor],
        statistics: Sequence[Tensor],
        tensors: Sequence[Tensor],
        losses: int,
    ) -> None:
        self._outside, self._params, self._statistics = outside, params, statistics
        held, written = self._hold(update)
        with undisturbed(copies(written)), torch.no_grad():
            graph = trace(step, [*held, *tensors])
        averages = len(written) - len(params)
        self.code = Code(
            graph, held, written, tensors, lambda found: [*found[:losses], *found[len(found) - averages :]]
        )

    def _hold(self, update: Update) -> tuple[list[Tensor], list[Tensor]]:
        """Return the tensors that stay from step to step, and those that are written."""
        self.update = update
        held = [t.detach() for t in (*self._outside, *update.state, update.numbers)]
        return held, [*self._params, *self._statistics, *update.state]

    def moved(self, update: Update, tensors: Sequence[Tensor]) -> "UpdateCode":
        """Return the same code on other tensors of the optimizer."""
        self.code.move(*self._hold(update), tensors)
        return self

    def __call__(self, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
        """Take a step and return what it returns; if it counts, `update.count` is to be told."""
        self.update.prepare()
        return self.code(tensors)

    def run_on(
        self, slices: Sequence[Sequence[Tensor]], prepare: Callable[[], None], until: Callable[[], bool]
    ) -> list[Sequence[Tensor]]:
        """Take a step on each, after a ``prepare`` for each, until told to stop."""
        outs: list[Sequence[Tensor]] = []
        for tensors in slices:
            prepare()
            outs.append(self(tensors))
            self.update.count()
            if until():
                break
        return outs


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
    owned, held = _updated(optim, params, reached)
    if not owned:
        return None
    update = Update(owned, clip, held)
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

    return UpdateCode(step, update, recording.outside, trained, recording.written, tensors, losses)


def _updated(
    optim: PyroOptim | Optimizer, params: Sequence[Tensor], reached: Sequence[bool]
) -> tuple[list[Owned], list[dict[Any, Any]]]:
    """Return the parameters that a step updates, none if not all can be in a graph, and dictionaries of a Pyro optimizer that
    must stay as they are; leave zeros for gradients as Pyro does.
    """
    if isinstance(optim, PyroOptim):
        if type(optim).__call__ not in _CALLS:
            return [], []
        _create_optimizers(optim, params)
    owner = owners(optim)
    owned = [(p, *owner[id(p)]) for p, here in zip(params, reached, strict=True) if here and id(p) in owner]
    if not all(Update.covers(optimizer, group) for _, optimizer, group in owned):
        return [], []
    if not isinstance(optim, PyroOptim):
        return owned, []
    missed = [(p, owner[id(p)][0].state) for p, here in zip(params, reached, strict=True) if not here]
    # where a gradient reached one in other steps, Pyro's optimizers go on moving it
    if any(state.get(p) for p, state in missed) or any(optim.grad_clip.get(p) for p, *_ in owned):
        return [], []
    for p, *_ in owned:
        p.grad = torch.zeros_like(p)  # steps that do not reach it go on moving it
    return owned, [optim.optim_objs, optim.grad_clip, *(state for _, state in missed)]


def _create_optimizers(optim: PyroOptim, params: Sequence[Tensor]) -> None:
    """Create the optimizer of each new parameter as PyroOptim does at its first step, without a step."""
    for p in params:
        if p not in optim.optim_objs:
            optim.optim_objs[p] = optim._get_optim(p)
            optim.grad_clip[p] = optim._get_grad_clip(p)
            with suppress(KeyError):  # nothing loaded is waiting for it
                state = optim._state_waiting_to_be_consumed.pop(pyro.get_param_store().param_name(p))
                pyro.optim.optim._load_state_dict(optim.optim_objs[p], state)
