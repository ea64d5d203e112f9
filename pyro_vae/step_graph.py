"""One SVI step as one graph: the recorded loss and gradients, then the optimizer's update."""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import pyro
import torch
from pyro.optim import PyroOptim
from torch import Tensor
from torch.optim import Optimizer

from pyro_vae.compiled import RecordingError, Watch, furthest, inductor, record
from pyro_vae.optim_graph import Update
from pyro_vae.recording import trace, undisturbed

# Inductor fuses and reorders sums, so it is further from the recorded graph than that is from eager Pyro.
INDUCTOR_SLACK = 100.0


class Steps(Protocol):
    """What a step graph needs to know of its SVI."""

    optim: PyroOptim | Optimizer
    clip: float | None
    finite: Tensor

    def gradients(self, args: Any, kwargs: Any) -> tuple[Any, list[Tensor]]:
        """Run the ELBO eagerly; return its loss and the parameters to train, whose `grad` is filled."""

    def loss_of(self, args: Any, kwargs: Any) -> Any:
        """Run the ELBO, which calls `backward`; return its loss."""

    def finish(self, loss: Any, params: list[Tensor]) -> Any:
        """Step the optimizer eagerly; return the loss as a tensor."""


class StepGraph:
    """A step for one signature of the arguments.

    Args:
        svi: whose step it is.
        args: data, as given to the step.
        kwargs: the same, by name.
        tensors: the tensors among them, in order.
        params: the parameters that the step trains.
        watch: the Python state that the recording holds fast.

    Attributes:
        engine: "recorded" or "inductor".
        calls: how often it was run.
        tried: whether inductor was tried on it.

    Raises:
        RecordingError: with the reason and the line.
    """

    def __init__(
        self,
        svi: Steps,
        args: Any,
        kwargs: Any,
        tensors: Sequence[Tensor],
        params: list[Tensor],
        watch: Watch,
    ) -> None:
        self._svi, self.watch, self._params = svi, watch, params
        self.calls, self.engine, self.tried = 0, "recorded", False

        def loss_and_grads(grads: list[Tensor | None], *args: Any, **kwargs: Any) -> Any:
            return as_tensors(svi.loss_of(args, kwargs)), list(grads)

        self._recording = record(loss_and_grads, args, kwargs, reference=self._eager, params=params)
        watch.settle()
        leaves = self._recording.present
        self._reached = leaves[len(leaves) - len(params) :]
        self._losses = sum(leaves[: len(leaves) - len(params)])
        store = pyro.get_param_store()._params
        self._stored = [
            (name, p) for name, p in store.items() if any(p is q for q in self._recording.outside)
        ]
        self._bind(tensors)

    def valid(self) -> bool:
        """Tell whether the recording holds: the same Python state, and the same tensors where they were."""
        store = pyro.get_param_store()._params
        return (
            self._recording.valid()
            and all(store.get(name) is p for name, p in self._stored)
            and self.watch.changed() is None
        )

    def run(self, tensors: Sequence[Tensor]) -> Any:
        """Take the step; return the loss."""
        if self._update is None:
            out = self._recording.run(*tensors)
            for p, grad in zip(self._params, self._scatter(out[self._losses :]), strict=True):
                p.grad = grad
            return self._svi.finish(self._loss(out), self._params)
        if not self._update.valid():
            self._bind(tensors)
        self._update.prepare()
        with torch.no_grad():
            out = self._run(*self._held, *tensors)
        self._svi.finite = out[self._losses]
        return self._loss(out)

    def audit(self, args: Any, kwargs: Any, tensors: Sequence[Tensor]) -> None:
        """Compare the recording with an eager run on this batch and these draws, and leave no trace.

        Raises:
            RecordingError: they differ.
        """
        outside = self._recording.outside
        written = [(t, t.detach().clone()) for t in outside if not t.requires_grad and t.is_floating_point()]
        with undisturbed(written):
            loss, grads = self._eager(*args, **kwargs)
        with undisturbed(written), torch.no_grad():
            got = self._recording.graph(*(t.detach() for t in outside), *tensors)
        distance = furthest([*parts(loss), *(g for g in grads if g is not None)], got)
        if distance > 1:
            raise RecordingError(
                f"at call {self.calls} its recording no longer gave what eager Pyro gives ({distance:.0e} times what "
                "rounding explains), so the program depends on something that was changed outside torch"
            )

    def compile(self, tensors: Sequence[Tensor]) -> str | None:
        """Run inductor's code from now on, if it agrees with the recorded graph; return why not."""
        self.tried = True
        try:
            if self._update is None:
                self._recording.compile(*tensors)
            else:
                compiled = inductor(self._graph, [*self._held, *tensors])
                distance = self._distance(compiled, tensors)
                if distance > INDUCTOR_SLACK:
                    return f"its code differs from the recorded graph by {distance:.0e} times what rounding explains"
                self._run = compiled
        except Exception as error:  # whatever goes wrong in a compiler, the recorded graph is there
            return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:200]}"
        self.engine = "inductor"
        return None

    def _distance(self, compiled: Callable[..., Any], tensors: Sequence[Tensor]) -> float:
        """Compare compiled code with the recorded graph on copies: the loss, buffers and the optimizer's
        averages.

        Not the parameters: where a gradient is nothing but rounding, Adam's first steps make a full step of
        it.
        """
        results = []
        for run in (self._graph, compiled):
            held = [t.clone() for t in self._held]
            with undisturbed(), torch.no_grad():
                out = run(*held, *tensors)
            trained = set(self._places)
            results.append([*out[: self._losses], *(t for i, t in enumerate(held) if i not in trained)])
        return furthest(*results)

    def _eager(self, *args: Any, **kwargs: Any) -> Any:
        """Run eager Pyro and return what the recording returns."""
        before = [p.grad for p in self._params]
        for p in self._params:
            p.grad = None
        loss, params = self._svi.gradients(args, kwargs)
        if len(params) != len(self._params) or any(
            p is not q for p, q in zip(params, self._params, strict=True)
        ):
            raise RecordingError(
                "its parameters are not the same tensors at every step, as with a running average in Pyro's store"
            )
        grads = [p.grad for p in params]
        for p, grad in zip(params, before, strict=True):
            p.grad = grad
        return as_tensors(loss), grads

    def _bind(self, tensors: Sequence[Tensor]) -> None:
        """Make the graph of the whole step, on the optimizer's present tensors."""
        optim, recording = self._svi.optim, self._recording
        if isinstance(optim, PyroOptim):
            _create_optimizers(optim, self._params)
        owner = _owners(optim)
        # A parameter that a gradient once reached and now does not has a gradient of zero under Pyro's
        # optimizers.
        zero = [isinstance(optim, PyroOptim) and not r and bool(owner[id(p)][0].state.get(p))
                for p, r in zip(self._params, self._reached, strict=True)]  # fmt: skip
        trained = [
            p
            for p, r, z in zip(self._params, self._reached, zero, strict=True)
            if (r or z) and id(p) in owner
        ]
        clipped = isinstance(optim, PyroOptim) and any(map(optim.grad_clip.get, trained))
        self._update: Update | None = None
        if not trained or clipped or any(Update.why_not(*owner[id(p)]) for p in trained):
            return
        update = self._update = Update([(p, *owner[id(p)]) for p in trained], self._svi.clip)
        n, s = len(recording.outside), len(update.state)
        place = {id(t): i for i, t in enumerate(recording.outside)}
        extra = [p for p in trained if id(p) not in place]
        place |= {id(p): n + i for i, p in enumerate(extra)}
        self._places = [place[id(p)] for p in trained]
        first = n + len(extra)

        def step(*inputs: Tensor) -> list[Tensor]:
            out = recording.graph(*inputs[:n], *inputs[first + s + 1 :])
            grads = self._scatter(out[self._losses :])
            found = [g if g is not None else torch.zeros_like(p) for p, g in zip(self._params, grads, strict=True)
                     if any(p is q for q in trained)]  # fmt: skip
            finite = update.apply(
                [inputs[i] for i in self._places], found, inputs[first : first + s], inputs[first + s],
                torch.stack([loss.reshape(()) for loss in out[: self._losses]]),
            )  # fmt: skip
            return [*out[: self._losses], finite]

        self._held = [t.detach() for t in (*recording.outside, *extra, *update.state, update.numbers)]
        with undisturbed(), torch.no_grad():
            self._graph = trace(step, [*(t.clone() for t in self._held), *tensors])
        self._run: Callable[..., Any] = self._graph
        self.engine, self.tried = "recorded", False

    def _scatter(self, grads: Sequence[Tensor]) -> list[Tensor | None]:
        found = iter(grads)
        return [next(found) if reached else None for reached in self._reached]

    def _loss(self, out: Sequence[Tensor]) -> Any:
        """Return the loss as the ELBO returns it: a tensor, or a tuple of them."""
        return self._recording.assemble([*out[: self._losses], *([None] * sum(self._reached))])[0]


