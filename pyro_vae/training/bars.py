"""A bar that fills: on a terminal, and in a notebook."""

import html
import sys
import time
from typing import Any

EACH = 0.2  # seconds between two looks of a notebook's bar


def in_notebook() -> bool:
    """Return whether this runs in a notebook's kernel, where what is displayed is HTML."""
    if "IPython" not in sys.modules:
        return False
    shell = sys.modules["IPython"].get_ipython()
    return type(shell).__name__ == "ZMQInteractiveShell"


def bar_possible() -> bool:
    """Return whether a bar can be drawn here."""
    return in_notebook() or sys.stderr.isatty()


class TerminalBar:
    """A bar on stderr, gone when it is stopped.

    Args:
        total: of epochs.
        done: of these.
    """

    def __init__(self, total: int, done: float) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        figures, left = TextColumn("{task.fields[figures]}"), TimeRemainingColumn()
        columns = (TextColumn("epoch"), MofNCompleteColumn(), BarColumn(), figures, left, TextColumn("left"))
        self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
        self._task = self._bar.add_task("", total=total, completed=int(done), figures="")
        self._bar.start()

    def update(self, done: float, figures: str | None = None) -> None:
        """Show how many epochs are done, and an epoch's figures."""
        told: dict[str, Any] = {} if figures is None else {"figures": figures}
        self._bar.update(self._task, completed=done, **told)

    def stop(self) -> None:
        """Take the bar away."""
        self._bar.stop()


class NotebookBar:
    """A bar below a notebook's cell, gone when it is stopped.

    Args:
        total: of epochs.
        done: of these.
    """

    def __init__(self, total: int, done: float) -> None:
        from IPython.display import HTML, display

        self._html, self.total, self.first, self.figures = HTML, total, done, ""
        self.begun = self.shown = time.monotonic()
        self._handle: Any = display(HTML(self.text(done)), display_id=True)

    def text(self, done: float) -> str:
        """Return the bar as HTML."""
        ran = done - self.first
        left = (time.monotonic() - self.begun) / ran * (self.total - done) if ran > 0 else None
        said = f"epoch {int(done)} of {self.total}"
        said += f" · {self.figures}" if self.figures else ""
        said += "" if left is None else f" · {left:.0f} s left"
        return f'<progress value="{done:.3f}" max="{self.total}"></progress> {html.escape(said)}'

    def update(self, done: float, figures: str | None = None) -> None:
        """Show how many epochs are done, and an epoch's figures."""
        self.figures = self.figures if figures is None else figures
        if time.monotonic() - self.shown > EACH:
            self.shown = time.monotonic()
            self._handle.update(self._html(self.text(done)))

    def stop(self) -> None:
        """Take the bar away."""
        self._handle.update(self._html(""))
