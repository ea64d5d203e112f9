"""Inductor's code for an update of parameters, with what is computed before it: on the optimizer's own tensors, where they are."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pyro_vae.compiled import in_short, inductors_distance, like
from pyro_vae.cuda_graph import capturable, captured
from pyro_vae.inductor import inductor
from pyro_vae.optim_graph import Update
from pyro_vae.recording import copies, trace, undisturbed


class UpdateCode:
    """Inductor's code for what ends in an update of parameters.

    Args:
        step: what it does: takes `outside`, the optimizer's tensors and numbers, then `tensors`; the last tensor that it returns says
            whether the update was made.
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
        self._code = inductor(self._graph, [*self._held, *tensors])
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
        """Tell whether it could be one CUDA graph."""
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
        torch._C._set_grad_enabled(False)  # torch.no_grad() itself takes 17 us here
        try:
            return self._run(*self._held, *tensors)
        finally:
            torch._C._set_grad_enabled(grad)

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
