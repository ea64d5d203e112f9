"""Warnings that point at the user's line, however many frames of libraries lie above it."""

import os
import warnings
from importlib.util import find_spec
from pathlib import Path


class Note(UserWarning):
    """A remark of this package, which the command line prints as one line."""


def warn(message: str, category: type[Warning] = Note) -> None:
    """Warn at the innermost line that is neither of this package nor of Pyro or torch."""
    warnings.warn(message, category, skip_file_prefixes=_libraries())


def _libraries() -> tuple[str, ...]:
    here = Path(__file__).parent
    # in a checkout models and guides are links to the folders beside
    folders = [here, (here / "models").resolve(), (here / "guides").resolve()]
    folders += [Path(spec.origin).parent for name in ("pyro", "torch") if (spec := find_spec(name)) and spec.origin]
    # with the separator, so that the code of a neighbour whose name only begins so is pointed at
    return tuple(f"{folder}{os.sep}" for folder in folders)
