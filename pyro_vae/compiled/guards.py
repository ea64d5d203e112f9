"""What a recording holds fast in Python: numbers, flags, and which tensor or module is where; and whether it still is."""

import functools
import inspect
import operator
import sys
from argparse import Namespace
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import is_dataclass
from itertools import compress, count, repeat
from types import CodeType, SimpleNamespace
from typing import Any

from torch import nn
from torch.nn.modules import module as torch_module
from torch.utils.hooks import RemovableHandle

from pyro_vae.compiled._torch import optional

_GONE = object()
_contents = operator.attrgetter("cell_contents")
_OF_EVERY_MODULE = frozenset(vars(nn.Module()))
_LIBRARIES = sys.stdlib_module_names | {"torch", "pyro", "numpy", "pyro_vae"}  # nobody exchanges what is in them
_OF_A_SCOPE = {"params", "constraints"}  # what a scope of Pyro's store holds, which every run in it replaces
LARGEST = 100  # entries of a list or dictionary that is looked into


class Same:
    """True while dictionaries hold the very objects that they were seen to hold.

    Only those are gone through that were written to since: torch counts the writes to a dictionary. A step asks this when the caches
    hold nothing of it, and each object looked at then costs as much as a hundred operations.

    Args:
        entries: dictionary, key, and the object that is there.
        sized: dictionaries that must not grow or shrink either.
        whole: dictionaries that must hold what they hold and nothing else; for tensors as keys, whose hash takes Python.
        hooks: torch's dictionaries of hooks. Those that are empty stay so until torch gives somebody a handle on a new one.

    Attributes:
        written: whether any of them had been written to when this was last asked.
    """

    def __init__(
        self,
        entries: Iterable[tuple[Any, Any, Any]],
        sized: Iterable[Any] = (),
        whole: Iterable[dict[Any, Any]] = (),
        hooks: Iterable[dict[int, Any]] = (),
    ) -> None:
        hooks = list(hooks)
        held: dict[int, _Held] = {}
        for holder, name, value in entries:
            one = held.setdefault(id(holder), _Held(holder))
            one.names.append(name)
            one.values.append(value)
        for holder in (*sized, *filter(None, hooks)):
            held.setdefault(id(holder), _Held(holder)).size = len(holder)
        for holder in whole:
            held.setdefault(id(holder), _Held(holder)).all = list(holder.values())
        self.written = True
        self._of_classes = [one for one in held.values() if not isinstance(one.holder, dict)]  # nobody counts theirs
        self._of_dicts = [one for one in held.values() if isinstance(one.holder, dict)]
        self._dicts = [one.holder for one in self._of_dicts]
        self._versions: list[Any] = [-1] * len(self._dicts)
        numbers = count()
        # Without torch's count of writes every dictionary is taken for written to.
        self._version = optional("dict_version") or (lambda _: next(numbers))
        self._empty = [holder for holder in hooks if not holder]
        self._handles = -1

    def resized(self) -> list[Any]:
        """Return the dictionaries that have grown or shrunk."""
        others = [one.holder for one in (*self._of_dicts, *self._of_classes) if one.resized()]
        return others + list(filter(None, self._empty))

    def __bool__(self) -> bool:
        handles = RemovableHandle.next_id
        if handles != self._handles:
            if any(self._empty):
                return False
            self._handles = handles
        versions = list(map(self._version, self._dicts))
        self.written = versions != self._versions
        if self.written:
            changed = map(operator.ne, versions, self._versions)
            if not all(one.same() for one in compress(self._of_dicts, changed)):
                return False
            self._versions = versions
        return all(one.same() for one in self._of_classes)


class _Held:
    """What one dictionary must hold."""

    def __init__(self, holder: Any) -> None:
        self.holder = holder
        self.names: list[Any] = []
        self.values: list[Any] = []
        self.size: int | None = None
        self.all: list[Any] | None = None

    def resized(self) -> bool:
        return self.size is not None and len(self.holder) != self.size

    def same(self) -> bool:
        if self.resized():
            return False
        if self.all is not None:
            now = self.holder.values()
            if len(now) != len(self.all) or not all(map(operator.is_, now, self.all)):
                return False
        return all(map(operator.is_, map(self.holder.get, self.names, repeat(_GONE)), self.values))


