"""A run folder opened: the pair and the data built anew, with the parameters of the best epoch."""

import math
import os
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from pyro_vae.data import Data, load_data
from pyro_vae.pairs import MISSING, PAIRS, file_of, find, source_of
from pyro_vae.program import Pair
from pyro_vae.runs import Run, RunError, RunNote, from_here, seeded
from pyro_vae.training import Fitted, Training, build_from_config
from pyro_vae.warning import warn

Build = Callable[..., Pair] | str


class Words(NamedTuple):
    """How messages ask for what only the user can say."""

    pair: str  # with {} for the name
    data: str


PYTHON = Words("build={!r}", "data=")


def load(run: str | os.PathLike, *, build: Build | None = None, data: object = None) -> Fitted:
    """Open a run folder: what ``fit`` returned, with the parameters of its best epoch.

    Code from a file is run only if ``build`` names it.

    Args:
        run: a folder that ``fit``, ``save`` or the command line wrote.
        build: what builds a pair of your own: the function itself, which takes the data's
            description and the options that the run keeps, or "file.py:function". Pairs of
            ``pyro_vae.pairs`` need none.
        data: the data, where they lie now if they have moved, or what ``load_data`` takes; by
            default what the run was trained on.

    Raises:
        RunError: there is no run, or only the user can say what its pair or data are.
        PairError: the stored parameters do not belong to the pair that ``build`` makes.
        DataError: the data cannot be loaded.
    """
    opened = Run.open(run)
    pair, found = rebuild(opened, build, data, PYTHON)
    note_other_data(opened, found)
    pair.load_state_dict(opened.load_best()["parameters"])
    history = opened.history
    last = history[-1] if history else {"epoch": 0, "step": 0}
    return Fitted(
        pair.train(False),
        found,
        history,
        int(last["epoch"]),
        int(last["step"]),
        seconds=math.nan if (seconds := opened.seconds) is None else seconds,
        compiled=False,
        run=opened,
        training=Training.read(opened.config["training"]),
    )


def rebuild(run: Run, build: Build | None, data: object, words: Words) -> tuple[Pair, Data]:
    """Build a run's pair and data anew, as training did, with the parameters that it began with.

    Args:
        run: the run.
        build: see `load`.
        data: likewise.
        words: how messages ask for the two.

    Raises:
        RunError: the run does not say what they are, and nor does the user.
    """
    config = run.config
    recipe = config["pair"] or {"name": None, "options": {}}
    make = _builder(run, recipe["name"], build, words)
    seed = Training.read(config["training"]).seed

    def built(**options: Any) -> Pair:
        # as training does, so that a run killed before its first checkpoint begins with the same
        # bits
        with seeded(seed):
            return make(found.spec, **options)

    try:
        found = _data(run, data, recipe["name"], words)
        return build_from_config(built, recipe["options"]), found
    except (ValueError, OSError):  # these say it themselves
        raise
    except Exception as error:  # whatever other code makes of a config.yaml that somebody changed
        reason = (str(error).splitlines() or [""])[0][:200]
        raise RunError(
            f"{run}/config.yaml does not rebuild its pair and data: {type(error).__name__}: {reason}"
        ) from error


def note_other_data(run: Run, data: Data) -> None:
    """Say it if the data are not those that a run was trained on."""
    if run.trained_on(data.fingerprint) is False:
        warn(
            f"{data.spec.name} holds other data than {run} was trained on, or other splits; "
            "some of these may have been trained on",
            RunNote,
        )


def _builder(run: Run, stored: str | None, build: Build | None, words: Words) -> Callable[..., Pair]:
    """Return what builds the pair: the zoo's function, or the user's own that may be run."""
    if callable(build):
        return build
    if stored is None and build is None:
        raise RunError(
            f"{run} was trained from Python with a pair that the run cannot build; say what does, with "
            f"{words.pair.format('file.py:function')}" + (" or the function itself" if words is PYTHON else "")
        )
    if stored is None:
        return find(str(build))
    return find(stored if stored in PAIRS else _allowed(run, stored, build, words))


def _data(run: Run, given: object, pair: str | None, words: Words) -> Data:
    if isinstance(given, Data):
        return given
    source, categories = run.config["data"], run.config.get("categories")  # a table's are those of training
    known: dict[str, Any] = {"categories": categories} if categories else {}
    if source is None and given is None:
        raise RunError(
            f"{run} was trained from Python with data from memory; say what they are, with {words.data} and a "
            ".npz, .npy or folder" + (" or arrays" if words is PYTHON else "")
        )
    if source is None:
        return load_data(given, missing="mark" if pair in MISSING else None, **known)
    stored = source["name"]
    if given is None and os.path.isabs(stored) and not os.path.exists(stored):
        raise RunError(f"the data of {run} are not at {stored} any more; say where they are with {words.data}")
    return build_from_config(partial(load_data, stored if given is None else given), {**source["options"], **known})


def _allowed(run: Run, stored: str, named: str | None, words: Words) -> str:
    """Return the user's own pair that the user allows to run, if it is the run's.

    A file that was moved is known by its content; one that was changed in its place is said to be.
    """
    shown = words.pair.format(from_here(stored))
    if named is None:
        raise RunError(f"{run} was trained with {from_here(stored)}, whose code would be run; allow it with {shown}")
    known = run.fingerprint("pair")
    function, named_function = stored.rpartition(":")[2], named.rpartition(":")[2]
    if named == stored or (file_of(named), named_function) == (file_of(stored), function):
        if known is not None and source_of(named) != known:
            warn(
                f"the code of {named}, or of a file beside it that it imports, has changed since {run} was trained",
                RunNote,
            )
        return named
    moved = known is not None and source_of(named) == known and named_function == function
    if not moved:
        raise RunError(f"{run} was trained with {from_here(stored)}, and {named} is not the same code; give {shown}")
    return named
