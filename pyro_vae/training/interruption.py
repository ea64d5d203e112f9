"""Requests to stop: SIGINT and SIGTERM end training after a step, once a checkpoint is written."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pyro_vae.runs import Run

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(Exception):
    """Training was asked to stop, and has saved what resuming needs."""

    def __init__(self, signum: int, run: Run | None) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name}")
        self.signum = signum
        self.run = run


class StopRequest:
    """The signal that asked this process to stop, once one has.

    Attributes:
        signum: its number, or None.
    """

    def __init__(self) -> None:
        self.signum: int | None = None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take SIGINT and SIGTERM as requests inside; the second one of a kind acts at once.

        Only the main thread can: in others signals act as they did.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {s: signal.getsignal(s) for s in SIGNALS}

        def handle(signum: int, frame: Any) -> None:
            signal.signal(signum, before[signal.Signals(signum)])
            self.signum = signum

        for signum in before:
            signal.signal(signum, handle)
        try:
            yield
        finally:
            for signum, handler in before.items():
                signal.signal(signum, handler)
