"""What is shown while training: a bar with the estimated time left on a terminal, plain lines in a
log.
"""

import math
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from pyro_vae.program import Pair
from pyro_vae.training.bars import NotebookBar, TerminalBar, bar_possible, in_notebook

if TYPE_CHECKING:
    from pyro_vae.evidence import Meaning


Callback = Callable[[dict[str, float], Pair], None]
"""What ``fit`` calls after each epoch, with its row of the history and the pair."""


class Observer(Protocol):
    """What is told of training as it goes on; `Progress` is one.

    Attributes:
        figure: what the objective's own figure is called; set before ``start``.
    """

    figure: str

    def start(self, epochs: int, steps: int, epoch: int) -> None:
        """Begin: ``epochs`` in all of ``steps`` each, of which ``epoch`` are done."""

    def step(self, epoch: int, position: int, loss: float) -> None:
        """Note a step; ``loss`` in nats per datum."""

    def epoch(self, row: dict[str, float]) -> None:
        """Note an epoch's row of the history."""

    def note(self, text: str) -> None:
        """Say something once."""

    def stop(self) -> None:
        """End."""


def figure_named(shown: str, meaning: "Meaning | None", whole: bool) -> str:
    """Return what an epoch's figure is called.

    Args:
        shown: what the objective calls it.
        meaning: what the pair's figures are of, if that is known.
        whole: whether it has no parts.
    """
    if shown != "ELBO" or meaning is None:
        return shown
    return meaning.evidence if whole and meaning.exact else meaning.bound


class Progress:
    """Shows training on stderr.

    Args:
        meaning: what the pair's figures are of, which names them; an ELBO by default.

    Attributes:
        figure: what the objective's own figure is called, where it is no ELBO.
    """

    figure = "ELBO"

    def __init__(self, meaning: "Meaning | None" = None) -> None:
        self.meaning = meaning

    def start(self, epochs: int, steps: int, epoch: int) -> None:
        """Begin: ``epochs`` in all of ``steps`` each, of which ``epoch`` are done."""
        self.epochs, self.steps, self.first = epochs, steps, epoch
        self.begun = self.printed = time.monotonic()
        self.bar: TerminalBar | NotebookBar | None = None
        if bar_possible():
            self.bar = NotebookBar(epochs, epoch) if in_notebook() else TerminalBar(epochs, epoch)

    def step(self, epoch: int, position: int, loss: float) -> None:
        """Note a step; ``loss`` in nats per datum.

        Compiled steps are taken many in one call, and noted after it: what this changes holds from
        the next call on.
        """
        if self.bar is not None and position % 10 == 0:
            self.bar.update(epoch + position / self.steps)

    def epoch(self, row: dict[str, float]) -> None:
        """Note an epoch's row of the history."""
        done = int(row["epoch"])
        figures = self._named(row)
        now = time.monotonic()
        if self.bar is not None:
            self.bar.update(done, f"validation {figures}")
        elif now - self.printed > 5 or done in (self.first + 1, self.epochs):
            left = (now - self.begun) / (done - self.first) * (self.epochs - done)
            print(f"epoch {done}/{self.epochs}  validation {figures}  {left:.0f} s left", file=sys.stderr)
            self.printed = now

    def _named(self, row: dict[str, float]) -> str:
        whole = math.isnan(row["kl"])
        parts = "" if whole else f" = {row['reconstruction']:.2f} - {row['kl']:.2f}"
        name = figure_named(self.figure, self.meaning, whole)
        codes = f", {row['codes_used']:.0f} codes in use" if "codes_used" in row else ""
        value = f"{row['figure']:.3f}" if "figure" in row else f"{row['elbo']:.2f}"
        return f"{name} {value}{parts} nats{codes}"

    def note(self, text: str) -> None:
        """Say something once."""
        print(text, file=sys.stderr)

    def stop(self) -> None:
        """End."""
        if self.bar is not None:
            self.bar.stop()


class Silent(Progress):
    """Shows nothing but notes."""

    def start(self, epochs: int, steps: int, epoch: int) -> None:
        """Begin."""

    def step(self, epoch: int, position: int, loss: float) -> None:
        """Note a step."""

    def epoch(self, row: dict[str, float]) -> None:
        """Note an epoch."""

    def stop(self) -> None:
        """End."""


class Counter:
    """Counts data on stderr: ``with Counter(10_000, "log p(x)") as c: ...; c.add(500)``.

    The time left is estimated from what came after the first count: what is done once, before or
    with the first data (annealing, recording), says nothing about the rest.
    """

    def __init__(self, total: int, what: str) -> None:
        self.total, self.what, self.done = total, what, 0
        self.first: tuple[float, int] | None = None

    def __enter__(self) -> "Counter":
        self.begun = self.printed = time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        if sys.stderr.isatty():
            print("\r\033[K", end="", file=sys.stderr)

    def add(self, count: int) -> None:
        """Note that ``count`` more data are finished."""
        self.done += count
        now = time.monotonic()
        if self.first is None:
            self.first = now, count
            return
        terminal = sys.stderr.isatty()
        if now - self.printed < (0.3 if terminal else 20) or now - self.begun < 2:
            return
        self.printed = now
        begun, before = self.first
        left = (now - begun) / (self.done - before) * (self.total - self.done)
        start, end = ("\r\033[K", "") if terminal else ("", "\n")
        print(
            f"{start}{self.what}: {self.done} of {self.total} data, {left:.0f} s left",
            end=end,
            file=sys.stderr,
            flush=True,
        )
