"""The zoo by name: a function enters it with `pair`, and `find` finds it, or a user's own, by name.

Every function takes the description of the data and its own options; the command line reads both
from here.
"""

import functools
import importlib
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from pyro_vae.data import Spec
from pyro_vae.options import checked, is_plain, suggestion, unknown
from pyro_vae.program import Pair, PairError

Builder = Callable[..., Pair]


PAIRS: dict[str, Builder] = {}
MISSING: set[str] = set()
"""Names of the pairs whose data may have missing entries: they read ``seen``."""


def recorded(name: str, build: Builder) -> Builder:
    """Let the pairs that ``build`` returns record the name and options that they were built with.

    A pair with ready-made parts records nothing: only the program that made them can build it anew.
    """

    @functools.wraps(build)
    def built(spec: Spec, *args: Any, **options: Any) -> Pair:
        pair = build(spec, *args, **options)
        if not isinstance(pair, Pair):
            raise PairError(
                f"{name} returned {type(pair).__name__}, not a Pair; end it with `return Pair(model, guide)`"
            )
        told = not args and all(map(is_plain, options.values()))
        own = pair.recipe is not None and pair.recipe["name"] == name  # written by ``build`` itself
        pair = replace(pair, shapes=dict(spec.fields))
        return replace(pair, recipe={"name": name, "options": options}) if told and not own else pair

    return built


def pair(build: Builder) -> Builder:
    """Enter a function into the zoo under its own name; its options are checked against its
    annotations.
    """
    PAIRS[build.__name__] = checked(PairError)(recorded(build.__name__, build))
    return PAIRS[build.__name__]


def takes_missing(build: Builder) -> Builder:
    """Note that a pair reads ``seen``: NaN in x of its data are missing entries."""
    MISSING.add(build.__name__)
    return build


def find(name: str) -> Builder:
    """Return the function behind a pair's name, ``file.py:function`` or
    ``package.module:function``.

    Raises:
        PairError: when there is none; near names are suggested.
    """
    if name in PAIRS:
        return PAIRS[name]
    if ":" not in name:
        own = "" if suggestion(name, PAIRS) else "; your own is named file.py:function"
        raise PairError(unknown("pair", name, PAIRS) + own)
    place, function = name.rsplit(":", 1)
    module = _load_file(Path(place)) if place.endswith(".py") else _import(place)
    build = getattr(module, function, None)
    if not callable(build):
        raise PairError(
            f"{place} has no function {function!r}; it should take the data's description and return a Pair"
        )
    return recorded(name, build)


def _load_file(path: Path) -> Any:
    if not path.is_file():
        raise PairError(f"there is no file {path}; a pair of your own is named file.py:function")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(path.stem, module)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise PairError(f"{path} cannot be loaded: {type(error).__name__}: {error}") from error
    return module


def _import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise PairError(f"module {name!r} cannot be imported: {error}") from error
