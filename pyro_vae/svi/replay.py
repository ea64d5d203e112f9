"""One SVI step, replayed: the recorded loss and gradients; once compiled, with the optimizer's update."""

import operator
from collections.abc import Callable, Sequence
from typing import Any

import pyro
import torch
from pyro.optim import PyroOptim
from torch import Tensor
from torch.optim import Optimizer

from pyro_vae.compiled import (
    RecordingError,
    Watch,
    copies,
    differences,
    furthest,
    in_short,
    like,
    memory,
    record,
    undisturbed,
)
from pyro_vae.svi.eager import EagerSVI, InvalidData, as_tensors, parts
from pyro_vae.svi.first import RUNNING_AVERAGE
from pyro_vae.svi.whole_step import UpdateCode, whole_step

AUDITS = frozenset([2, 10, 100, 1_000])  # calls replayed eagerly and compared, then every AUDIT_EVERY-th
AUDIT_EVERY = 5_000  # one takes as long as a hundred of the smallest steps
MOST_STATES = 8  # in which one recording is known to hold, and settings of an optimizer that it is compiled for


# what decides whether a gradient arrives, and as what
_FLAGS = operator.attrgetter("requires_grad", "_backward_hooks", "_post_accumulate_grad_hooks")


def audited(call: int) -> bool:
    """Return whether the recording is compared with eager Pyro at this call."""
    return call in AUDITS or call % AUDIT_EVERY == 0


