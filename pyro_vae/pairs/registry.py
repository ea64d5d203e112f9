"""The zoo by name: a function enters it with `pair`, and `find` finds it, or a user's own, by name.

Every function takes the description of the data and its own options; the command line reads both
from here.
"""

import functools
import importlib
import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from pyro_vae.data import Data, Spec
from pyro_vae.options import checked, is_plain, suggestion, unknown
from pyro_vae.pairs.own_files import file_of, load_file, source_of, with_neighbours
from pyro_vae.program import Pair, PairError

Builder = Callable[..., Pair]


PAIRS: dict[str, Builder] = {}
MISSING: set[str] = set()
"""Names of the pairs whose data may have missing entries: they read ``seen``."""


def recorded(name: str, build: Builder, source: str | None = None) -> Builder:
    """Let the pairs that ``build`` returns record the name and options that they were built with,
    and the ``source`` that tells their code from other code.

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
        recipe = {"name": name, "options": options} | ({} if source is None else {"source": source})
        return replace(pair, recipe=recipe) if told and not own else pair

    return built


def refuse_categories(spec: Spec, what: str) -> None:
    """Refuse a table with columns of categories for what has no likelihood for them.

    Raises:
        PairError: it is one.
    """
    if spec.categorical:
        names = ", ".join(column.name for column in spec.categorical[:4]) + ", ..." * (len(spec.categorical) > 4)
        raise PairError(
            f"{what} has no likelihood for columns of categories, and {spec.name} has {names}; leave these columns "
            "out, or use a pair such as latent"
        )


def _without_categories(build: Builder) -> Builder:
    """Return a builder that refuses columns of categories, if it takes no likelihood."""
    if "likelihood" in inspect.signature(build).parameters:
        return build

    @functools.wraps(build)
    def refusing(spec: Spec, *args: Any, **options: Any) -> Pair:
        refuse_categories(spec, f"the pair {build.__name__}")
        return build(spec, *args, **options)

    return refusing


def _of_data(build: Builder) -> Builder:
    """Return a builder that takes data too, for their description."""

    @functools.wraps(build)
    def built(spec: Spec | Data, *args: Any, **options: Any) -> Pair:
        return build(spec.spec if isinstance(spec, Data) else spec, *args, **options)

    return built


def pair(build: Builder) -> Builder:
    """Enter a function into the zoo under its own name; its options are checked against its
    annotations.
    """
    entered = checked(PairError)(recorded(build.__name__, _without_categories(build)))
    PAIRS[build.__name__] = _of_data(entered)
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
    path = file_of(name)
    module = _import(place) if path is None else load_file(path, place)
    build = getattr(module, function, None)
    if not callable(build):
        raise PairError(
            f"{place} has no function {function!r}; it should take the data's description and return a Pair"
        )
    if path is None:
        return recorded(name, build)
    return recorded(f"{path}:{function}", with_neighbours(build, path.parent), source_of(name))


def _import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise PairError(f"module {name!r} cannot be imported: {error}") from error
