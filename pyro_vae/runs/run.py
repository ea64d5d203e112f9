"""A run folder: what was trained, on what, how, and what came out."""

import contextlib
import csv
import errno
import io
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from pyro_vae import __version__
from pyro_vae.runs import checkpoint
from pyro_vae.runs.checkpoint import CheckpointError, open_regular
from pyro_vae.runs.command import argument_of
from pyro_vae.runs.errors import RunError, RunNote
from pyro_vae.runs.evaluation import Evaluation, read_evaluation
from pyro_vae.runs.lock import Lock, taken
from pyro_vae.runs.plain_yaml import as_yaml, parse_yaml
from pyro_vae.warning import warn

FORMAT = 1
MAX_CONFIG = 1_000_000  # bytes; a real one has hundreds
MAX_HISTORY = 100_000_000  # bytes; a real one has about a hundred per epoch
_SECTIONS = {"pair": {"name": str, "options": dict}, "data": {"name": str, "options": dict}}
_COLUMNS = frozenset(["epoch", "step", "loss", "elbo", "reconstruction", "kl", "beta", "lr"])
_TEMPORARY = re.compile(r"\.lock|\.previous\.ckpt|\.(config\.yaml|history\.csv|\w+\.(html|json|ckpt|pt|npz|nc))-\w+")
_NO_LINKS = frozenset([errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV])