def as_tensors(loss: Any) -> Any:
    """Return a loss with its numbers as detached tensors; some ELBOs return a tuple of losses."""
    if isinstance(loss, tuple):
        return tuple(as_tensors(part) for part in loss)
    return loss.detach() if isinstance(loss, Tensor) else torch.tensor(float(loss))


def parts(loss: Any) -> tuple[Tensor, ...]:
    """Return the loss, or the losses, as a tuple."""
    return loss if isinstance(loss, tuple) else (loss,)


def _owners(optim: PyroOptim | Optimizer) -> dict[int, tuple[Optimizer, dict[str, Any]]]:
    """Return for each parameter its torch optimizer and its group there."""
    if isinstance(optim, Optimizer):
        return {id(p): (optim, group) for group in optim.param_groups for p in group["params"]}
    inner = {
        p: getattr(one, "optimizer", one) for p, one in optim.optim_objs.items()
    }  # a schedule wraps its optimizer
    return {id(p): (one, one.param_groups[0]) for p, one in inner.items()}


def _create_optimizers(optim: PyroOptim, params: Sequence[Tensor]) -> None:
    """Create the optimizer of each new parameter as PyroOptim does at its first step, without a step."""
    for p in params:
        if p not in optim.optim_objs:
            optim.optim_objs[p] = optim._get_optim(p)
            optim.grad_clip[p] = optim._get_grad_clip(p)
            with contextlib.suppress(KeyError):  # nothing loaded is waiting for it
                state = optim._state_waiting_to_be_consumed.pop(pyro.get_param_store().param_name(p))
                pyro.optim.optim._load_state_dict(optim.optim_objs[p], state)
