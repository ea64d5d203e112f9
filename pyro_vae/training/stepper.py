"""What the training loop needs of an algorithm: a step on a batch, and a state that can be saved.

`SVI` is one. Others (expectation maximisation, persistent chains, adversarial steps) get
checkpoints, resuming, validation and progress from the loop once they have these methods; with
``Pair(..., stepper=MyStepper)`` the loop uses one.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

from torch import Tensor


class Stepper(Protocol):
    """An algorithm that trains a pair, one batch at a time.

    The loop makes it as it makes `SVI`: ``make(model, guide, optim, objective, clip=...,
    compile=..., exchange=...)``, with programs weighted in nats per datum, a torch optimizer over
    the pair's parameters, the largest norm of the gradient, the setting ``compile``, and what
    connects several processes, or None. The loop saves and restores parameters, buffers and that
    optimizer, and sets its learning rate before each step.

    Attributes:
        finite: whether the last step's loss and gradient were finite, a 0-dim bool tensor. If not,
            the step must have changed no parameter.
        compiled: whether the last step was replayed, not run in Python.

    A stepper may have ``figures``, a dict of numbers that go into the history's row of an epoch.
    """

    finite: Tensor

    @property
    def compiled(self) -> bool:
        """Whether the last step was replayed."""

    def update(self, batch: Mapping[str, Tensor], /) -> Tensor:
        """Take a step; return the loss in nats per datum, a detached 0-dim tensor."""

    def gradients(self, args: Any, kwargs: Any) -> Any:
        """Compute what ``update(*args, **kwargs)`` steps on, eagerly, without the step.

        The loop calls it to find what is non-finite.
        """

    def state_dict(self) -> dict[str, Any]:
        """Return what later steps depend on besides parameters, buffers and the optimizer: tensors
        and plain values.
        """

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what ``state_dict`` returned."""


@runtime_checkable
class BlockStepper(Stepper, Protocol):
    """A stepper that can take many steps in one call, the same to the bit as one by one.

    Attributes:
        settled: whether it gains by that now.
    """

    @property
    def settled(self) -> bool:
        """Whether many steps in one call are faster than one by one by now."""

    def steps(self, batches: Mapping[str, Tensor], /, *, schedule: Any, until: Callable[[], bool]) -> Tensor:
        """Take a step on each slice of the data, ``(steps, batch, ...)``; return their losses,
        ``(steps taken,)``.

        Asks ``until()`` after every step, and stops early where it is true. ``finite`` then tells whether all
        losses were.
        """


def require_stepper(stepper: Any) -> None:
    """Refuse an object that lacks what the loop asks of it.

    Raises:
        TypeError: naming what is missing.
    """
    wanted = ("finite", "compiled", "update", "gradients", "state_dict", "load_state_dict")
    missing = [name for name in wanted if not hasattr(stepper, name)]
    if missing:
        raise TypeError(
            f"the stepper is a {type(stepper).__name__}, which has no {', '.join(missing)}; "
            "add what pyro_vae.training.stepper.Stepper lists"
        )
