"""What a recording holds fast in Python: numbers, flags, and which tensor or module is where; and whether it still is."""

import functools
import inspect
import operator
from argparse import Namespace
from collections.abc import Iterable
from dataclasses import is_dataclass
from types import SimpleNamespace
from typing import Any

from torch import Tensor, nn

_contents = operator.attrgetter("cell_contents")
_OF_EVERY_MODULE = frozenset(vars(nn.Module()))
LARGEST = 100  # entries of a list or dictionary that is looked into


class Same:
    """True while dictionaries hold the very objects that they were seen to hold.

    The loop is C's: a step asks this of a hundred entries, and with cold caches each turn of a Python loop costs as much as a kernel.

    Args:
        entries: dictionary, key, and the object that is there.
    """

    def __init__(self, entries: Iterable[tuple[Any, Any, Any]]) -> None:
        found = list(entries)
        self._holders, self._names, self._values = ([entry[i] for entry in found] for i in range(3))

    def __bool__(self) -> bool:
        return all(map(operator.is_, map(dict.get, self._holders, self._names), self._values))


class Watch:
    """The Python state of programs that a recording holds fast: numbers, strings, flags and which tensor or
    module is where.

    Looks at modules and their attributes (so also at train or eval mode), at bound methods, partials, wrapped
    functions, `.program`, closures, default arguments, and the globals that a function names, and into lists, dictionaries of up to `LARGEST`
    entries, namespaces and dataclasses. `changed()` tells whether one of them is no longer what it was.
    """

    def __init__(self, *programs: Any) -> None:
        self.modules: list[nn.Module] = []
        self._items: list[tuple[dict[str, Any], str, Any]] = []
        self._cells: list[tuple[Any, Any]] = []
        self._lists: list[tuple[list[Any], list[Any]]] = []
        self._seen: set[int] = set()
        for program in programs:
            self._visit(program)
        self._hold(self._items, self._cells, self._lists)

    def _visit(self, thing: Any) -> None:
        if id(thing) in self._seen:
            return
        self._seen.add(id(thing))
        if isinstance(thing, nn.Module):
            for module in thing.modules():
                self.modules.append(module)
                self._keep(vars(module), unless_none=True)
                self._keep(module._parameters)
                self._keep(module._buffers)
                for name, value in vars(module).items():
                    if name not in _OF_EVERY_MODULE and not isinstance(value, nn.Module):
                        self._follow(value, module)
        elif inspect.isfunction(thing):
            for cell in thing.__closure__ or ():
                try:
                    value = cell.cell_contents
                except ValueError:  # a name that is not assigned yet
                    continue
                if self._interesting(value):
                    self._cells.append((cell, value))
                self._follow(value, thing)
            names = {name: thing.__globals__[name] for name in thing.__code__.co_names if name in thing.__globals__}
            for name, value in names.items():
                if self._interesting(value):
                    self._items.append((thing.__globals__, name, value))
                self._follow(value, thing)
            for value in (*(thing.__defaults__ or ()), *(thing.__kwdefaults__ or {}).values()):
                self._follow(value, thing)
            self._visit(getattr(thing, "__wrapped__", None))
        elif inspect.ismethod(thing):
            self._visit(thing.__self__)
            self._visit(thing.__func__)
        elif isinstance(thing, functools.partial):
            for part in (thing.func, *thing.args, *thing.keywords.values()):
                self._visit(part)
        elif isinstance(thing, dict | list | tuple):
            if isinstance(thing, dict):
                self._keep(thing)
            elif isinstance(thing, list):
                self._lists.append((thing, list(thing)))
            for value in list(thing.values() if isinstance(thing, dict) else thing):
                self._follow(value, thing)
        elif hasattr(thing, "__dict__") and not inspect.isclass(thing) and not inspect.ismodule(thing):
            self._keep(vars(thing))
            for value in list(vars(thing).values()):
                self._follow(value, thing)

    def _follow(self, value: Any, owner: Any) -> None:
        """Go on into modules, small containers, sets of options, and callables of the same file."""
        if isinstance(value, dict | list | tuple):
            if len(value) <= LARGEST:
                self._visit(value)
        elif (
            isinstance(value, nn.Module | SimpleNamespace | Namespace)
            or is_dataclass(value)
            or (
                callable(value)
                and not inspect.isclass(value)
                and (
                    getattr(value, "__module__", None) == getattr(owner, "__module__", "")
                    or not inspect.isfunction(value)
                )
            )
        ):
            self._visit(value)

    def _keep(self, holder: dict[str, Any], unless_none: bool = False) -> None:
        for name, value in holder.items():
            if self._interesting(value) and not (unless_none and value is None):
                self._items.append((holder, name, value))

    @staticmethod
    def _interesting(value: Any) -> bool:
        return isinstance(value, int | float | str | bool | type(None) | Tensor)

    def _hold(
        self,
        items: list[tuple[Any, Any, Any]],
        cells: list[tuple[Any, Any]],
        lists: list[tuple[list[Any], list[Any]]],
    ) -> None:
        self._items, self._cells, self._lists = items, cells, lists
        self._same = Same(items)
        self._places, self._values = [cell for cell, _ in cells], [value for _, value in cells]

    def changed(self) -> str | None:
        """Return the name of a value that is not what it was, or None."""
        if (
            self._same
            and all(map(operator.is_, map(_contents, self._places), self._values))
            and all(len(now) == len(old) and all(map(operator.is_, now, old)) for now, old in self._lists)
        ):
            return None
        items = [(holder, name, holder.get(name)) for holder, name, _ in self._items]
        cells = [(cell, cell.cell_contents) for cell, _ in self._cells]
        for (_, name, old), (_, _, new) in zip(self._items, items, strict=True):
            if _differs(old, new):
                return str(name)
        if any(_differs(old, new) for (_, old), (_, new) in zip(self._cells, cells, strict=True)):
            return "a variable of an enclosing function"
        if any(len(now) != len(old) or any(map(_differs, old, now)) for now, old in self._lists):
            return "an element of a list"
        self._hold(items, cells, [(now, list(now)) for now, _ in self._lists])  # equal, and other objects
        return None

    def settle(self) -> None:
        """Watch no longer what has changed since: the programs change it themselves."""
        self._hold(
            [(h, n, v) for h, n, v in self._items if h.get(n) is v],
            [(c, v) for c, v in self._cells if c.cell_contents is v],
            [(now, old) for now, old in self._lists if len(now) == len(old) and all(map(operator.is_, now, old))],
        )


def _differs(old: Any, new: Any) -> bool:
    """Tell whether another object stands for another value; of what is no number or string, another object is another value."""
    if new is old:
        return False
    return not isinstance(old, int | float | str) or type(new) is not type(old) or new != old
