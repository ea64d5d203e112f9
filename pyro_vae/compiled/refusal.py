"""Refusals, with the line of the program that they are about; remembered while a program runs, which may catch them."""

import linecache
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

import numpy as np
import pyro
import torch

from pyro_vae.compiled.state import RecordingError
from pyro_vae.compiled.verify import in_short

_LIBRARIES = (
    *(str(Path(module.__file__).parent) for module in (torch, pyro, np) if module.__file__),
    *(str(Path(__file__).parents[1] / folder) for folder in ("compiled", "svi")),
    "<",
)
_said: ContextVar[list[str]] = ContextVar("_said", default=[])  # noqa: B039 (each recording sets its own)


def line_of_program() -> str:
    """Return `file.py:12, in model: the line` of the innermost frame outside torch, Pyro and this engine."""
    frame = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith(_LIBRARIES):
        frame = frame.f_back  # type: ignore[assignment]
    if frame is None:
        return "unknown line"

    code, line = frame.f_code, linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip()
    return f"{Path(code.co_filename).name}:{frame.f_lineno}, in {code.co_name}: {line}"


def refuse(what: str) -> RecordingError:
    """Return the refusal, and note it, since the program itself may catch it."""
    _said.get().append(f"{what} ({line_of_program()})")
    return RecordingError(_said.get()[-1])


@contextmanager
def remembered() -> Iterator[None]:
    """Raise the first refusal within the block at its end, whatever became of it; any other error as a refusal."""
    token = _said.set([])
    try:
        yield
    except Exception as error:
        if isinstance(error, RecordingError) and not _said.get():
            raise
        raise RecordingError((_said.get() or [f"recording it raised {in_short(error)}"])[0]) from error
    else:
        if _said.get():
            raise RecordingError(_said.get()[0])
    finally:
        _said.reset(token)
