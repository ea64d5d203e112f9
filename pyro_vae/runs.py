"""A run folder: what was trained, on what, how, and what came out."""

import csv
import io
import os
from pathlib import Path
from typing import Any

import yaml

from pyro_vae import __version__, checkpoint
from pyro_vae.checkpoint import CheckpointError

FORMAT = 1


class RunError(ValueError):
    """A run folder that cannot be used; the message says why and what to do."""


class Run:
    """``config.yaml``, ``last.ckpt``, ``previous.ckpt``, ``best.ckpt``, ``history.csv`` and ``figures/`` in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.figures = folder / "figures"

    def __fspath__(self) -> str:
        return str(self.folder)

    def __str__(self) -> str:
        return str(self.folder)

    @classmethod
    def create(cls, folder: str | os.PathLike, config: dict[str, Any]) -> "Run":
        """Start a run in a folder that holds none yet.

        Raises:
            RunError: when the folder holds a run, is a file, or cannot be written.
        """
        path = Path(folder)
        if (path / "config.yaml").exists():
            raise RunError(
                f"{path} already holds a run; go on with `pyro-vae resume {path}`, or name another folder with --run"
            )
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            what = "holds other files" if path.is_dir() else "is a file"
            raise RunError(f"{path} {what} and would be mixed up with the run; name an empty or new folder with --run")
        try:
            path.mkdir(parents=True, exist_ok=True)
            run = cls(path)
            run.update({"format": FORMAT, "version": __version__, **config})
        except OSError as error:
            raise RunError(
                f"cannot write to {path}: {error.strerror}; name a folder that can be written with --run"
            ) from None
        return run

    @classmethod
    def open(cls, folder: str | os.PathLike) -> "Run":
        """Open an existing run.

        Raises:
            RunError: when the folder holds none.
        """
        path = Path(folder)
        if not (path / "config.yaml").is_file():
            what = "holds no run (no config.yaml)" if path.is_dir() else "does not exist"
            raise RunError(f"{path} {what}; name a folder that `pyro-vae train` made")
        return cls(path)

    @property
    def config(self) -> dict[str, Any]:
        """What rebuilds the pair, the data and the training.

        Raises:
            RunError: when the file is damaged or of another version's format.
        """
        path = self.folder / "config.yaml"
        try:
            config = yaml.safe_load(path.read_text())
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise RunError(f"{path} cannot be read: {str(error).splitlines()[0]}; restore it or train anew") from None
        if not isinstance(config, dict) or not {"format", "pair", "data", "training"} <= config.keys():
            raise RunError(f"{path} does not describe a run; restore it or train anew")
        if config["format"] != FORMAT:
            raise RunError(
                f"{path} has format {config['format']} (pyro_vae {config.get('version')}) and this is pyro_vae {__version__} "
                f"with format {FORMAT}; use the version that wrote it"
            )
        return config

    def update(self, config: dict[str, Any]) -> None:
        """Write ``config.yaml`` anew."""
        checkpoint.write_whole(self.folder / "config.yaml", yaml.safe_dump(config, sort_keys=False).encode())

    def save(self, state: dict[str, Any]) -> None:
        """Write ``last.ckpt``; the one before it stays as ``previous.ckpt``."""
        last, link = self.folder / "last.ckpt", self.folder / ".previous.ckpt"
        if last.exists():
            link.unlink(missing_ok=True)
            os.link(last, link)  # a second name, so that last.ckpt is there at every moment
            os.replace(link, self.folder / "previous.ckpt")
        checkpoint.save(last, state)

    def load(self) -> tuple[dict[str, Any], str | None]:
        """Return the last good state, and what had to be passed over to find it, if anything.

        Raises:
            CheckpointError: when neither ``last.ckpt`` nor ``previous.ckpt`` can be read.
        """
        try:
            return checkpoint.load(self.folder / "last.ckpt"), None
        except CheckpointError as error:
            if not (self.folder / "previous.ckpt").exists():
                raise
            return checkpoint.load(self.folder / "previous.ckpt"), str(error)

    def save_best(self, state: dict[str, Any]) -> None:
        """Write ``best.ckpt``: the parameters with the best validation ELBO."""
        checkpoint.save(self.folder / "best.ckpt", state)

    def load_best(self) -> dict[str, Any]:
        """Return what ``save_best`` wrote."""
        return checkpoint.load(self.folder / "best.ckpt")

    @property
    def history(self) -> list[dict[str, float]]:
        """What ``write_history`` wrote; empty before the first epoch's end.

        Raises:
            RunError: when the file is damaged.
        """
        path = self.folder / "history.csv"
        if not path.exists():
            return []
        try:
            with path.open(newline="") as lines:
                return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(lines)]
        except (OSError, UnicodeDecodeError, ValueError, TypeError) as error:
            raise RunError(f"{path} cannot be read: {error}; `pyro-vae resume {self.folder}` writes it anew") from None

    def write_history(self, history: list[dict[str, float]]) -> None:
        """Write ``history.csv``, one line an epoch."""
        if not history:
            return
        text = io.StringIO()
        writer = csv.DictWriter(text, list(history[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(history)
        checkpoint.write_whole(self.folder / "history.csv", text.getvalue().encode())


def next_folder(pair: str, data: str, root: Path = Path("runs")) -> Path:
    """Return ``runs/PAIR-DATA`` or, where that is taken, the same with the next free number."""
    stem = f"{Path(pair.replace(':', '-')).name}-{Path(data).stem}".replace(".py", "")
    taken = {entry.name for entry in os.scandir(root)} if root.is_dir() else set()
    number = 1
    while (name := stem if number == 1 else f"{stem}-{number}") in taken:
        number += 1
    return root / name
