"""Options: a function's own annotations say what each may be, and a refusal says what was meant.

`checked` checks every argument of a function or constructor against its annotation; a `Registry` holds what may be chosen
by name. Annotations that are understood: int, float, bool, str, ``Literal``, ``list[int]`` and the like, classes, unions of
these, each perhaps ``Annotated`` with a `Within` or a `Registry`. Nothing else is checked.
"""

import contextlib
import difflib
import functools
import inspect
import math
import operator
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Annotated, Any, Literal, TypeVar, Union

Entry = TypeVar("Entry")
Function = TypeVar("Function", bound=Callable[..., Any])

MEANT = {
    "batch": "batch_size",
    "dim": "latent",
    "epoch": "epochs",
    "gaussian": "normal",
    "hidden_dim": "hidden",
    "hidden_dims": "hidden",
    "hidden_sizes": "hidden",
    "kl_weight": "beta",
    "latent_dim": "latent",
    "latent_dims": "latent",
    "learning_rate": "lr",
    "max_epochs": "epochs",
    "n_epochs": "epochs",
    "n_latent": "latent",
    "num_epochs": "epochs",
    "num_particles": "particles",
    "optim": "optimizer",
    "random_state": "seed",
    "scheduler": "schedule",
    "z_dim": "latent",
}
"""Words of other libraries, for suggestions."""


class Registry(Mapping[str, Any]):
    """What may be chosen by name: a builder a name, in the order of their entry, each with one line of help.

    Args:
        option: what is chosen, such as "likelihood".

    >>> shapes = Registry("shape")
    >>> @shapes.enter("square", "four equal sides")
    ... def square(side): return side**2
    >>> shapes["square"](3), shapes.lines
    (9, {'square': 'four equal sides'})
    """

    def __init__(self, option: str) -> None:
        self.option = option
        self.lines: dict[str, str] = {}
        self._builders: dict[str, Any] = {}

    def enter(self, name: str, line: str) -> Callable[[Entry], Entry]:
        """Return a decorator that enters a builder under ``name``; the command line and its help follow.

        Raises:
            ValueError: the name is taken.
        """
        if name in self._builders:
            raise ValueError(f"there is a {self.option} called {name!r} already; choose another name")

        def enter(builder: Entry) -> Entry:
            self._builders[name], self.lines[name] = builder, line
            return builder

        return enter

    def __getitem__(self, name: str) -> Any:
        """Return the builder called ``name``.

        Raises:
            KeyError: there is none; the message suggests a near name.
        """
        if name not in self._builders:
            raise KeyError(_one_of(self.option, self, name))
        return self._builders[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._builders)

    def __len__(self) -> int:
        return len(self._builders)

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)

    def __repr__(self) -> str:
        return f"Registry({self.option}: {', '.join(self)})"


@dataclass(frozen=True)
class Within:
    """From ``low`` on, up to below ``below``; ``low`` itself left out if ``above``."""

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


def suggestion(word: object, known: Iterable[str]) -> str | None:
    """Return the one of the ``known`` names that ``word`` is near to, if there is one."""
    names = {_folded(name): name for name in known}
    folded = _folded(str(word))
    meant = _folded(MEANT.get(folded.replace("-", "_"), folded))
    near = difflib.get_close_matches(meant, names, 1)
    return names[near[0]] if near else None


def unknown(what: str, name: object, known: Iterable[str]) -> str:
    """Return the sentence that refuses an unknown name: what was meant, and what there is."""
    known = list(known)
    near = suggestion(name, known)
    return (
        f"there is no {what} {str(name)[:50]!r}; {f'did you mean {near}?' if near else 'there are ' + ', '.join(known)}"
    )


def misspelled(owner: str, name: str, known: Iterable[str]) -> str:
    """Return the sentence that refuses an option that ``owner`` does not have: what was meant, and all that there are."""
    known = list(known)
    near = suggestion(name, known)
    meant = f"did you mean {near}? Its options are" if near else "its options are"
    return f"{owner} has no option {name!r}; {meant} {', '.join(known)}"


