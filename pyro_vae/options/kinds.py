"""What an annotation allows as the value of an option, and how a value is refused."""

import contextlib
import math
import types
import typing
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Annotated, Any, Literal, Union

from pyro_vae.options.names import one_of, quoted
from pyro_vae.options.registry import Registry


@dataclass(frozen=True)
class Within:
    """Numbers from ``low`` up to, not including, ``below``; ``above`` leaves out ``low`` itself."""

    low: float
    below: float = math.inf
    above: bool = False

    def __contains__(self, value: float) -> bool:
        return (self.low < value if self.above else self.low <= value) and value < self.below

    def __str__(self) -> str:
        least = f"above {self.low}" if self.above else f"at least {self.low}"
        return least if math.isinf(self.below) else f"{least} and below {self.below}"


Count = Annotated[int, Within(1)]
Whole = Annotated[int, Within(0)]
Positive = Annotated[float, Within(0, above=True)]
Weight = Annotated[float, Within(0)]
Fraction = Annotated[float, Within(0, 1)]


def accept(name: str, value: Any, kind: Any) -> Any:
    """Return ``value`` as an option ``name`` of the annotated ``kind`` takes it: plain numbers,
    lists for tuples.

    Raises:
        TypeError: it is of the wrong kind.
        ValueError: it is of the right kind, but not allowed.
    """
    refusals: list[Exception] = []
    for one in alternatives(kind):
        try:
            return _accept(name, value, one)
        except ValueError as refusal:
            refusals.insert(0, refusal)
        except TypeError as refusal:
            refusals.append(refusal)
    if isinstance(refusals[0], ValueError) or len(refusals) == 1:
        raise refusals[0]
    raise TypeError(f"{name} must be {_said(kind)}; got {quoted(value)}")


def _accept(name: str, value: Any, kind: Any) -> Any:
    rule, origin = rule_of(kind), typing.get_origin(kind)
    if isinstance(rule, Registry):
        return _chosen(name, value, rule, typing.get_args(kind)[0])
    if isinstance(rule, Within):
        taken = accept(name, value, typing.get_args(kind)[0])
        if taken not in rule:
            raise ValueError(f"{name} must be {rule}, got {quoted(value)}")
        return taken
    if origin is Literal:
        word = str(value) if type(value) is int else value  # precision=64
        if not isinstance(word, str) or word not in typing.get_args(kind):
            raise (ValueError if isinstance(value, str) else TypeError)(one_of(name, typing.get_args(kind), value))
        return word
    if origin in (list, tuple, Sequence, Iterable) and holds_numbers(kind):
        return _list(name, value, kind)
    if kind is Any or (origin is None and not isinstance(kind, type)) or getattr(kind, "_is_protocol", False):
        return value
    if origin is not None:
        return _generic(name, value, kind, origin)
    return _simple(name, value, kind)


def _generic(name: str, value: Any, kind: Any, origin: Any) -> Any:
    """Return a value of a parametrised kind, of which only the outer type is checked: a sequence, a
    function.
    """
    holds = (
        hasattr(value, "__iter__")
        if origin in (Sequence, Iterable)
        else not isinstance(origin, type) or isinstance(value, origin)
    )
    if isinstance(value, bool | int | float | str | None) or not holds:
        raise TypeError(f"{name} must be {_said(kind)}; got {quoted(value)}")
    return value


def _simple(name: str, value: Any, kind: type) -> Any:
    number = isinstance(value, Real) and not isinstance(value, bool)
    if kind is float and number:
        if not math.isfinite(value):
            raise ValueError(f"{name} must be a finite number, got {quoted(value)}")
        return float(value)
    if kind is int and number and isinstance(value, Integral):
        return int(value)
    if kind is bool and type(value).__name__ in ("bool", "bool_"):
        return bool(value)
    if kind not in (int, float, bool) and isinstance(value, kind):
        return value
    raise TypeError(f"{name} must be {_said(kind)}; got {quoted(value)}")


def _chosen(name: str, value: Any, registry: Registry, kind: Any) -> Any:
    if isinstance(value, str):
        if value not in registry:
            raise ValueError(one_of(name, registry, value))
        return value
    objects = [one for one in alternatives(kind) if one is not str]
    for one in objects:
        with contextlib.suppress(TypeError):
            return _accept(name, value, one)
    ready = "".join(f", or {_said(one)}" for one in objects)
    raise TypeError(f"{one_of(name, registry, None)}{ready}; got {quoted(value)}")


def _list(name: str, value: Any, kind: Any) -> Any:
    origin, element = typing.get_origin(kind), typing.get_args(kind)[0]
    many = (
        value
        if isinstance(value, list | tuple) or (hasattr(value, "tolist") and getattr(value, "ndim", 0) == 1)
        else None
    )
    try:
        taken = [accept(name, one, element) for one in ([value] if many is None else many)]
    except ValueError:  # within a list, the list is what was given
        raise ValueError(f"{name} must be {rule_of(element)}, got {quoted(value)}") from None
    except TypeError:
        raise TypeError(f"{name} must be {_said(kind)}; got {quoted(value)}") from None
    return taken if origin is list else tuple(taken)


def alternatives(kind: Any) -> Sequence[Any]:
    """Return the members of a union, or the annotation itself."""
    return typing.get_args(kind) if typing.get_origin(kind) in (types.UnionType, Union) else (kind,)


def rule_of(kind: Any) -> Any:
    """Return the `Within` or `Registry` that an annotation carries."""
    rules = getattr(kind, "__metadata__", ())
    return next((rule for rule in rules if isinstance(rule, Within | Registry)), None)


def holds_numbers(kind: Any) -> bool:
    """Return whether a sequence is annotated to hold whole numbers or floats."""
    element = typing.get_args(kind)[0]
    return (typing.get_args(element)[0] if rule_of(element) else element) in (int, float)


_WORDS = {int: "a whole number", float: "a number", bool: "True or False", str: "a word", type(None): "None"}


def _said(kind: Any) -> str:
    """Return an annotation in words."""
    if len(alternatives(kind)) > 1:
        return " or ".join(_said(one) for one in alternatives(kind) if one is not type(None))
    origin, rule = typing.get_origin(kind), rule_of(kind)
    if isinstance(rule, Registry):
        return f"one of {', '.join(rule)}"
    if origin is Annotated:
        return _said(typing.get_args(kind)[0])
    if origin is Literal:
        return f"one of {', '.join(map(str, typing.get_args(kind)))}"
    if origin in (list, tuple, Sequence, Iterable) and holds_numbers(kind):
        return "a list of whole numbers, such as [200, 200]" if "int" in repr(kind) else "a list of numbers"
    if origin is tuple:
        return f"({', '.join(getattr(one, '__name__', str(one)) for one in typing.get_args(kind))})"
    if origin is Callable:
        return "a function"
    return _WORDS.get(kind) or f"a {getattr(kind, '__name__', None) or str(kind)}"
