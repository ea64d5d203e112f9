"""Folders of runs, and the places within one."""

import os
from collections.abc import Iterator
from pathlib import Path

from pyro_vae.runs.errors import RunError
from pyro_vae.runs.run import Run


def runs_in(root: str | os.PathLike) -> Iterator[Run]:
    """Return the runs directly in a folder, by name.

    Raises:
        RunError: when there is no such folder.
    """
    try:
        names = sorted(os.listdir(root))
    except OSError as error:
        raise RunError(f"cannot list {root}: {error.strerror}; name a folder that holds runs") from None
    return (Run(Path(root, name)) for name in names if os.path.isfile(os.path.join(root, name, "config.yaml")))


def figures_in(folder: Path) -> Path:
    """Return the folder ``figures`` of a run or report, made if it is not there.

    Raises:
        RunError: when a link or a file has its place: pictures would go elsewhere.
    """
    figures = folder / "figures"
    if figures.is_symlink() or (figures.exists() and not figures.is_dir()):
        raise RunError(f"{figures} is not a folder of its own and pictures would be written elsewhere; remove it")
    figures.mkdir(parents=True, exist_ok=True)
    return figures


def next_folder(pair: str, data: str, root: Path = Path("runs")) -> Path:
    """Return ``runs/PAIR-DATA`` or, where that is taken, the same with the next free number.

    >>> str(next_folder("ink.py:ink", "digits", Path("none")))
    'none/ink-digits'
    >>> str(next_folder("my/ink.py:thick", "data/mine.npz", Path("none")))
    'none/ink-thick-mine'
    """
    place, _, function = pair.rpartition(":")
    names = dict.fromkeys([Path(place).stem, function, Path(data).stem])  # a name that file and function share, once
    stem = "-".join(filter(None, names))
    taken = {entry.name for entry in os.scandir(root)} if root.is_dir() else set()
    number = 1
    while (name := stem if number == 1 else f"{stem}-{number}") in taken:
        number += 1
    return root / name
