"""Going back over the steps of a block when an update has made a parameter non-finite.

Whether it has is known only after the update, so the state before it must have been kept. A copy
before every step would slow all of them; one at the beginning of a block, from which the steps up
to the bad one are taken again with the same draws, costs next to nothing.
"""

from typing import Any

from pyro_vae.runs import checkpoint
from pyro_vae.training.run_state import State
from pyro_vae.training.trainer import Trainer


class Undo:
    """The state at most a block of steps ago.

    Args:
        trainer: what a step changes.
        state: where the loop is.
    """

    def __init__(self, trainer: Trainer, state: State) -> None:
        self._trainer, self._state = trainer, state
        self._kept: dict[str, Any] | None = None
        self._suspect = -1  # the step whose update was not finite
        self._singly_until = 0

    @property
    def steps_singly(self) -> bool:
        """Whether the next step is to be taken by itself, since one of its block came to nothing."""
        return self._state.step < self._singly_until

    def step_singly(self, steps: int) -> None:
        """Let so many steps be taken one by one."""
        self._kept, self._singly_until = None, self._state.step + steps

    def prepare(self, *, begins: bool) -> None:
        """Keep the present state if a block ``begins``, or if the next step is the one to blame."""
        if begins or self._kept is None or self._state.step == self._suspect:
            self._kept = self._state.state_dict() | self._trainer.snapshot()

    def undo(self) -> int:
        """Go back to the state that was kept; return how many steps before the last one that is.

        Where it is none, the last step alone is undone, and its draws stay drawn.
        """
        assert self._kept is not None
        back = self._state.step - self._kept["step"]
        drawn = checkpoint.random_state()
        self._suspect = self._state.step
        self._trainer.load_state_dict(self._kept)
        self._state.load_state_dict(self._kept)
        if not back:
            checkpoint.set_random_state(drawn)
        return back

    def forget(self) -> None:
        """Drop what was kept: the steps since are not to be taken again."""
        self._kept, self._singly_until = None, 0
