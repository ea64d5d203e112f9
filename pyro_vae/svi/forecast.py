"""When a recording, and a compilation, pay for themselves."""

import statistics
import time
from collections.abc import Callable
from typing import Any, Literal, TypeVar

Mode = Literal["auto", "on", "off", "recorded"]
T = TypeVar("T")

WORTH_RECORDING = 250  # steps of a small program after which its recording has paid for itself
RECORDS_AT = WORTH_RECORDING + 1  # call at which "auto" records when it does not know how many steps are planned
SEEN = 10  # steps that are timed where it does
PER_SECOND = 5_500  # by how many steps it pays later for each second that a step takes
WORTH_COMPILING = 10_000  # steps planned that earn a compilation by inductor with a cold cache, on a small VAE
COMPILES_AT = 5_000  # call at which "auto" compiles when it does not know how many steps are planned
PLANNED_COMPILES_AT = 100  # the same when they are many: the first losses come before the compiler takes its time
OTHER_SHAPES_COMPILE_AT = 50  # calls of a second signature before it is compiled too: a last, smaller batch is not


class Forecast:
    """Decides when a step is recorded, and when it is compiled.

    A recording takes as long as the Python of some eighty steps and fifteen whole ones, and saves a third of a step's
    Python: a program whose tensors take longer earns it later. Where it is not known how many steps come, it is made
    after as many as it takes to pay, so that no script takes much longer than without. A recorded step gives an eager
    one's bits, so it may go by the clock; compiled code gives others, and goes by counts alone. What was decided is
    part of `state_dict`, so that a resumed run decides alike.

    Args:
        mode: `compile=` of the SVI.
        planned: how many steps are planned, if that is known.

    Attributes:
        pays: after how many steps a recording is forecast to have paid for itself, by the first steps' time; None while
            that is not known, or not asked.
    """

    def __init__(self, mode: Mode, planned: int | None) -> None:
        self.mode, self.planned = mode, planned
        self.pays: int | None = None
        self._seconds: list[float] = []

    def why_never(self) -> str | None:
        """Say why no step is recorded, however long it takes; None if one may be."""
        if self.mode == "auto" and self.planned is not None and self.planned < WORTH_RECORDING:
            return f"{self.planned} steps are too few to earn a recording"
        return None

    def why_wait(self, calls: int) -> str | None:
        """Say why a step that comes the `calls`-th time with its signature is not recorded yet, or None."""
        if self.mode != "auto":
            return None
        if self.planned is None:
            return f"shapes are recorded at their call {RECORDS_AT}, when it pays" if calls < RECORDS_AT else None
        if self.pays is None:
            return f"the first {SEEN} steps tell whether a recording pays"
        if self.planned >= min(self.pays, WORTH_COMPILING):
            return None
        return f"{self.planned} steps are too few to earn a recording, which pays after {self.pays}"

    def timed(self, step: Callable[[], T]) -> T:
        """Take an eager step, and its time."""
        if self.mode != "auto" or self.planned is None or self.pays is not None:
            return step()
        begun = time.perf_counter()
        taken = step()
        self._seconds.append(time.perf_counter() - begun)
        if len(self._seconds) >= SEEN:
            self.pays = SEEN + WORTH_RECORDING + round(PER_SECOND * statistics.median(self._seconds))
        return taken

    def worth_compiling(self, first: bool, calls: int) -> bool:
        """Return whether compiling pays by now, for the first signature or another: by counts alone."""
        if self.mode == "on":
            return first or calls > OTHER_SHAPES_COMPILE_AT
        if self.mode == "auto" and self.planned is not None:
            return self.planned >= WORTH_COMPILING and calls >= PLANNED_COMPILES_AT
        return self.mode == "auto" and calls >= COMPILES_AT

    def state_dict(self) -> dict[str, Any]:
        """Return what was decided by the clock."""
        return {} if self.pays is None else {"pays": self.pays}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Decide as it was decided."""
        self.pays = state.get("pays")