class Watch:
    """The Python state of programs that a recording holds fast: what is where in modules, containers and the programs themselves.

    Looks at modules and their attributes (so also at train or eval mode), at bound methods, partials, wrapped
    functions, `.program`, closures, default arguments, and the globals that a function names, and into lists, dictionaries of up to `LARGEST`
    entries, namespaces and dataclasses; of classes that are not a library's at their attributes and methods, of modules of Python at what a
    function names. `changed()` names one that is no longer what it was.
    """

    def __init__(self, *programs: Any) -> None:
        self.modules: list[nn.Module] = []
        self._items: list[tuple[Any, str, Any]] = []
        self._sized: list[Any] = []
        self._hooks: list[Any] = [torch_module._global_forward_pre_hooks, torch_module._global_forward_hooks]
        self._cells: list[tuple[Any, Any]] = []
        self._lists: list[tuple[Any, list[Any]]] = []
        self._seen: set[int] = set()
        self._kept: set[tuple[int, str]] = set()
        for program in programs:
            self._visit(program)
        sized = [*self._sized, *self._hooks]
        self._first_names = [(holder, set(holder)) for holder in sized if isinstance(holder, dict)]
        self._hold(self._items, self._cells, self._lists)

    def keep(self, holder: dict[str, Any], *names: str) -> None:
        """Look at these entries too."""
        self._items += [(holder, name, holder.get(name)) for name in names]
        self._same = Same(self._items, self._sized, hooks=self._hooks)

    def _visit(self, thing: Any) -> None:
        if id(thing) in self._seen:
            return
        self._seen.add(id(thing))
        if isinstance(thing, nn.Module):
            self._visit_module(thing)
        elif inspect.isfunction(thing):
            self._visit_function(thing)
        elif inspect.ismethod(thing):
            self._visit(thing.__self__)
            self._visit(thing.__func__)
        elif isinstance(thing, functools.partial):
            for part in (thing.func, *thing.args, *thing.keywords.values()):
                self._visit(part)
        elif isinstance(thing, dict):
            self._keep(thing)
            self._sized.append(thing)
        elif isinstance(thing, list | tuple | set | deque):
            if not isinstance(thing, tuple):
                self._lists.append((thing, list(thing)))
            for value in list(thing):
                self._follow(value)
        elif inspect.isclass(thing):
            self._visit_class(thing)
        elif hasattr(thing, "__dict__") and not inspect.ismodule(thing):
            self._keep(vars(thing))
            self._sized.append(vars(thing))
            self._visit_class(type(thing))

    def _visit_module(self, module: nn.Module) -> None:
        self.modules.append(module)
        self._keep(vars(module), {*vars(module)} - _OF_EVERY_MODULE | {"training"})
        for entries in (module._parameters, module._buffers, module._modules):
            self._keep(entries)
        self._sized += [vars(module), module._modules]
        self._hooks += [module._forward_pre_hooks, module._forward_hooks]
        self._visit_class(type(module))

    def _visit_function(self, function: Any) -> None:
        for cell in function.__closure__ or ():
            try:
                value = cell.cell_contents
            except ValueError:  # a name that is not assigned yet
                continue
            self._cells.append((cell, value))
            self._follow(value)
        self._keep(vars(function))
        names = set(_names(function.__code__))
        for name in names & function.__globals__.keys():
            value = function.__globals__[name]
            if not inspect.ismodule(value):
                self._keep(function.__globals__, [name])
            elif not of_library(value.__name__):
                self._keep(vars(value), names & vars(value).keys())
        for value in (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()):
            self._follow(value)
        self._visit(getattr(function, "__wrapped__", None))

    def _visit_class(self, kind: type) -> None:
        """Look at the attributes of a class and those it inherits from, and at their methods and properties."""
        for one in kind.__mro__:
            if one.__module__ == "builtins" or of_library(one.__module__) or id(one) in self._seen:
                continue
            self._seen.add(id(one))
            for name, value in vars(one).items():
                if not name.startswith("__") or inspect.isfunction(value):
                    self._items.append((vars(one), name, value))
                    for function in (value, *(getattr(value, way, None) for way in ("fget", "func", "__func__"))):
                        self._follow(function)
            self._sized.append(vars(one))

    def _follow(self, value: Any) -> None:
        """Go on into modules, small containers, sets of options, and callables that are not a library's."""
        if isinstance(value, dict | list | tuple | set | deque):
            if len(value) <= LARGEST and not (isinstance(value, dict) and value.keys() == _OF_A_SCOPE):
                self._visit(value)
        elif inspect.isclass(value):
            self._visit_class(value)
        elif inspect.isfunction(value):
            if value.__closure__ or not of_library(value.__module__):
                self._visit(value)
        elif isinstance(value, nn.Module | SimpleNamespace | Namespace) or is_dataclass(value) or callable(value):
            self._visit(value)

    def _keep(self, holder: dict[str, Any], names: Iterable[str] | None = None) -> None:
        for name in list(holder) if names is None else names:
            if (id(holder), name) not in self._kept:
                self._kept.add((id(holder), name))
                self._items.append((holder, name, holder[name]))
                self._follow(holder[name])

    def _hold(
        self, items: list[tuple[Any, Any, Any]], cells: list[tuple[Any, Any]], lists: list[tuple[Any, list[Any]]]
    ) -> None:
        self._items, self._cells, self._lists = items, cells, lists
        self._same = Same(items, self._sized, hooks=self._hooks)
        self._places, self._values = [cell for cell, _ in cells], [value for _, value in cells]

    def __bool__(self) -> bool:
        """Return whether all is the very object that it was; what is merely equal, `changed` finds out."""
        return (
            bool(self._same)
            and (not self._places or all(map(operator.is_, map(_contents, self._places), self._values)))
            and all(len(now) == len(old) and all(map(operator.is_, now, old)) for now, old in self._lists)
        )

    def changed(self) -> str | None:
        """Return the name of a value that is not what it was, or None."""
        if self:
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
        if self._same.resized():
            return "a new attribute or entry"
        self._hold(items, cells, [(now, list(now)) for now, _ in self._lists])  # equal, and other objects
        return None

    def put_back(self) -> None:
        """Undo what the programs have replaced in, or added to, modules, dictionaries, lists and closures."""
        for holder, name, value in self._items:
            if isinstance(holder, dict) and name in holder and holder[name] is not value:
                holder[name] = value
        for holder, names in self._first_names:
            for name in holder.keys() - names:
                del holder[name]
        for cell, value in self._cells:
            cell.cell_contents = value
        for now, old in self._lists:
            if isinstance(now, list):
                now[:] = old

    def settle(self) -> None:
        """Watch no longer what has changed since: the programs change it themselves."""
        resized = {id(holder) for holder in self._same.resized()}
        self._sized = [h for h in self._sized if id(h) not in resized]
        self._hooks = [h for h in self._hooks if id(h) not in resized]
        self._hold(
            [(h, n, v) for h, n, v in self._items if not _differs(v, h.get(n))],
            [(c, v) for c, v in self._cells if not _differs(v, c.cell_contents)],
            [(now, old) for now, old in self._lists if len(now) == len(old) and not any(map(_differs, old, now))],
        )


def of_library(module: str | None) -> bool:
    """Return whether a Python module, by its name, is part of a library that nobody keeps things of a program in."""
    return (module or "").partition(".")[0] in _LIBRARIES


def _names(code: CodeType) -> Iterator[str]:
    """Return the globals and attributes that a function names, also in the functions within it."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def _differs(old: Any, new: Any) -> bool:
    """Return whether another object is another value; only numbers and strings are compared by value."""
    if new is old:
        return False
    return not isinstance(old, int | float | str) or type(new) is not type(old) or new != old
