"""One gradient step as Pyro takes it: loss, gradients, and the optimizer's update."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.infer import ELBO, JitTrace_ELBO, JitTraceEnum_ELBO, JitTraceGraph_ELBO, JitTraceMeanField_ELBO
from pyro.optim import PyroOptim
from torch import Tensor
from torch.optim import Optimizer

from pyro_vae.compiled import Observe, put_back, random_state, set_random_state
from pyro_vae.svi.exchange import Exchange
from pyro_vae.warning import warn

JITS = (JitTrace_ELBO, JitTraceEnum_ELBO, JitTraceGraph_ELBO, JitTraceMeanField_ELBO)  # record the step themselves

OWN_STORE = (
    "optim is a Pyro optimizer, which trains the parameters in Pyro's store, and these programs have a store of their own, as a "
    "pair's have; give a torch optimizer, such as torch.optim.Adam(pair.named_parameters().values())"
)


class EagerWarning(UserWarning):
    """A program that could not be recorded, or not compiled, runs without."""


class InvalidData(Exception):
    """A value lies where torch or Pyro would raise an error; nothing was updated.

    Args:
        step: which of the steps in one call.
    """

    def __init__(self, step: int = 0) -> None:
        self.step = step


class EagerSVI(pyro.infer.SVI):  # type: ignore[misc]  # Pyro is untyped
    """Takes steps eagerly; `SVI`, which replays them, falls back on it.

    Takes `SVI`'s arguments.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        guide: Callable[..., Any],
        optim: PyroOptim | Optimizer,
        loss: ELBO | Callable[..., Any],
        clip: float | None,
        exchange: Exchange | None,
        loss_and_grads: Callable[..., Any] | None,
        num_samples: int,
        num_steps: int,
    ) -> None:
        if not isinstance(optim, PyroOptim | Optimizer):
            raise TypeError(
                f"optim is a {type(optim).__name__}; "
                "give a Pyro optimizer (pyro.optim) or a torch optimizer (torch.optim)"
            )
        if clip is not None and isinstance(optim, PyroOptim):
            raise ValueError("clip needs a torch optimizer, and optim is a Pyro one; give it clip_args instead")
        pyros = optim if isinstance(optim, PyroOptim) else pyro.optim.Adam({})  # it takes no other
        super().__init__(model, guide, pyros, loss, loss_and_grads, num_samples, num_steps)
        self.optim, self.clip, self.exchange = optim, clip, exchange
        self.objective = loss
        self._announced: bool | None = None  # whether parameters announce themselves to Pyro; known after a step
        self._watchable = not isinstance(loss, JITS)
        self.finite = torch.tensor(True)

    def loss_of(self, args: Any, kwargs: Any) -> Any:
        """Run the ELBO, which calls `backward`; return its loss."""
        return self.loss_and_grads(self.model, self.guide, *args, **kwargs)

    def gradients(self, args: Any, kwargs: Any) -> tuple[Any, list[Tensor]]:
        """Run the ELBO as Pyro does; return its loss and the parameters to train, whose `grad` is filled."""
        if isinstance(self.optim, Optimizer):
            self.optim.zero_grad()
        first = isinstance(self.optim, Optimizer) and self._announced is None
        state, watching = random_state() if first else [], Observe() if first and self._watchable else None
        try:
            with poutine.trace(param_only=True) as capture, watching or nullcontext():
                loss = self.loss_of(args, kwargs)
        except Exception:
            if watching is None:
                raise
            self._watchable = False  # if it is the program's own error, it comes again
            set_random_state(state)
            put_back(watching.saved)
            return self.gradients(args, kwargs)
        if isinstance(self.optim, PyroOptim):
            values = [site["value"] for site in capture.trace.nodes.values()]
            if not all(hasattr(value, "unconstrained") for value in values):
                raise TypeError(OWN_STORE)
            trained = [value.unconstrained() for value in values]
            return loss, list({id(p): p for p in trained}.values())
        params = [p for group in self.optim.param_groups for p in group["params"]]
        if first:
            self._announced = bool(capture.trace.nodes) or any(p.grad is not None for p in params)
            if not self._announced and hasattr(self.objective, "differentiable_loss"):
                # Pyro's ELBOs take no gradient where no parameter announces itself, as in plain modules: once more
                set_random_state(state)
                put_back(watching.saved if watching is not None else ())
                as_function = pyro.infer.SVI(
                    self.model, self.guide, pyro.optim.Adam({}), self.objective.differentiable_loss
                )
                self.loss_and_grads = as_function.loss_and_grads
                return self.gradients(args, kwargs)
        return loss, params

    def finish(self, loss: Any, params: list[Tensor]) -> Any:
        """Take the update from the parameters' `grad`, with a torch optimizer if the loss is finite; return the loss as a tensor."""
        if self.exchange is not None:
            loss = self.exchange.add_up(loss, params).to(loss.dtype).reshape(loss.shape)
        finite = torch.stack([part.isfinite().all() for part in parts(loss)]).all()
        if self.clip is not None:
            norm = torch.nn.utils.clip_grad_norm_([p for p in params if p.grad is not None], self.clip)
            finite = finite & norm.isfinite()
        self.finite = finite
        if isinstance(self.optim, PyroOptim):  # which Pyro calls whatever the loss
            self.optim(params)
            pyro.infer.util.zero_grads(params)
        elif finite:
            self.optim.step()
        return loss

    @staticmethod
    def warn(message: str) -> None:
        """Warn at the line that called this package."""
        warn(message, EagerWarning)


def as_tensors(loss: Any, params: Sequence[Tensor]) -> Any:
    """Return a loss with its numbers as detached tensors where the parameters are; some ELBOs return a tuple of losses."""
    if isinstance(loss, tuple):
        return tuple(as_tensors(part, params) for part in loss)
    if isinstance(loss, Tensor):
        return loss.detach()
    return torch.tensor(float(loss), dtype=torch.float64, device=params[0].device if params else None)


def parts(loss: Any) -> tuple[Tensor, ...]:
    """Return the loss, or the losses, as a tuple."""
    return loss if isinstance(loss, tuple) else (loss,)
