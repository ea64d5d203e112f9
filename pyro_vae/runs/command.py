"""A run as the command line opens it: its folder, and what else commands need for it."""

import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def argument_of(folder: Path, config: Mapping[str, Any]) -> str:
    """Return what follows ``pyro-vae COMMAND`` to open a run.

    Args:
        folder: the run's.
        config: its ``config.yaml``. A pair from a user's own file has to be allowed by name, and
            what only a script can build to be named.
    """
    words = [str(folder)]
    name = (config["pair"] or {}).get("name", "FILE.py:FUNCTION")
    if ":" in name:
        words += ["--pair", from_here(name)]
    if config["data"] is None:
        words += ["--data", "FILE"]
    return shlex.join(words)


def from_here(name: str) -> str:
    """Return a pair's name ``file.py:function`` by the way from this folder, if the file is below
    it.
    """
    place, _, function = name.rpartition(":")
    near = os.path.relpath(os.path.realpath(Path(place).expanduser()), os.path.realpath(os.curdir))
    return name if near.startswith(os.pardir) else f"{near}:{function}"
