"""What code can name, and so read of the objects that it reaches; and which objects show what they hold."""

import dis
import functools
import sys
import types
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

# Nobody exchanges what is in them. An assertion that pytest has rewritten reaches all that pytest holds.
_LIBRARIES = sys.stdlib_module_names | {"torch", "pyro", "numpy", "pyro_vae", "pytest", "_pytest", "pluggy"}
_LOOKS_UP_ANYWHERE = {"__dict__", "__getattribute__", "attrgetter", "methodcaller", "asdict", "astuple"}
_LOOKS_UP_NAMES = {"getattr", "vars", "eval", "exec", "globals", "locals"} | _LOOKS_UP_ANYWHERE


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


def of_library(module: str | None) -> bool:
    """Return whether a Python module, by its name, is part of a library that nobody keeps things of a program in."""
    return (module or "").partition(".")[0] in _LIBRARIES


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
    return hasattr(value, "__dict__") or any("__slots__" in vars(one) for one in type(value).__mro__)


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
