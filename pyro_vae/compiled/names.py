"""What code can name, and so read of the objects that it reaches; and which objects show what they hold."""

import builtins
import datetime
import dis
import functools
import io
import sys
import time
import types
from collections import namedtuple
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

# Nobody exchanges what is in them. An assertion that pytest has rewritten reaches all that pytest holds.
_LIBRARIES = sys.stdlib_module_names | {"torch", "pyro", "numpy", "pyro_vae", "pytest", "_pytest", "pluggy"}
# Their classes that are written in C keep no state that a number could depend on.
_CONSTANT = frozenset(
    "torch pyro numpy builtins types typing re datetime decimal operator functools _abc _thread _struct".split()
)
_LOOKS_UP_ANYWHERE = {"__dict__", "__getattribute__", "attrgetter", "methodcaller", "asdict", "astuple"}
_LOOKS_UP_NAMES = {"getattr", "vars", "eval", "exec", "globals", "locals"} | _LOOKS_UP_ANYWHERE
_FIELD = type(vars(namedtuple("_Pair", "field"))["field"])  # what reads a field of a named tuple, and keeps nothing
_CLOCKS = (time, datetime, datetime.datetime, datetime.date)


class Slot(Mapping[str, Any]):
    """One slot of an object, as a dictionary of one entry or none."""

    def __init__(self, owner: Any, slot: str) -> None:
        self._owner, self._slot = owner, slot

    def __getitem__(self, name: str) -> Any:
        return getattr(self._owner, name)

    def __iter__(self) -> Iterator[str]:
        return iter((self._slot,) if hasattr(self._owner, self._slot) else ())

    def __len__(self) -> int:
        return int(hasattr(self._owner, self._slot))


@functools.cache
def of_library(module: object) -> bool:
    """Return whether a Python module, by its name, is part of a library that nobody keeps things of a program in.

    A class whose ``__module__`` is no text, as Cython's functions', is compiled, and keeps nothing that Python sees.
    """
    return not isinstance(module, str | None) or (module or "").partition(".")[0] in _LIBRARIES


@functools.cache
def names_in(code: types.CodeType) -> frozenset[str]:
    """Return what a function names: globals, attributes and strings, also in the functions within it.

    `""` is among them if it looks names up in other ways.
    """
    found = {*code.co_names, *_strings(code.co_consts)}
    if not found.isdisjoint(_LOOKS_UP_NAMES) and any(
        one.argval in _LOOKS_UP_NAMES and (one.opname.startswith("LOAD_GLOBAL") or one.argval in _LOOKS_UP_ANYWHERE)
        for one in dis.get_instructions(code)
    ):
        found.add("")
    return frozenset(found).union(*(names_in(one) for one in code.co_consts if isinstance(one, types.CodeType)))


@functools.cache
def _looked_up(code: types.CodeType) -> frozenset[str]:
    """Return the globals and built-ins that a function looks up, and the modules that it imports."""
    ways = ("LOAD_GLOBAL", "LOAD_NAME", "IMPORT_NAME")
    found = {one.argval for one in dis.get_instructions(code) if one.opname in ways}
    return frozenset(found).union(*(_looked_up(one) for one in code.co_consts if isinstance(one, types.CodeType)))


def outside(function: types.FunctionType) -> str | None:
    """Return what a function reads that no object holds, the clock or a file; or None."""
    for name in _looked_up(function.__code__):
        value = function.__globals__.get(name, vars(builtins).get(name, sys.modules.get(name)))
        if any(value is clock for clock in _CLOCKS) or getattr(value, "__module__", None) == "time":
            return "the clock"
        if value is open or value is io:
            return "a file"
    return None


def _strings(constants: Iterable[Any]) -> Iterator[str]:
    for one in constants:
        if isinstance(one, str) and one.isidentifier():
            yield one
        elif isinstance(one, tuple | frozenset):
            yield from _strings(one)


@functools.cache
def named_by(kind: type) -> frozenset[str]:
    """Return what the methods of a library's class name, and so may read of an object of a class derived from it."""
    functions = [f for f in vars(kind).values() if isinstance(f, types.FunctionType)]
    return frozenset(dir(kind)).union(*(names_in(f.__code__) for f in functions)) - {"", "__dict__"}


def transparent(value: Any) -> bool:
    """Return whether an object keeps what it has where Python can see it, unlike those of a class written in C."""
    kind = type(value)
    shown = hasattr(value, "__dict__") or any("__slots__" in vars(one) for one in kind.__mro__)
    return shown or kind is _FIELD or kind.__module__.partition(".")[0] in _CONSTANT


def slots(kind: type) -> tuple[str, ...]:
    """Return the names of the slots that a class adds."""
    given = vars(kind).get("__slots__", ())
    names = (given,) if isinstance(given, str) else tuple(given)
    hidden = f"_{kind.__name__.lstrip('_')}"
    return tuple(
        hidden + name if name.startswith("__") and not name.endswith("__") else name
        for name in names
        if name not in ("__dict__", "__weakref__")
    )
