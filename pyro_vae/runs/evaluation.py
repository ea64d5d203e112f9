"""``evaluation.json`` in a run's folder: what ``pyro-vae evaluate`` found last."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pyro_vae.runs.checkpoint import open_regular, write_whole
from pyro_vae.runs.errors import RunNote
from pyro_vae.warning import warn

MAX_EVALUATION = 10_000_000  # bytes; a real one has a few thousand


class Evaluation(NamedTuple):
    """How an evaluation was made, and what it found, in words."""

    reached: str  # its answer, in nats per datum
    split: str
    num_data: int
    draws: str  # how many, in words; empty where nothing is drawn
    table: dict[str, str]  # each quantity, by its name
    command: str  # that made it
    date: str  # YYYY-MM-DD
    step: int  # up to which the run was trained then


def evaluation_of(folder: Path) -> Path:
    """Return the file in a run's folder that holds its evaluation."""
    return folder / "evaluation.json"


def keep_evaluation(folder: Path, found: Evaluation, figures: Mapping[str, Any]) -> None:
    """Write an evaluation with its figures, as ``pyro-vae evaluate --json`` prints them.

    Raises:
        OSError: it cannot be written.
    """
    told = {**figures, "made": found._asdict()}
    write_whole(evaluation_of(folder), f"{json.dumps(told)}\n".encode())


def read_evaluation(folder: Path) -> Evaluation | None:
    """Return what ``keep_evaluation`` wrote; None, with a note if it cannot be read, where there is
    none.
    """
    path = evaluation_of(folder)
    if not os.path.lexists(path):
        return None
    try:
        with open_regular(path) as file:
            made = json.loads(file.read(MAX_EVALUATION))["made"]
        found = Evaluation(**made)
        if not all(isinstance(getattr(found, name), kind) for name, kind in _KINDS.items()):
            raise TypeError("values of other types")
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        warn(f"{path} cannot be read ({type(error).__name__}); `pyro-vae evaluate {folder}` writes it anew", RunNote)
        return None
    return found._replace(table={str(name): str(value) for name, value in found.table.items()})


_KINDS = {
    "reached": str,
    "split": str,
    "num_data": int,
    "draws": str,
    "table": dict,
    "command": str,
    "date": str,
    "step": int,
}