class Run:
    """A run's folder.

    It holds ``config.yaml``, ``last.ckpt``, ``previous.ckpt``, ``best.ckpt``, ``history.csv``,
    ``figures/`` and, once it was evaluated, ``evaluation.json``.

    One process at a time writes: see ``lock``.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.figures = folder / "figures"
        self._lock = Lock(folder / ".lock")
        self._last_is_bad = False

    def __fspath__(self) -> str:
        return str(self.folder)

    def __str__(self) -> str:
        return str(self.folder)

    @classmethod
    def create(cls, folder: str | os.PathLike, config: dict[str, Any]) -> "Run":
        """Start a run in a folder that holds none yet, and hold its lock.

        Raises:
            RunError: when the folder holds a run, is a file, or cannot be written.
        """
        path = Path(folder)
        run = cls(path)
        run._refuse_used()
        config = {"format": FORMAT, "version": __version__, **config}
        as_yaml(config)  # refused before there is a folder
        try:
            path.mkdir(parents=True, exist_ok=True)
            run.lock()
            run._refuse_used()  # another process may have been quicker
            run.update(config)
        except OSError as error:
            run.release()
            raise RunError(
                f"cannot write to {path}: {error.strerror}; name a folder that can be written with --run"
            ) from None
        except RunError:
            run.release()
            raise
        return run

    def _refuse_used(self) -> None:
        path = self.folder
        if (path / "config.yaml").exists():
            raise RunError(
                f"{path} already holds a run; go on with `pyro-vae resume {path}` (in Python resume=True), or name "
                "another folder with --run (run=)"
            )
        if path.exists() and not path.is_dir():
            raise RunError(
                f"{path} is a file and would be mixed up with the run; name an empty or new folder with --run"
            )
        if path.is_dir() and not all(map(_TEMPORARY.fullmatch, os.listdir(path))):
            raise RunError(
                f"{path} holds other files and would be mixed up with the run; name an empty or new folder with --run"
            )

    @classmethod
    def open(cls, folder: str | os.PathLike) -> "Run":
        """Open an existing run, to read it; ``lock`` it before writing.

        Raises:
            RunError: when the folder holds none.
        """
        path = Path(folder)
        if not (path / "config.yaml").is_file():
            what = "holds no run (no config.yaml)" if path.is_dir() else "does not exist"
            raise RunError(f"{path} {what}; name a folder that `pyro-vae train` made")
        return cls(path)

    # --- one writer ---

    @property
    def locked(self) -> bool:
        """Whether this object holds the run's lock."""
        return self._lock.held

    def lock(self) -> None:
        """Become the run's only writer until ``release``; clear away what a killed process left.

        Raises:
            RunError: when another process is writing; it is named.
        """
        if self._lock.held:
            return
        try:
            holder = self._lock.acquire()
        except OSError as error:
            raise RunError(f"cannot write to {self}: {error.strerror}; make the folder writable, or copy it") from None
        if holder is not None:
            raise RunError(f"{self} is being written by {holder}; wait until it ends, or stop it")
        for name in os.listdir(self.folder):
            if name != ".lock" and _TEMPORARY.fullmatch(name):
                (self.folder / name).unlink(missing_ok=True)

    def release(self) -> None:
        """Let others write."""
        self._lock.release()

    def discard(self) -> None:
        """Remove a run that was refused before its first checkpoint: its name is free again."""
        if self.begun:
            return
        for name in ("config.yaml", ".lock"):
            (self.folder / name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # something else lies there
            self.folder.rmdir()

    # --- contents ---

    @property
    def config(self) -> dict[str, Any]:
        """What rebuilds the pair, the data and the training.

        Raises:
            RunError: when the file is damaged or of another version's format.
        """
        path = self.folder / "config.yaml"
        try:
            config = _read_yaml(path)
        except (OSError, ValueError, OverflowError, yaml.YAMLError) as error:
            lines = str(error).splitlines() or [type(error).__name__]
            raise RunError(f"{path} cannot be read: {lines[0][:200]}; restore it or train anew") from None
        if not isinstance(config, dict) or not {"format", "pair", "data", "training"} <= config.keys():
            raise RunError(f"{path} does not describe a run; restore it or train anew")
        if config["format"] != FORMAT:
            raise RunError(
                f"{path} has format {str(config['format'])[:20]} (pyro_vae {str(config.get('version'))[:20]}) "
                f"and this is pyro_vae {__version__} with format {FORMAT}; use the version that wrote it"
            )
        for section, entries in _SECTIONS.items():
            found = config[section]
            if found is not None and not (
                isinstance(found, dict) and all(isinstance(found.get(name), kind) for name, kind in entries.items())
            ):
                raise RunError(f"{path} does not say its {section} by name and options; restore it or train anew")
        if not isinstance(config["training"], dict):
            raise RunError(f"{path} does not say how to train; restore it or train anew")
        return config

    @property
    def argument(self) -> str:
        """Itself as commands take it: ``pyro-vae draw {run.argument} samples``."""
        return argument_of(self.folder, self.config)

    def fingerprint(self, what: str) -> str | None:
        """Return what tells the ``pair`` or the ``data`` from others; None in older runs."""
        prints = self.config.get("fingerprints")
        found = prints.get(what) if isinstance(prints, dict) else None
        return found if isinstance(found, str) else None

    def trained_on(self, data: str) -> bool | None:
        """Return whether these are the data trained on, by fingerprint; None if it is not known."""
        known = self.fingerprint("data")
        return None if known is None else known == data

    def remember(self, seconds: float | None, step: int, machine: Mapping[str, Any]) -> None:
        """Note in ``config.yaml`` where and when training got to a step, and how long it took in
        all, where that is known.
        """
        time = {} if seconds is None else {"time": {"seconds": round(seconds, 3), "step": step}}
        self.update({**self.config, **time, "machine": dict(machine)})

    @property
    def machine(self) -> dict[str, Any]:
        """Where and when it was trained last, see `pyro_vae.training.machine`; empty if unknown."""
        known = self.config.get("machine")
        return known if isinstance(known, dict) else {}

    @property
    def evaluation(self) -> Evaluation | None:
        """What ``pyro-vae evaluate`` found last; None before it was run."""
        return read_evaluation(self.folder)

    def time_up_to(self, step: int) -> float | None:
        """Return the seconds that training up to a step took; None where the run does not know.

        It knows of its last checkpoint only. Runs of older versions know nothing, nor do those
        that went on from an earlier checkpoint than their last.
        """
        known = self.config.get("time")
        if not isinstance(known, dict) or known.get("step") != step:
            return None
        seconds = known.get("seconds")
        if not isinstance(seconds, int | float) or not math.isfinite(seconds) or seconds < 0:
            return None
        return float(seconds)

    @property
    def seconds(self) -> float | None:
        """How long its training took in all; None where that is not known."""
        known, history = self.config.get("time"), self.history
        step = known.get("step") if isinstance(known, dict) else None
        if not isinstance(step, int) or not history or step < int(history[-1]["step"]):
            return None
        return self.time_up_to(step)

    def update(self, config: dict[str, Any]) -> None:
        """Write ``config.yaml`` anew."""
        checkpoint.write_whole(self.folder / "config.yaml", as_yaml(config).encode())

    @property
    def begun(self) -> bool:
        """Whether there is a checkpoint to go on from."""
        return any((self.folder / name).exists() for name in ("last.ckpt", "previous.ckpt"))

    def save(self, state: dict[str, Any]) -> None:
        """Write ``last.ckpt``; the one before it stays as ``previous.ckpt``."""
        last, previous, link = (self.folder / name for name in ("last.ckpt", "previous.ckpt", ".previous.ckpt"))
        if last.exists() and not self._last_is_bad:  # a damaged one must not take the good one's place
            try:
                link.unlink(missing_ok=True)
                os.link(last, link)  # a second name, so that last.ckpt is there at every moment
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                link = last  # a file system without links: for a moment there is only previous.ckpt
            try:
                os.replace(link, previous)
            finally:
                if link != last:  # renaming one name of a file to another name of the same file does nothing
                    link.unlink(missing_ok=True)
        checkpoint.save(last, state)
        self._last_is_bad = False

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
            state = checkpoint.load(self.folder / "previous.ckpt")
            self._last_is_bad = True
            return state, str(error)

    def save_best(self, state: dict[str, Any]) -> None:
        """Write ``best.ckpt``: the parameters with the best validation ELBO."""
        checkpoint.save(self.folder / "best.ckpt", state)

    def load_best(self) -> dict[str, Any]:
        """Return what ``save_best`` wrote; the last parameters where no epoch was the best.

        Raises:
            CheckpointError: it is missing or cannot be read.
        """
        if self.begun and not os.path.lexists(self.folder / "best.ckpt"):
            state, _ = self.load()
            if state["history"] and not any(math.isfinite(row.get("figure", row["elbo"])) for row in state["history"]):
                warn(f"no epoch of {self} has a finite figure on the validation split; its last one is taken", RunNote)
                return {"parameters": state["parameters"], "epoch": state["epoch"], "elbo": math.nan}
        return checkpoint.load(self.folder / "best.ckpt")

    @property
    def history(self) -> list[dict[str, float]]:
        """What ``write_history`` wrote; empty before the first epoch's end.

        Raises:
            RunError: when the file is damaged.
        """
        path = self.folder / "history.csv"
        if not os.path.lexists(path):
            return []
        try:
            rows = [{name: float(value) for name, value in row.items()} for row in _read_csv(path)]
            if any(_COLUMNS - row.keys() for row in rows):
                raise ValueError(f"it lacks columns; a history has {', '.join(sorted(_COLUMNS))}")
            return rows
        except (OSError, ValueError, TypeError, csv.Error) as error:
            raise RunError(f"{path} cannot be read: {error}; `pyro-vae resume {self.folder}` writes it anew") from None

    def write_history(self, history: list[dict[str, float]]) -> None:
        """Write ``history.csv``, one line per epoch."""
        if not history:
            return
        text = io.StringIO()
        writer = csv.DictWriter(text, list(history[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(history)
        checkpoint.write_whole(self.folder / "history.csv", text.getvalue().encode())

    def summary(self) -> dict[str, Any]:
        """Return one line's worth of the run, from ``config.yaml`` and ``history.csv`` alone.

        ``run, pair, data, state ("running", "finished", "stopped" or "damaged"), epochs, planned,
        elbo`` (the best on the validation split, nats per datum), ``classes`` (their names, of
        class 0, 1, ..., where they have some) and ``evaluation`` (what ``pyro-vae evaluate`` found,
        see `Evaluation`, and whether it is ``outdated``: the run was trained further since).
        """
        row: dict[str, Any] = {"run": str(self), "pair": None, "data": None, "state": "damaged"}
        row |= {"epochs": 0, "planned": None, "elbo": None, "classes": None, "evaluation": None}
        try:
            config = self.config
            lines = _read_csv(self.folder / "history.csv")
            elbos, step = [_or_least(float(line["elbo"])) for line in lines], float(lines[-1]["step"]) if lines else 0.0
        except FileNotFoundError:
            elbos, step = [], 0.0
        except (RunError, OSError, ValueError, KeyError, TypeError, csv.Error):
            return row
        names = config.get("classes")
        row["classes"] = [*map(str, names)] if isinstance(names, list) else None
        if (found := self.evaluation) is not None:
            row["evaluation"] = {**found._asdict(), "outdated": found.step < step}
        planned = config["training"].get("epochs")
        row |= {section: (config[section] or {}).get("name") for section in _SECTIONS}
        patience = config["training"].get("patience")
        waited = len(elbos) - 1 - max(range(len(elbos)), key=elbos.__getitem__, default=0)
        finished = (isinstance(planned, int) and len(elbos) >= planned) or (
            isinstance(patience, int) and waited >= patience
        )
        row["state"] = "running" if taken(self._lock.path) else "finished" if finished else "stopped"
        best = max(elbos, default=-math.inf)
        return row | {"epochs": len(elbos), "planned": planned, "elbo": best if math.isfinite(best) else None}


def _or_least(elbo: float) -> float:
    return elbo if math.isfinite(elbo) else -math.inf


def _read_yaml(path: Path) -> Any:
    """Read a small YAML file of plain values.

    Raises:
        ValueError: for what could take memory or stack out of proportion: a large file, deep
            nesting, aliases.
    """
    return parse_yaml(_read_text(path, MAX_CONFIG))


def _read_csv(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(_read_text(path, MAX_HISTORY), newline="")))


def _read_text(path: Path, limit: int) -> str:
    with open_regular(path) as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise ValueError(f"it has more than {limit:,} bytes")
    return content.decode()
