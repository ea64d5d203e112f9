"""Stochastic variational inference with pyro.infer.SVI's signature, compiled where that changes no number."""

import hashlib
import math
from collections.abc import Callable
from typing import Any

import torch
from pyro.infer import ELBO
from pyro.optim import PyroOptim
from pyro.poutine.runtime import _PYRO_STACK
from torch import Tensor
from torch.optim import Optimizer

from pyro_vae.compiled import (
    RecordingError,
    Watch,
    call_with,
    in_short,
    random_state,
    set_random_state,
    signature,
    surroundings,
)
from pyro_vae.svi.blocks import Schedule
from pyro_vae.svi.eager import JITS, EagerSVI, InvalidData, as_tensors
from pyro_vae.svi.exchange import Exchange
from pyro_vae.svi.first import FirstStep, store_kept
from pyro_vae.svi.forecast import Forecast, Mode
from pyro_vae.svi.replay import StepGraph, audited

__all__ = ["SVI", "Mode"]

MOST_RECORDINGS = 8
PATIENCE = 50  # calls in one state that earn a recording once others have come in vain
MOST_COUNTS = 256  # signatures whose calls are counted

_TRUE = torch.tensor(True)


class SVI(EagerSVI):
    """Drop-in for `pyro.infer.SVI`: `step` returns the same loss, and takes a fraction of the time where
    Python is the cost.

    When it pays, a call records the step (loss, gradients, optimizer) as one graph of tensor operations and checks it
    against eager Pyro; later calls replay it. A program that cannot be recorded soundly runs eagerly: one warning
    names the reason.

    Args:
        model: any Pyro program.
        guide: any Pyro program.
        optim: a Pyro optimizer, which trains every parameter that the programs announce, or a torch
            optimizer, which trains the parameters it was given. Learning rates may change from step to step.
        loss: a Pyro ELBO, or `loss(model, guide, *args)` that returns a scalar tensor.
        compile: "on" compiles before the first step; "recorded" replays the recorded graph and never
            compiles; "off" runs eagerly; "auto" records and compiles when it pays, and in a resumed run as in
            one that was not stopped (docs/compiled.md).
        clip: largest norm of the gradient over all parameters; torch optimizers only (a Pyro optimizer has
            `clip_args`).
        steps: how many steps are planned, which "auto" goes by.
        exchange: adds up loss and gradients of several processes, each of which takes every step with its share of the batch.
        loss_and_grads: as in Pyro, for a `loss` that is a function.
        num_samples: as in Pyro, which deprecates it: traces that `run` draws.
        num_steps: the same: steps that `run` takes.

    Attributes:
        why_not: why the last step ran eagerly, or None.
        finite: whether the last step's loss (and clipped norm) was finite, a 0-dim bool tensor. If not, a torch optimizer
            was not called; a Pyro one was, as Pyro does.
        count: steps taken, part of `state_dict`.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        guide: Callable[..., Any],
        optim: PyroOptim | Optimizer,
        loss: ELBO | Callable[..., Any],
        loss_and_grads: Callable[..., Any] | None = None,
        num_samples: int = 0,
        num_steps: int = 0,
        *,
        compile: Mode = "auto",
        clip: float | None = None,
        steps: int | None = None,
        exchange: Exchange | None = None,
    ) -> None:
        super().__init__(model, guide, optim, loss, clip, exchange, loss_and_grads, num_samples, num_steps)
        if compile not in ("auto", "on", "off", "recorded"):
            raise ValueError(f"compile is {compile!r}; give 'auto', 'on', 'off' or 'recorded'")
        self.mode: Mode = compile
        self.forecast = Forecast(compile, steps)
        self.count = 0
        self.why_not: str | None = None
        self.valid = _TRUE  # whether the last step's data were valid, as torch and Pyro see it
        self._calls: dict[str, int] = {}
        self._graphs: dict[tuple[Any, ...], list[StepGraph]] = {}
        self._changed_at = -1  # count of the last step that changed something for good, such as created parameters
        self._recorded, self._recorded_at, self._in_vain = 0, (-1, ""), 0
        self._waiting: Watch | None = None  # the Python state since when `_still` counts
        self._still: dict[str, int] = {}
        self._patience = PATIENCE
        self._arguments: dict[Any, Any] = {}
        self._last: StepGraph | None = None  # what took the last step, if that was replayed
        self._doubtful = False  # the last loss was not finite
        self._said: set[str] = set()
        self._given_up = self._why_never()

    def _why_never(self) -> str | None:
        if self.mode == "off":
            return "compile is 'off'"
        if isinstance(self.objective, JITS):
            return f"{type(self.objective).__name__} records its step itself; its sibling without Jit is faster"
        return self.forecast.why_never()

    @property
    def engine(self) -> str:
        """What ran the last step: "eager", "recorded" or "inductor"."""
        return "eager" if self._last is None else self._last.engine

    @property
    def compiled(self) -> bool:
        """Whether the last step was a replayed graph (recorded or compiled by inductor)."""
        return self._last is not None

    def step(self, *args: Any, **kwargs: Any) -> Any:
        """Take a gradient step; return the loss as a number (a tuple of them where the ELBO returns one)."""
        loss = _numbers(self.update(*args, **kwargs))
        if not self.valid:  # known without waiting by now, since the loss is
            return _numbers(self._again(args, kwargs))
        self._doubtful = not all(map(math.isfinite, loss if isinstance(loss, tuple) else (loss,)))
        if self._doubtful:
            done = (
                "no parameter was changed" if isinstance(self.optim, Optimizer) else "the step was taken, as Pyro does"
            )
            self._say("finite", f"the loss of step {self.count} is not finite ({loss}); {done}.")
        return loss

    def update(self, *args: Any, **kwargs: Any) -> Any:
        """Take a gradient step; return the loss as a detached tensor, without waiting for the device."""
        self.count += 1
        self.valid = _TRUE
        if self._given_up is not None:
            return self._step_eagerly(self._given_up, args, kwargs)
        if _PYRO_STACK or not torch.is_grad_enabled():
            return self._step_eagerly("the step was called inside a Pyro handler", args, kwargs)
        if self._doubtful and torch.distributions.Distribution._validate_args:
            self._doubtful = False
            return self._step_eagerly("the last loss was not finite, so Pyro is to validate this one", args, kwargs)
        return self._replay(args, kwargs)

    @property
    def settled(self) -> bool:
        """Whether many steps in one call (`steps`) are faster by now than one by one."""
        return self.engine == "inductor" and self.exchange is None

    def steps(
        self, *args: Any, schedule: Schedule | None = None, until: Callable[[], bool] = lambda: False, **kwargs: Any
    ) -> Any:
        """Take a step on each slice of the data along its first dim; return the losses as one detached tensor.

        The same steps as `update(x[0])`, `update(x[1])` and so on, for every tensor x among the arguments, to the bit. Compiled
        ones follow each other without Python looking between them whether anything has changed, which in a small model
        takes longer than the step. `finite` then tells whether all losses were.

        Args:
            args: data in any nest of lists, tuples and dicts; each tensor ``(steps, ...)``. Other values are the same at each step.
            schedule: learning rates, and values of tensors that the programs read, one per step.
            until: asked after each step; when it returns true, no further step is taken, and the losses are those of the steps taken.
            kwargs: data by name; none can be called ``schedule`` or ``until``.

        Raises:
            ValueError: the tensors differ in their first dim, or there is none, or the schedule is not of as many steps.
            RecordingError: an argument holds something else than tensors, numbers and strings.
        """
        _, tensors = signature(args, kwargs)
        sizes = sorted({t.shape[0] if t.dim() else 0 for t in tensors})
        if len(sizes) != 1 or sizes == [0]:
            raise ValueError(
                f"the tensors have first dims {sizes}; give each one slice for each step, (steps, ...), "
                "and step() a single batch"
            )
        slices = list(zip(*(t.unbind() for t in tensors), strict=True))
        prepare = (schedule or Schedule()).begin(self.optim, len(slices))
        losses: list[Any] = []
        finite, stopped = [], False

        def stop() -> bool:
            nonlocal stopped
            stopped = until()
            return stopped

        while len(losses) < len(slices) and not stopped:
            prepare()
            losses.append(call_with(self.update, args, kwargs, slices[len(losses)]))
            finite.append(self.finite)
            graph = None if stop() else self._last
            if graph is not None and (ahead := graph.ahead(len(slices) - len(losses), tensors)):
                try:
                    taken = graph.run_on(slices[len(losses) : len(losses) + ahead], prepare, stop)
                except InvalidData as invalid:
                    call_with(self.update, args, kwargs, slices[len(losses) + invalid.step])  # raises what Pyro raises
                    raise
                self.count += len(taken)
                self._count(graph.name, len(taken))
                losses += taken
                finite.append(self.finite)
        self.finite = torch.stack(finite).all()
        if isinstance(losses[0], tuple):
            return tuple(torch.stack(each) for each in zip(*losses, strict=True))
        return torch.stack(losses)

    def state_dict(self) -> dict[str, Any]:
        """Return the counts that decide when a graph is compiled; parameters and optimizer have their own."""
        return {"count": self.count, "calls": dict(self._calls), **self.forecast.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue counting from `state`, so that a resumed run repeats the uninterrupted one bit for bit."""
        self.count = state["count"]
        self._calls = dict(state["calls"])
        self.forecast.load_state_dict(state)

    def __getstate__(self) -> dict[str, Any]:
        """Copies record anew: a recording is of the tensors themselves."""
        return {**vars(self), "_graphs": {}, "_last": None, "_waiting": None}

    def _replay(self, args: Any, kwargs: Any) -> Any:
        try:
            key, tensors = signature(args, kwargs)
            around = surroundings()
            if around is None:
                return self._step_eagerly("the step was called inside a mode of torch's", args, kwargs)
            key = *key, *around
            graph = next((graph for graph in self._graphs.get(key, ()) if graph.valid(tensors)), None)
            name = graph.name if graph is not None else _name(key)
            calls = self._count(name)
            wait = self._why_wait(key, name, calls, args, kwargs) if graph is None else None
            if any(t.requires_grad for t in tensors) and wait is None:
                raise RecordingError("an argument requires a gradient, which would not get through; detach it")
        except Exception as error:  # of what cannot be compared
            return self._give_up(error, self._step_eagerly("", args, kwargs))
        if wait is not None:
            return self.forecast.timed(lambda: self._step_eagerly(wait, args, kwargs))
        if graph is None:
            graph, loss = self._record(key, args, kwargs, name)
            if graph is None:
                return loss
        return self._run(graph, calls, args, kwargs, tensors)

    def _run(self, graph: StepGraph, calls: int, args: Any, kwargs: Any, tensors: list[Tensor]) -> Any:
        """Take a step by its graph; what goes wrong in it, Pyro takes."""
        state = random_state()[:1]  # a GPU's would take longer than the smallest steps
        try:
            graph.calls, graph.used = graph.calls + 1, self.count
            tensors = graph.apart(tensors)
            said = graph.audit(args, kwargs, tensors) if audited(graph.calls) else None
            first = graph.name == next(iter(self._calls))
            if not graph.tried and self.forecast.worth_compiling(first, calls):
                said = graph.compile(tensors)
            if said:
                self.warn(f"SVI {said}.")
            self.why_not, self._last = None, graph
            return graph.run(tensors)
        except InvalidData:
            set_random_state(state)
            return self._again(args, kwargs)
        except Exception as error:  # the program's own, such as an index out of range, comes from Pyro again
            set_random_state(state)
            return self._give_up(error, self._step_eagerly("", args, kwargs))

    def _again(self, args: Any, kwargs: Any) -> Any:
        """Take a step that was not taken, its data being invalid: Pyro says where, or takes it."""
        self.valid = _TRUE
        return self._step_eagerly("a value lies outside the support of its distribution", args, kwargs)

    def _count(self, name: str, calls: int = 1) -> int:
        if name not in self._calls and len(self._calls) >= MOST_COUNTS:
            del self._calls[min(self._calls, key=self._calls.__getitem__)]
        self._calls[name] = self._calls.get(name, 0) + calls
        return self._calls[name]

    def _why_wait(self, key: tuple[Any, ...], name: str, calls: int, args: Any, kwargs: Any) -> str | None:
        """Say why a step is not recorded yet, or None if it is to be.

        As many recordings as there is room for are made at once; then, and where each came in vain, one is made when its
        signature has come often enough while no Python value changed.
        """
        changing = self._changing(key, args, kwargs)
        early = self.forecast.why_wait(calls)
        if early is not None:
            if changing is not None and len(self._calls) > 4 * MOST_RECORDINGS:
                self._say("eager", f"SVI runs eagerly: {changing}.")
            return early
        if not self._restless:
            return None
        if self._waiting is None:
            self._waiting = Watch(self.model, self.guide, self.objective, self.loss_and_grads)
        if self._waiting.changed():
            self._waiting.renew()
            self._still.clear()
        self._still[name] = self._still.get(name, 0) + 1
        if self._still[name] >= self._patience:
            return None
        reason = f"there are {self._recorded} recordings already, and {changing or 'another shape has come; pad it'}"
        self._say("eager", f"SVI runs eagerly: {reason}.")
        return reason

    @property
    def _restless(self) -> bool:
        """Whether recordings have come in vain, or as many as there is room for."""
        return self._recorded >= MOST_RECORDINGS or self._in_vain >= 2

    def _changing(self, key: tuple[Any, ...], args: Any, kwargs: Any) -> str | None:
        """Return what differs from the last call, if it is a Python value."""
        last, self._arguments = self._arguments, {}
        for name, value in (*enumerate(args, 1), *kwargs.items()):
            described, tensors = signature((value,), {})
            self._arguments[name] = described, bool(tensors)
        for name, now in self._arguments.items():
            if now != last.get(name, now) and not now[1]:
                return f"argument {name!r} keeps changing; pass a tensor"
        return next((said for graph in self._graphs.get(key, ()) if (said := graph.changed())), None)

    def _record(self, key: tuple[Any, ...], args: Any, kwargs: Any, name: str) -> tuple[StepGraph | None, Any]:
        """Return the graph of such a step, or None and the loss of the step that was taken eagerly."""
        try:
            first = FirstStep(self, args, kwargs)
        except RecordingError as refusal:  # nothing has been taken
            return None, self._give_up(refusal, self._step_eagerly("", args, kwargs))
        try:
            changed = first.changed()
            again, self._changed_at = self._changed_at == self.count - 1, -1 if changed is None else self.count
            if changed is not None and again:
                raise RecordingError(f"it changes {changed!r} itself at every step, which a recording would not repeat")
            if changed is not None:  # drew initial values, or settled something else once for all
                self._last, self.why_not = None, f"the step made or changed {changed!r}"
                return None, first.finish()
            first.rewind()
            with store_kept():
                graph = StepGraph(self, args, kwargs, first.params, first.watch, name)
        except Exception as error:
            return None, self._give_up(error, first.finish())
        return self._one_of(key, graph), None

    def _one_of(self, key: tuple[Any, ...], recorded: StepGraph) -> StepGraph:
        """Return the graph that does the same as the recorded one, or that one, as a new one in place of the least used."""
        at, name = self._recorded_at
        if self._restless:
            self._patience = 2 * self._patience if self.count - at < 2 * self._patience else PATIENCE
        self._in_vain = self._in_vain + 1 if at == self.count - 1 and name == recorded.name else 0
        self._recorded, self._recorded_at = self._recorded + 1, (self.count, recorded.name)
        for graph in self._graphs.get(key, ()):
            if graph.same(recorded):  # what has changed makes no difference
                graph.also(recorded)
                return graph
        if sum(map(len, self._graphs.values())) >= MOST_RECORDINGS:
            graphs = min(self._graphs.values(), key=lambda graphs: min(graph.used for graph in graphs))
            graphs.remove(min(graphs, key=lambda graph: graph.used))
            self._graphs = {key: graphs for key, graphs in self._graphs.items() if graphs}
        self._graphs.setdefault(key, []).append(recorded)
        return recorded

    def _step_eagerly(self, reason: str, args: Any, kwargs: Any) -> Any:
        self._last, self.why_not = None, reason
        loss, params = self.gradients(args, kwargs)
        return self.finish(as_tensors(loss, params), params)

    def _say(self, what: str, message: str) -> None:
        """Warn, once of each kind."""
        if what not in self._said:
            self._said.add(what)
            self.warn(message)

    def _give_up(self, error: Exception, loss: Any) -> Any:
        """Take every step eagerly from now on; return the loss of this one, which was taken so."""
        reason = (
            str(error) if isinstance(error, RecordingError) else f"recording or replaying it raised {in_short(error)}"
        )
        self._given_up = self.why_not = reason
        self._graphs.clear()
        self._waiting = self._last = None
        self.warn(f"SVI runs eagerly: {reason}.")
        return loss


def _name(key: tuple[Any, ...]) -> str:
    """Return what stands for a signature among the counts."""
    return hashlib.blake2b(repr(key).encode(), digest_size=8).hexdigest()


def _numbers(loss: Any) -> Any:
    if isinstance(loss, tuple):
        return tuple(_numbers(part) for part in loss)
    return loss.item() if isinstance(loss, Tensor) else loss