class StepGraph:
    """A step for one signature of the arguments.

    Args:
        svi: whose step it is.
        args: data, as given to the step.
        kwargs: the same, by name.
        params: the parameters that the step trains.
        watch: the Python state that the recording holds fast.
        name: tells this signature from others, also in another process.

    Attributes:
        calls: how often it was run.
        used: the count of its SVI's steps when it was run last.
        tried: whether inductor was tried on it.

    Raises:
        RecordingError: with the reason and the line.
    """

    def __init__(self, svi: EagerSVI, args: Any, kwargs: Any, params: list[Tensor], watch: Watch, name: str) -> None:
        self._svi, self._params, self.name = svi, params, name
        self._options = svi.clip, svi.exchange
        self.calls, self.used, self.tried = 0, 0, False
        self._whole: UpdateCode | None = None
        self._renewed = 0

        def loss_and_grads(grads: list[Tensor | None], *args: Any, **kwargs: Any) -> Any:
            return as_tensors(svi.loss_of(args, kwargs), params), list(grads)

        self._recording = record(loss_and_grads, args, kwargs, reference=self._eager, params=params, may_ask=True)
        self.states = [(watch, self._recording.questions.answers)]
        present = self._recording.present
        self._reached = present[len(present) - len(params) :]
        self._losses = sum(present[: len(present) - len(params)])
        self._one_loss = len(present) == 1 + len(params)
        self._optim = svi.optim
        self._memories = set(map(memory, params))
        flags = map(_FLAGS, self._recording.outside)
        self._flags = [(needs, hooks if hooks is None else dict(hooks), after) for needs, hooks, after in flags]
        if any(after for _, _, after in self._flags):
            raise RecordingError("a parameter has a hook that runs when its gradient has arrived")
        store = pyro.get_param_store()._params
        self._stored = {name: p for name, p in store.items() if any(p is q for q in self._recording.outside)}

    @property
    def engine(self) -> str:
        """What runs it: "recorded" or "inductor"."""
        return "recorded" if self._whole is None and self._recording.code is None else "inductor"

    def valid(self, tensors: Sequence[Tensor]) -> bool:
        """Return whether the recording holds for such data: the same Python state, the same tensors where they were, and the same ones to train."""
        store = pyro.get_param_store()._params
        return (
            self._recording.valid()
            and list(map(_FLAGS, self._recording.outside)) == self._flags
            and self._trains_the_same()
            and all(store.get(name) is p for name, p in self._stored.items())
            and self._in_a_known_state(tensors)
        )

    def _in_a_known_state(self, tensors: Sequence[Tensor]) -> bool:
        answers = self._recording.ask(tensors)
        watches = [watch for watch, known in self.states if all(map(torch.equal, answers, known))]
        return any(watches) or any(watch.changed() is None for watch in watches)

    def changed(self) -> str | None:
        """Return what is not as it was when this was recorded, with what helps."""
        name, lines = self.states[0][0].changed(), self._recording.questions.lines
        if name is not None:
            return f"{name!r} keeps changing; keep it in one tensor that is written into, or pass it"
        return f"what it reads of its data keeps changing ({lines[0]})" if lines else None

    def also(self, other: "StepGraph") -> None:
        """Hold in the state of another recording too, in place of the oldest of many."""
        self.states = [*other.states, *self.states[: MOST_STATES - 1]]

    def _trains_the_same(self) -> bool:
        """Return whether optimizer, clipping and exchange are the same, and (Pyro's take what is announced) has the same parameters."""
        if self._svi.optim is not self._optim or (self._svi.clip, self._svi.exchange) != self._options:
            return False
        if isinstance(self._optim, PyroOptim):
            return True
        given = [p for group in self._optim.param_groups for p in group["params"]]
        return len(given) == len(self._params) and all(map(operator.is_, given, self._params))

    def same(self, other: "StepGraph") -> bool:
        """Return whether another recording of such a step does the same to the same tensors."""
        one, two = self._recording, other._recording
        identical = len(one.outside) == len(two.outside) and all(map(operator.is_, one.outside, two.outside))
        identical = identical and self._flags == other._flags and self._trains_the_same()
        pairs = (one.graph, two.graph), (one.questions.graph, two.questions.graph)
        return identical and one.valid() and all(differences(*pair) is None for pair in pairs)

    def apart(self, tensors: list[Tensor]) -> list[Tensor]:
        """Return the data, copied where they lie in a parameter's memory: compiled code may write it before it reads them."""
        return tensors if self._memories.isdisjoint(map(memory, tensors)) else list(map(like, tensors))

    def run(self, tensors: Sequence[Tensor]) -> Any:
        """Take the step; return the loss.

        Raises:
            InvalidData: for data that are not valid; on a GPU compiled code says so in `svi.valid` instead, without waiting.
        """
        if self._whole is not None and not self._whole.update.valid():
            self._renew(tensors, self._whole)
        if self._whole is not None:
            out = self._whole(tensors)
            self._svi.finite, self._svi.valid = out[self._losses :]
            if not self._svi.valid.is_cuda and not self._svi.valid:
                raise InvalidData
            self._whole.update.count()
            if isinstance(self._optim, Optimizer):
                for p in self._params:
                    p.grad = None  # none leaves the graph; what a step before left would be taken for it
            return self._loss(out)
        out = self._recording.run(*tensors)
        if self._recording.checks and not self._recording.all_valid:
            raise InvalidData
        pyros = isinstance(self._svi.optim, PyroOptim)
        for p, grad in zip(self._params, self._scatter(out[self._losses :]), strict=True):
            if grad is not None:  # laid out as autograd lays it, which optimizers take for granted
                p.grad = grad if grad.stride() == p.stride() else like(p, grad)
            elif not pyros:  # Pyro's optimizers leave zeros where no gradient arrives any more
                p.grad = None
        return self._svi.finish(self._loss(out), self._params)

    def _renew(self, tensors: Sequence[Tensor], old: UpdateCode) -> None:
        """Compile for other hyperparameters; replay the recording where that fails, or they never stand still."""
        why_not = old.update.moves()
        try:
            self._whole = None if why_not else self._whole_step(tensors, old)
        except Exception as error:  # whatever goes wrong in a compiler, the recorded graph is there
            why_not = f"inductor failed ({in_short(error)})"
        self._renewed += self._whole is not old
        if self._renewed > MOST_STATES:
            why_not = "the optimizer's settings other than its learning rate change again and again"
        if why_not is not None:
            self._whole = None
            self._svi.warn(f"SVI replays its recording uncompiled from call {self.calls}: {why_not}.")

    def ahead(self, most: int, tensors: Sequence[Tensor]) -> int:
        """Return how many steps may follow the last one without anything being looked at: none is to be audited, nor are its data copied."""
        apart = self._memories.isdisjoint(map(memory, tensors))
        if self._whole is None or self._recording.questions.lines or not apart:
            return 0
        return next((i for i in range(most) if audited(self.calls + i + 1)), most)

    def run_on(
        self, slices: Sequence[Sequence[Tensor]], prepare: Callable[[], None], until: Callable[[], bool]
    ) -> list[Any]:
        """Take a step on each, none of which is to be looked at, until told to stop; return their losses."""
        assert self._whole is not None
        outs = self._whole.run_on(slices, prepare, until)
        self.calls += len(outs)
        finite, valid = (torch.stack([out[self._losses + i] for out in outs]) for i in (0, 1))
        if not valid.all():
            raise InvalidData(int(valid.logical_not().nonzero()[0]))
        self._svi.finite = finite.all()
        return [self._loss(out) for out in outs]

    def audit(self, args: Any, kwargs: Any, tensors: Sequence[Tensor]) -> str | None:
        """Compare the recording with an eager run on this batch and these draws, and what runs in its place with the recording; leave no
        trace. Compiled code that differs runs no more; return why, or None.

        Raises:
            RecordingError: the recording differs.
        """
        written = self._recording.written
        with undisturbed(copies(written)):
            loss, grads = self._eager(*args, **kwargs)
        with undisturbed(copies(written)):
            got = self._recording.recorded(*tensors)
        distance = furthest([*parts(loss), *(g for g in grads if g is not None)], got)
        if distance > 1:
            raise RecordingError(
                f"at call {self.calls} its recording no longer gave what eager Pyro gives "
                f"({distance:.0e} times what rounding explains), so something was changed outside torch"
            )
        why_not = self._disagreement(tensors)
        if why_not is None:
            return None
        self._whole = self._recording.code = None
        return f"replays its recording uncompiled from call {self.calls}: {why_not}"

    def compile(self, tensors: Sequence[Tensor]) -> str | None:
        """Run inductor's code from now on, if it agrees with the recorded graph, on a GPU as one CUDA graph; return what was not possible and why."""
        self.tried = True
        try:
            self._whole = self._whole_step(tensors)
            why_not = self._recording.compile(*tensors) if self._whole is None else self._disagreement(tensors)
        except Exception as error:  # whatever goes wrong in a compiler, the recorded graph is there
            why_not = in_short(error)
        if why_not is not None:
            self._whole = None
            return f"replays its recording uncompiled: inductor failed ({why_not})"
        why_not = self._whole.code.capture(tensors) if self._whole is not None else None
        return f"launches a step's kernels one by one: as a CUDA graph it failed ({why_not})" if why_not else None

    def _disagreement(self, tensors: Sequence[Tensor]) -> str | None:
        """Say that what runs does not do what its graph does, or None."""
        code = self._recording.code if self._whole is None else self._whole.code
        return None if code is None else code.disagreement(tensors)

    def _eager(self, *args: Any, **kwargs: Any) -> Any:
        """Run eager Pyro and return what the recording returns."""
        before = [p.grad for p in self._params]
        for p in self._params:
            p.grad = None
        loss, params = self._svi.gradients(args, kwargs)
        if len(params) != len(self._params) or any(p is not q for p, q in zip(params, self._params, strict=True)):
            raise RecordingError(RUNNING_AVERAGE)
        grads = [p.grad for p in params]
        for p, grad in zip(params, before, strict=True):
            p.grad = grad
        return as_tensors(loss, self._params), grads

    def _whole_step(self, tensors: Sequence[Tensor], old: UpdateCode | None = None) -> UpdateCode | None:
        if self._svi.exchange is not None:  # every process must make the very same update: the optimizer's own
            return None
        return whole_step(self._recording, self._params, self._svi.optim, self._svi.clip, tensors, old)

    def _scatter(self, grads: Sequence[Tensor]) -> list[Tensor | None]:
        found = iter(grads)
        return [next(found) if reached else None for reached in self._reached]

    def _loss(self, out: Sequence[Tensor]) -> Any:
        """Return the loss as the ELBO returns it: a tensor, or a tuple of them."""
        if self._one_loss:
            return out[0]
        return self._recording.assemble([*out[: self._losses], *[out[0]] * sum(self._reached)])[0]
