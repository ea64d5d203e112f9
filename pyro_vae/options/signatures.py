"""Functions whose arguments are checked against their annotations, and which a command line can
read.
"""

import functools
import inspect
import operator
import typing
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Any, Literal, TypeVar

from pyro_vae.options.kinds import accept, alternatives, holds_numbers, rule_of
from pyro_vae.options.names import misspelled
from pyro_vae.options.registry import Registry

GIVEN = ("self", "spec", "pair", "data")
"""Arguments that are no options."""

Function = TypeVar("Function", bound=Callable[..., Any])


def checked(error: Callable[[str], Exception] | None = None) -> Callable[[Function], Function]:
    """Return a decorator that checks the arguments of every call against the function's
    annotations.

    Args:
        error: makes what is raised of its message; by default a TypeError for an unknown argument
            or a value of the wrong kind, and a ValueError for a value that is not allowed.
    """

    def decorate(function: Function) -> Function:
        signature = inspect.signature(function)
        parameters = signature.parameters
        positional = [p.name for p in parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
        named = [p.name for p in parameters.values() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
        kinds = functools.cache(lambda: typing.get_type_hints(function, include_extras=True))

        @functools.wraps(function)
        def call(*args: Any, **options: Any) -> Any:
            try:
                given = [
                    accept(name, value, kinds().get(name, Any)) for name, value in zip(positional, args, strict=False)
                ]
                for name in options:
                    if name not in named and not takes_all:
                        raise TypeError(
                            misspelled(
                                _name(function), name, (n for n in named if n not in ("self", "spec", "pair", "data"))
                            )
                        )
                    options[name] = accept(name, options[name], kinds().get(name, Any))
            except (TypeError, ValueError) as refusal:
                raise (error or type(refusal))(str(refusal)) from None
            return function(*given, *args[len(given) :], **options)

        return call  # type: ignore[return-value]

    return decorate


def is_plain(value: Any) -> bool:
    """Return whether ``value`` can be written down in a configuration: numbers, words, None, and
    lists of them, and dictionaries by name.
    """
    if isinstance(value, list):
        return all(map(is_plain, value))
    if isinstance(value, dict):
        return all(isinstance(key, str) for key in value) and all(map(is_plain, value.values()))
    return value is None or isinstance(value, bool | int | float | str)


def plain(kind: Any) -> Any:
    """Return an annotation as a command line can read it: names in place of registries, no
    ready-made objects.
    """
    if isinstance(kind, typing.TypeVar) or kind in (Any, inspect.Parameter.empty):
        return kind
    found = [_plain(one) for one in alternatives(kind)]
    readable = [one for one in found if one is not None]
    return functools.reduce(operator.or_, readable) if readable else kind


def kinds_of(function: Callable[..., Any]) -> dict[str, Any]:
    """Return the annotations of a function's options; none where they cannot be read, as in a
    user's own file.
    """
    try:
        return typing.get_type_hints(function, include_extras=True)
    except (NameError, TypeError, AttributeError):
        return {}


def shown(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return ``function`` with the signature that a command line reads."""
    kinds = kinds_of(function)
    signature = inspect.signature(function)
    parameters = [p.replace(annotation=plain(kinds.get(p.name, p.annotation))) for p in signature.parameters.values()]

    def stand_in(*args: Any, **options: Any) -> Any:
        return function(*args, **options)

    stand_in.__doc__, stand_in.__name__ = function.__doc__, getattr(function, "__name__", "pair")
    stand_in.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return stand_in


def registries(function: Callable[..., Any]) -> dict[str, Registry]:
    """Return the registries that the options of ``function`` choose from, by option."""
    found = {}
    for name, kind in kinds_of(function).items():
        for one in alternatives(kind):
            if isinstance(rule_of(one), Registry):
                found[name] = rule_of(one)
    return found


def _plain(kind: Any) -> Any:
    rule, origin = rule_of(kind), typing.get_origin(kind)
    if isinstance(rule, Registry):
        return Literal[tuple(rule)]
    if origin is Annotated:
        return plain(typing.get_args(kind)[0])
    if origin in (list, tuple, Sequence, Iterable):
        return list[plain(typing.get_args(kind)[0])] if holds_numbers(kind) else None  # type: ignore[misc]
    return kind if origin is Literal or kind in (int, float, bool, str, type(None)) else None


def _name(function: Callable[..., Any]) -> str:
    return function.__qualname__.removesuffix(".__init__").rpartition(".<locals>.")[2]
