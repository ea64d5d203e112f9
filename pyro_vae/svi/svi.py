"""Stochastic variational inference with pyro.infer.SVI's signature, compiled where that changes no number."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import pyro
import torch
from pyro.infer import ELBO
from pyro.optim import PyroOptim
from pyro.poutine.runtime import _PYRO_STACK
from torch import Tensor
from torch.optim import Optimizer

from pyro_vae.compiled import (
    Observe,
    RecordingError,
    Watch,
    in_short,
    put_back,
    random_state,
    set_random_state,
    signature,
)
from pyro_vae.svi.blocks import Schedule, never, take
from pyro_vae.svi.eager import EagerSVI, as_tensors
from pyro_vae.svi.exchange import Exchange
from pyro_vae.svi.replay import StepGraph, audited

__all__ = ["SVI", "Mode"]

Mode = Literal["auto", "on", "off", "recorded"]

RECORDS_AT = 50  # call at which "auto" records when it does not know how many steps are planned
WORTH_RECORDING = 100  # steps after which recording has paid for itself, about
WORTH_COMPILING = 10_000  # the same for inductor with a cold cache, on a small VAE
COMPILES_AT = 5_000  # call at which "auto" compiles when it does not know how many steps are planned
PLANNED_COMPILES_AT = 100  # the same when they are many: the first losses come before the compiler takes its time
OTHER_SHAPES_COMPILE_AT = 50  # calls of a second signature before it is compiled too: a last, smaller batch is not
MOST_RECORDINGS = 8


class SVI(EagerSVI):
    """Drop-in for `pyro.infer.SVI`: `step` returns the same loss, and takes a fraction of the time where
    Python is the cost.

    The first call records the step (loss, gradients, optimizer) as one graph of tensor operations, checks it
    against eager Pyro, and later calls replay it. A program that cannot be recorded soundly runs eagerly: one
    warning names the reason.

    Args:
        model: any Pyro program.
        guide: any Pyro program.
        optim: a Pyro optimizer, which trains every parameter that the programs announce, or a torch
            optimizer, which trains the parameters it was given. Learning rates may change from step to step.
        loss: a Pyro ELBO, or `loss(model, guide, *args)` that returns a scalar tensor.
        compile: "on" compiles before the first step; "recorded" replays the recorded graph and never
            compiles; "off" runs eagerly; "auto" chooses by the number of steps only, so that a resumed run
            takes the same path (docs/compiled.md).
        clip: largest norm of the gradient over all parameters; torch optimizers only (a Pyro optimizer has
            `clip_args`).
        steps: how many steps are planned, which "auto" goes by.
        exchange: adds up loss and gradients of several processes, each of which takes every step with its share of the batch.
        loss_and_grads: as in Pyro, for a `loss` that is a function.

    Attributes:
        engine: "eager", "recorded" or "inductor": what ran the last step.
        why_not: why the last step ran eagerly, or None.
        finite: whether the last step's loss (and clipped norm) was finite, a 0-dim bool tensor. If not, no
            parameter was changed.
        count: steps taken, part of `state_dict`.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        guide: Callable[..., Any],
        optim: PyroOptim | Optimizer,
        loss: ELBO | Callable[..., Any],
        *,
        compile: Mode = "auto",
        clip: float | None = None,
        steps: int | None = None,
        exchange: Exchange | None = None,
        loss_and_grads: Callable[..., Any] | None = None,
    ) -> None:
        super().__init__(model, guide, optim, loss, clip, exchange, loss_and_grads)
        if compile not in ("auto", "on", "off", "recorded"):
            raise ValueError(f"compile is {compile!r}; give 'auto', 'on', 'off' or 'recorded'")
        self.mode: Mode = compile
        self.planned = steps
        self.count = 0
        self.engine = "eager"
        self.why_not: str | None = None
        self._calls: dict[str, int] = {}
        self._graphs: dict[tuple[Any, ...], list[StepGraph]] = {}
        self._made_at = -1  # count of the last step that created parameters
        self._last: StepGraph | None = None  # what took the last replayed step
        self._warned = False
        self._given_up: str | None = "compile is 'off'" if compile == "off" else None
        if compile == "auto" and steps is not None and steps < WORTH_RECORDING:
            self._given_up = f"{steps} steps are too few to earn a recording"

    @property
    def compiled(self) -> bool:
        """Whether the last step was a replayed graph (recorded or compiled by inductor)."""
        return self.engine != "eager"

    def step(self, *args: Any, **kwargs: Any) -> Any:
        """Take a gradient step; return the loss as a number (a tuple of them where the ELBO returns one)."""
        return _numbers(self.update(*args, **kwargs))

    def evaluate_loss(self, *args: Any, **kwargs: Any) -> Any:
        """Return the loss as a number, without a step."""
        with torch.no_grad():
            return _numbers(self.loss(self.model, self.guide, *args, **kwargs))

    def update(self, *args: Any, **kwargs: Any) -> Any:
        """Take a gradient step; return the loss as a detached tensor, without waiting for the device."""
        self.count += 1
        if self._given_up is None and not _PYRO_STACK and torch.is_grad_enabled():
            try:
                return self._replay(args, kwargs)
            except RecordingError as refusal:
                self._give_up(str(refusal))
        self.engine = "eager"
        self.why_not = self._given_up or "the step was called inside a Pyro handler"
        return self._eager(args, kwargs)

    @property
    def settled(self) -> bool:
        """Whether many steps in one call (`steps`) are faster by now than one by one."""
        return self.engine == "inductor" and self.exchange is None

    def steps(
        self, *args: Any, schedule: Schedule | None = None, until: Callable[[], bool] = never, **kwargs: Any
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
        return take(self, args, kwargs, schedule or Schedule(), until)

    def ahead(self, most: int, tensors: Sequence[Tensor]) -> int:
        """Return how many steps on data like `tensors` may follow the last one without anything being looked at."""
        return self._last.ahead(most, tensors) if self.engine == "inductor" and self._last is not None else 0

    def run_on(
        self, slices: Sequence[Sequence[Tensor]], prepare: Callable[[], None], until: Callable[[], bool]
    ) -> list[Any]:
        """Take a step on each, none of which is to be looked at; return their losses."""
        assert self._last is not None
        losses = self._last.run_on(slices, prepare, until)
        self.count += len(losses)
        self._calls[self._last.name] += len(losses)
        return losses

    def state_dict(self) -> dict[str, Any]:
        """Return the counts that decide when a graph is compiled; parameters and optimizer have their own."""
        return {"count": self.count, "calls": dict(self._calls)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue counting from `state`, so that a resumed run repeats the uninterrupted one bit for bit."""
        self.count = state["count"]
        self._calls = dict(state["calls"])

    def __getstate__(self) -> dict[str, Any]:
        """Copies record anew: a recording is of the tensors themselves."""
        return {**vars(self), "_graphs": {}, "_last": None}

    def _eager(self, args: Any, kwargs: Any) -> Any:
        loss, params = self.gradients(args, kwargs)
        return self.finish(as_tensors(loss), params)

    def _replay(self, args: Any, kwargs: Any) -> Any:
        key, tensors = signature(args, kwargs)
        casts = [torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind) for kind in ("cpu", "cuda")]
        key = *key, torch.get_default_dtype(), *casts
        graph = next((graph for graph in self._graphs.get(key, ()) if graph.valid()), None)
        name = graph.name if graph is not None else repr(key)
        calls = self._calls[name] = self._calls.get(name, 0) + 1
        if graph is None:
            if self.mode == "auto" and self.planned is None and calls < RECORDS_AT:
                return self._step_eagerly(
                    f"shapes are recorded at their call {RECORDS_AT}, to be sure that it pays", args, kwargs
                )
            if any(t.requires_grad for t in tensors):
                raise RecordingError("an argument requires a gradient, which would not get through; detach it")
            if sum(map(len, self._graphs.values())) >= MOST_RECORDINGS:
                return self._step_eagerly(self._why_no_more(key), args, kwargs, warn=True)
            graph, loss = self._record(key, args, kwargs, name)
            if graph is None:
                return loss
        graph.calls += 1
        tensors = graph.apart(tensors)
        said = graph.audit(args, kwargs, tensors) if audited(graph.calls) else None
        if not graph.tried and self._worth_compiling(name, calls):
            said = graph.compile(tensors)
        if said:
            self.warn(f"SVI {said}.")
        self.engine, self.why_not, self._last = graph.engine, None, graph
        return graph.run(tensors)

    def _worth_compiling(self, name: str, calls: int) -> bool:
        """Return whether compiling pays by now: by counts alone, so that a resumed run, and each of several processes, decides alike."""
        if self.mode == "on":
            return name == next(iter(self._calls)) or calls > OTHER_SHAPES_COMPILE_AT
        if self.mode == "auto" and self.planned is not None:
            return self.planned >= WORTH_COMPILING and calls >= PLANNED_COMPILES_AT
        return self.mode == "auto" and calls >= COMPILES_AT

    def _record(self, key: tuple[Any, ...], args: Any, kwargs: Any, name: str) -> tuple[StepGraph | None, Any]:
        """Return the graph of such a step, or None and the loss of a first step that had to be taken eagerly."""
        watch = Watch(self.model, self.guide, self.objective, self._loss_and_grads)
        known = [*pyro.get_param_store()._params.values(), *(p for m in watch.modules for p in m.parameters(False))]
        existed = {id(p) for p in known} if isinstance(self.optim, PyroOptim) else None
        state = random_state()
        with Observe() as watching:
            loss, params = self.gradients(args, kwargs)
        watch.keep(vars(self), "model", "guide", "_loss_and_grads")
        made = any(watching.made(p) or (existed is not None and id(p) not in existed) for p in params)
        again, self._made_at = self._made_at == self.count - 1, self.count if made else -1
        if (key not in self._graphs and watch.changed()) or (made and not again):
            # It drew initial values, or settled something else once for all: taken again it would be another step.
            self._graphs.setdefault(key, [])
            self.engine, self.why_not = "eager", "the first step creates parameters"
            return None, self.finish(as_tensors(loss), params)
        if isinstance(self.optim, PyroOptim):
            pyro.infer.util.zero_grads(params)  # as after a step
        for p in params if isinstance(self.optim, Optimizer) else ():
            p.grad = None
        set_random_state(state)
        put_back(watching.saved)
        try:
            with _store_kept():
                recorded = StepGraph(self, args, kwargs, params, watch, name)
        except RecordingError:
            watch.put_back()
            raise
        except Exception as error:  # the eager step above raised none
            watch.put_back()
            raise RecordingError(f"recording it raised {in_short(error)}") from error
        return self._one_of(self._graphs.setdefault(key, []), recorded, watch), None

    def _one_of(self, graphs: list[StepGraph], recorded: StepGraph, watch: Watch) -> StepGraph:
        """Return the graph among `graphs` that does the same as the recorded one, or that one, as a new one of them."""
        for graph in graphs:
            if graph.same(recorded):  # what has changed makes no difference
                idle = graph.also(watch)
                if idle:
                    self.warn(
                        f"SVI looks no more at {idle!r}, which keeps changing and has made no difference; "
                        "if it will make one later, make it a tensor."
                    )
                return graph
        graphs.append(recorded)
        return recorded

    def _step_eagerly(self, reason: str, args: Any, kwargs: Any, warn: bool = False) -> Any:
        if warn and not self._warned:
            self._warned = True
            self.warn(f"SVI runs eagerly: {reason}.")
        self.engine, self.why_not = "eager", reason
        return self._eager(args, kwargs)

    def _why_no_more(self, key: tuple[Any, ...]) -> str:
        changed = [name for graph in self._graphs.get(key, ()) if (name := graph.watches[0].changed())]
        cause = f"{changed[-1]!r} has changed again; make it a tensor" if changed else "another shape has come; pad it"
        return f"there are {MOST_RECORDINGS} recordings already, and {cause}"

    def _give_up(self, reason: str) -> None:
        self._given_up = reason
        self._graphs.clear()
        self.warn(f"SVI runs eagerly: {reason}.")


@contextmanager
def _store_kept() -> Iterator[None]:
    """Refuse programs that replace tensors in Pyro's parameter store, and put the old ones back."""
    store = pyro.get_param_store()
    kept = dict(store._params)
    try:
        yield
    finally:
        replaced = [name for name, p in kept.items() if store._params.get(name) is not p]
        for name in replaced:
            store._params[name] = kept[name]
            store._param_to_name[kept[name]] = name


def _numbers(loss: Any) -> Any:
    if isinstance(loss, tuple):
        return tuple(_numbers(part) for part in loss)
    return loss.item() if isinstance(loss, Tensor) else loss