def accept(name: str, value: Any, kind: Any) -> Any:
    """Return ``value`` as an option ``name`` of the annotated ``kind`` takes it: plain numbers, lists for tuples.

    Raises:
        TypeError: it is of another kind.
        ValueError: it is of the kind, but not possible.
    """
    refusals: list[Exception] = []
    for one in _alternatives(kind):
        try:
            return _accept(name, value, one)
        except ValueError as refusal:
            refusals.insert(0, refusal)
        except TypeError as refusal:
            refusals.append(refusal)
    if isinstance(refusals[0], ValueError) or len(refusals) == 1:
        raise refusals[0]
    raise TypeError(f"{name} must be {_said(kind)}; got {_shown(value)}")


def checked(error: type[Exception] | None = None) -> Callable[[Function], Function]:
    """Return a decorator that checks the arguments of every call against the function's annotations.

    Args:
        error: what is raised; by default a TypeError for an argument that there is not or a value of another kind, and a
            ValueError for one that is not possible.
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
                            misspelled(_name(function), name, (n for n in named if n not in ("self", "spec")))
                        )
                    options[name] = accept(name, options[name], kinds().get(name, Any))
            except (TypeError, ValueError) as refusal:
                raise (error or type(refusal))(str(refusal)) from None
            return function(*given, *args[len(given) :], **options)

        return call  # type: ignore[return-value]

    return decorate


def is_plain(value: Any) -> bool:
    """Return whether ``value`` can be written down in a configuration: numbers, words, None, and lists of them."""
    if isinstance(value, list):
        return all(map(is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


def plain(kind: Any) -> Any:
    """Return an annotation as a command line can read it: names in place of registries, no ready-made objects."""
    if isinstance(kind, typing.TypeVar) or kind in (Any, inspect.Parameter.empty):
        return kind
    alternatives = [_plain(one) for one in _alternatives(kind)]
    readable = [one for one in alternatives if one is not None]
    return functools.reduce(operator.or_, readable) if readable else kind


def kinds_of(function: Callable[..., Any]) -> dict[str, Any]:
    """Return the annotations of a function's options; none where they cannot be read, as in a user's own file."""
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
        for one in _alternatives(kind):
            if isinstance(_rule(one), Registry):
                found[name] = _rule(one)
    return found


def _accept(name: str, value: Any, kind: Any) -> Any:
    rule, origin = _rule(kind), typing.get_origin(kind)
    if isinstance(rule, Registry):
        return _chosen(name, value, rule, typing.get_args(kind)[0])
    if isinstance(rule, Within):
        taken = accept(name, value, typing.get_args(kind)[0])
        if taken not in rule:
            raise ValueError(f"{name} must be {rule}, got {_shown(value)}")
        return taken
    if origin is Literal:
        word = str(value) if type(value) is int else value  # precision=64
        if not isinstance(word, str) or word not in typing.get_args(kind):
            raise (ValueError if isinstance(value, str) else TypeError)(_one_of(name, typing.get_args(kind), value))
        return word
    if origin in (list, tuple, Sequence, Iterable) and _numbers(kind):
        return _list(name, value, kind)
    if kind is Any or (origin is None and not isinstance(kind, type)):
        return value
    if origin is not None:
        return _generic(name, value, kind, origin)
    return _simple(name, value, kind)


def _generic(name: str, value: Any, kind: Any, origin: Any) -> Any:
    """Return a value of a parametrised kind, of which only the outside is looked at: a sequence, a function."""
    holds = (
        hasattr(value, "__iter__")
        if origin in (Sequence, Iterable)
        else not isinstance(origin, type) or isinstance(value, origin)
    )
    if isinstance(value, bool | int | float | str | None) or not holds:
        raise TypeError(f"{name} must be {_said(kind)}; got {_shown(value)}")
    return value


def _simple(name: str, value: Any, kind: type) -> Any:
    number = isinstance(value, Real) and not isinstance(value, bool)
    if kind is float and number:
        if not math.isfinite(value):
            raise ValueError(f"{name} must be a finite number, got {_shown(value)}")
        return float(value)
    if kind is int and number and isinstance(value, Integral):
        return int(value)
    if kind is bool and type(value).__name__ in ("bool", "bool_"):
        return bool(value)
    if kind not in (int, float, bool) and isinstance(value, kind):
        return value
    raise TypeError(f"{name} must be {_said(kind)}; got {_shown(value)}")


def _chosen(name: str, value: Any, registry: Registry, kind: Any) -> Any:
    if isinstance(value, str):
        if value not in registry:
            raise ValueError(_one_of(name, registry, value))
        return value
    objects = [one for one in _alternatives(kind) if one is not str]
    for one in objects:
        with contextlib.suppress(TypeError):
            return _accept(name, value, one)
    ready = "".join(f", or {_said(one)}" for one in objects)
    raise TypeError(f"{_one_of(name, registry, None)}{ready}; got {_shown(value)}")


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
        raise ValueError(f"{name} must be {_rule(element)}, got {_shown(value)}") from None
    except TypeError:
        raise TypeError(f"{name} must be {_said(kind)}; got {_shown(value)}") from None
    return taken if origin is list else tuple(taken)


def _alternatives(kind: Any) -> Sequence[Any]:
    return typing.get_args(kind) if typing.get_origin(kind) in (types.UnionType, Union) else (kind,)


def _rule(kind: Any) -> Any:
    """Return the `Within` or `Registry` that an annotation carries."""
    rules = getattr(kind, "__metadata__", ())
    return next((rule for rule in rules if isinstance(rule, Within | Registry)), None)


def _numbers(kind: Any) -> bool:
    element = typing.get_args(kind)[0]
    return (typing.get_args(element)[0] if _rule(element) else element) in (int, float)


def _plain(kind: Any) -> Any:
    rule, origin = _rule(kind), typing.get_origin(kind)
    if isinstance(rule, Registry):
        return Literal[tuple(rule)]
    if origin is Annotated:
        return plain(typing.get_args(kind)[0])
    if origin in (list, tuple, Sequence, Iterable):
        return list[plain(typing.get_args(kind)[0])] if _numbers(kind) else None  # type: ignore[misc]
    return kind if origin is Literal or kind in (int, float, bool, str, type(None)) else None


_WORDS = {int: "a whole number", float: "a number", bool: "True or False", str: "a word", type(None): "None"}


def _said(kind: Any) -> str:
    """Return an annotation in words."""
    if len(_alternatives(kind)) > 1:
        return " or ".join(_said(one) for one in _alternatives(kind) if one is not type(None))
    origin, rule = typing.get_origin(kind), _rule(kind)
    if isinstance(rule, Registry):
        return f"one of {', '.join(rule)}"
    if origin is Annotated:
        return _said(typing.get_args(kind)[0])
    if origin is Literal:
        return f"one of {', '.join(map(str, typing.get_args(kind)))}"
    if origin in (list, tuple, Sequence, Iterable) and _numbers(kind):
        return "a list of whole numbers, such as [200, 200]" if "int" in repr(kind) else "a list of numbers"
    if origin is tuple:
        return f"({', '.join(getattr(one, '__name__', str(one)) for one in typing.get_args(kind))})"
    if origin is Callable:
        return "a function"
    return _WORDS.get(kind) or f"a {getattr(kind, '__name__', None) or str(kind)}"


def _one_of(name: str, known: Iterable[str], value: Any) -> str:
    known = list(known)
    said = f"{name} must be one of {', '.join(map(str, known))}"
    if value is None:
        return said
    near = suggestion(value, known) if isinstance(value, str) else None
    return f"{said}; got {_shown(value)}{f': did you mean {near!r}?' if near else ''}"


def _shown(value: Any) -> str:
    text = repr(value).replace("\n", " ")
    return text if len(text) <= 60 else f"{text[:57]}..."


def _folded(name: str) -> str:
    return name.lower().replace("_", "-").replace(" ", "-")


def _name(function: Callable[..., Any]) -> str:
    return function.__qualname__.removesuffix(".__init__").rpartition(".<locals>.")[2]
