"""A step that is taken eagerly and watched before it is recorded; where it cannot be recorded, it was the step."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import FunctionType
from typing import Any

import pyro
import torch
from pyro.optim import PyroOptim
from torch import Tensor

from pyro_vae.compiled import (
    Held,
    Observe,
    RecordingError,
    Watch,
    copies,
    in_short,
    put_back,
    random_state,
    refuse_written,
    set_random_state,
    signature,
)
from pyro_vae.svi.eager import EagerSVI, as_tensors

RUNNING_AVERAGE = "its parameters are not the same tensors at every step, like a running average in the store"


class FirstStep:
    """Loss and gradients of a step that Pyro took, and what it changed.

    Args:
        svi: whose step it is.
        args: data, as given to the step.
        kwargs: the same, by name.

    Attributes:
        watch: the Python state that its programs can reach, as it was before.
        params: the parameters that it trains.

    Raises:
        RecordingError: it cannot be watched. Nothing has been taken, nor changed, then.
    """

    def __init__(self, svi: EagerSVI, args: Any, kwargs: Any) -> None:
        self._svi, self._args, self._kwargs = svi, args, kwargs
        self._key, self._given = signature(args, kwargs)
        self._stored = dict(pyro.get_param_store()._params)
        functions = [part for part in self._key if isinstance(part, FunctionType | type)]
        own = Held(vars(svi), ("model", "guide", "loss_and_grads"))
        roots = svi.model, svi.guide, svi.objective, svi.loss_and_grads, *self._stored.values(), *functions
        try:
            self.watch = Watch(*roots, held=[own])
        except RecordingError:
            raise
        except Exception as error:  # objects may answer as they like
            raise RecordingError(f"its Python state cannot be watched ({in_short(error)})") from error
        self._before, self._watching = random_state(), Observe(self._given)
        self._after: tuple[list[Tensor], list[tuple[Tensor, Tensor]]] | None = None
        try:
            with self._watching:
                self._loss, self.params = svi.gradients(args, kwargs)
        except Exception as error:  # the program's own, or of what cannot run under a mode, such as TorchScript
            set_random_state(self._before)
            put_back(self._watching.saved)
            self.watch.put_back()
            raise RecordingError(f"watching it raised {in_short(error)}") from error
        self._grads = [p.grad for p in self.params]

    def changed(self) -> str | None:
        """Return the name of what the step changed for good, such as what it makes when it runs first; None if nothing.

        Raises:
            RecordingError: a recording could not repeat what it did.
        """
        refuse_written(self._watching)
        key, given = signature(self._args, self._kwargs)
        if key != self._key or any(one is not two for one, two in zip(given, self._given, strict=True)):
            raise RecordingError("it changes a list or dictionary that it is given; let it change a copy")
        drawn = self.watch.drawn()
        if drawn is not None:
            raise RecordingError(
                f"it draws from {drawn}, and a recording would repeat the first draw; draw with torch's global state"
            )
        store = pyro.get_param_store()._params
        if any(store.get(name) is not p for name, p in self._stored.items()):
            raise RecordingError(RUNNING_AVERAGE)
        known = {id(p) for m in self.watch.modules for p in m.parameters(False)} | set(map(id, self._stored.values()))
        new = known if isinstance(self._svi.optim, PyroOptim) else set(map(id, self.params))
        if any(self._watching.made(p) or id(p) not in new for p in self.params):
            return "its parameters"
        return self.watch.changed(run=True)

    def rewind(self) -> None:
        """Put back what the step has drawn and written, so that it can be taken again."""
        self._after = random_state(), copies([t for t, _ in self._watching.saved])
        set_random_state(self._before)
        put_back(self._watching.saved)
        pyros = isinstance(self._svi.optim, PyroOptim)  # which leave zeros behind
        for p, grad in zip(self.params, self._grads, strict=True):
            p.grad = torch.zeros_like(grad) if pyros and grad is not None else None

    def finish(self) -> Any:
        """Take the optimizer's step; return the loss. All is then as after an eager step, also if it was rewound."""
        if self._after is not None:
            state, written = self._after
            set_random_state(state)
            put_back(written)
            self.watch.put_back()
        for p, grad in zip(self.params, self._grads, strict=True):
            p.grad = grad
        return self._svi.finish(as_tensors(self._loss, self.params), self.params)


@contextmanager
def store_kept() -> Iterator[None]:
    """Put back the tensors that recording replaces in Pyro's parameter store."""
    store = pyro.get_param_store()
    kept = dict(store._params)
    try:
        yield
    finally:
        replaced = [name for name, p in kept.items() if store._params.get(name) is not p]
        for name in replaced:
            store._params[name] = kept[name]
            store._param_to_name[kept[name]] = name
