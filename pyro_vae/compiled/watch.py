"""The Python state that programs can reach: what is followed, and whether it is still what it was.

A recording holds fast whatever Python its programs read, so every object that they can reach is followed: modules,
containers, closures, defaults, globals, attributes. Of an object whose class is not a library's (and of a class, a
module of Python or a function) only those attributes are, which the programs' own code names: a program cannot read
what it does not name, so that what a trainer keeps beside its nets may change as it likes. Code that looks names up
(`getattr`, `vars`) makes all attributes count. What cannot be followed (an iterator, a file) is refused by name: a gap
costs speed, never a number.
"""

import ctypes
import functools
import io
import operator
import os
import queue
import random
import sys
import threading
import types
import weakref
from array import array
from collections import deque
from collections.abc import Iterable
from contextvars import ContextVar
from enum import Enum
from importlib import import_module
from logging import Logger
from typing import Any

import numpy as np
import pyro
import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from pyro_vae.compiled.guards import Held, Same
from pyro_vae.compiled.names import Slot, named_by, names_in, of_library, outside, slots, transparent
from pyro_vae.compiled.state import RecordingError, equal_states, generator_state

_CACHING = {"torch", "pyro", "pyro_vae"}  # libraries whose objects keep what they computed last
_LEAVES = (
    *(int, float, complex, str, bytes, type(None), type(...), range, slice, Enum, types.CodeType, Logger),
    *(torch.dtype, torch.device, torch.Size, np.generic),
)
_GENERATORS = (random.Random, np.random.Generator, np.random.RandomState, np.random.BitGenerator, torch.Generator)
_OPAQUE = (
    *(bytearray, memoryview, array, ContextVar, threading.local, queue.Queue, io.IOBase, torch.jit.ScriptModule),
    *ctypes.c_int.__bases__[0].__bases__,  # what all of its types are
    *(types.GeneratorType, types.CoroutineType, types.AsyncGeneratorType),
)
_HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
_OF_EVERY_MODULE = frozenset(vars(nn.Module())) - {"training", "_parameters", "_buffers", "_modules"}
_OF_THE_ENGINE = ("pyro_vae.compiled.", "pyro_vae.svi.", "torch._ops")  # recordings, and torch's operations
_OF_AN_SVI = frozenset(["model", "guide", "loss", "loss_and_grads"])  # which counts in any case
_OF_A_SCOPE = {"params", "constraints"}  # what a scope of Pyro's store holds, which every run in it replaces
_contents, _code, _defaults = map(operator.attrgetter, ("cell_contents", "__code__", "__defaults__"))
LARGEST_ARRAY = 2**20  # bytes of a NumPy array that is compared by value before every step
MOST_ENTRIES = 20_000  # of lists and sets, which are gone through before every step
MOST_OBJECTS = 200_000


class Watch:
    """The Python state that programs can reach.

    Args:
        roots: the programs, and whatever else they can reach.
        held: more entries of dictionaries to look at.

    Attributes:
        modules: the torch modules among it.

    Raises:
        RecordingError: something cannot be followed.
    """

    def __init__(self, *roots: Any, held: Iterable[Held] = ()) -> None:
        self.modules: list[nn.Module] = []
        self._names: set[str] = set()
        self._held = list(held)
        for hooks in (torch_module._global_forward_pre_hooks, torch_module._global_forward_hooks):
            self._held.append(Held(hooks, what="a hook"))
        self._partly: list[tuple[Any, frozenset[str]]] = []  # dictionaries, and keys of theirs that count in any case
        self._globals: dict[int, tuple[dict[str, Any], set[str]]] = {}  # and what functions name of them
        self._functions: list[Any] = []
        self._cells: list[Any] = []
        self._lists: list[tuple[Any, list[Any]]] = []
        self._entries = 0
        self._arrays: list[tuple[Any, Any]] = []
        self._generators: list[tuple[Any, str, Any]] = []
        self._caching: dict[int, frozenset[str] | None] = {}  # of which dictionaries, which keys a library writes
        self._seen: dict[int, Any] = {}
        self._classes: set[tuple[type, bool]] = set()
        self._todo: list[tuple[str, Any]] = [("a program", root) for root in roots]
        for name, one in (("Python's random state", random._inst), ("NumPy's random state", np.random.mtrand._rand)):  # type: ignore[attr-defined]
            self._generators.append((one, name, generator_state(one)))
        self._walk()
        self._settings()
        self._parts = self._parts_now()
        self._same = Same(self._held)

    def _parts_now(self) -> list[tuple[str, Any, list[Any], list[Any]]]:
        """Return what cells and functions hold: what it is, how to read it, of which objects, and what is there now."""
        ways = (
            ("a variable of an enclosing function", _contents, self._cells),
            ("a function's code", _code, self._functions),
            ("a default argument", _defaults, self._functions),
        )
        return [(what, read, holders, list(map(read, holders))) for what, read, holders in ways]

    def _walk(self) -> None:
        """Visit everything; what is visited may name more, so until nothing new is found."""
        while self._todo:
            while self._todo:
                self._visit(*self._todo.pop())
                if len(self._seen) > MOST_OBJECTS or self._entries > MOST_ENTRIES:
                    raise RecordingError(
                        "its programs reach more lists and objects than can be looked at before every step; "
                        "keep what they need in tensors, and pass data as arguments"
                    )
            for holder, always in self._partly:
                self._todo += [(str(k), v) for k, v in holder.items() if self._counts(k, always) and self._new(v)]
        everything = "" in self._names
        unions = {always: frozenset(self._names | always) for _, always in self._partly}
        self._held += [Held(holder, None if everything else unions[always]) for holder, always in self._partly]
        self._held += [Held(found, frozenset(names)) for found, names in self._globals.values()]
        if not self._names.isdisjoint({"environ", "getenv"}):
            self._held.append(Held(os.environ._data))  # type: ignore[attr-defined]

    def _counts(self, name: Any, always: frozenset[str]) -> bool:
        return name in self._names or name in always or "" in self._names

    def _new(self, value: Any) -> bool:
        return id(value) not in self._seen and not isinstance(value, _LEAVES)

    def _visit(self, name: str, value: Any) -> None:
        if isinstance(value, _LEAVES) or id(value) in self._seen:
            return
        self._seen[id(value)] = value
        if isinstance(value, _GENERATORS):
            self._generators.append((value, repr(name), generator_state(value)))
        elif isinstance(value, _OPAQUE) or (hasattr(type(value), "__next__") and of_library(type(value).__module__)):
            raise RecordingError(f"it reaches {name!r}, a {type(value).__name__}, whose state cannot be seen")
        elif isinstance(value, Tensor):
            self._follow(name, (value._backward_hooks or {}).values())
        elif isinstance(value, types.FunctionType):
            self._function(value)
        elif isinstance(value, types.MethodType):
            self._follow(name, (value.__self__, value.__func__))
        elif isinstance(value, types.BuiltinFunctionType | types.MethodWrapperType):
            self._follow(name, () if isinstance(value.__self__, types.ModuleType) else (value.__self__,))
        elif isinstance(value, weakref.ReferenceType):
            self._follow(name, (value(),))
        elif isinstance(value, functools.partial):
            self._follow(name, (value.func, value.args, value.keywords, vars(value)))
        elif isinstance(value, type):
            self._class(value, made=True)
        elif isinstance(value, property | staticmethod | classmethod | functools.cached_property):
            self._follow(name, (getattr(value, way, None) for way in ("fget", "__func__", "func")))
        elif isinstance(value, types.ModuleType):
            if not of_library(value.__name__):
                self._partly.append((vars(value), frozenset()))
        elif isinstance(value, np.ndarray):
            self._array(name, value)
        else:
            self._object(name, value)

    def _follow(self, name: str, values: Iterable[Any]) -> None:
        self._todo += [(name, value) for value in values if self._new(value)]

    def _function(self, function: Any) -> None:
        names = names_in(function.__code__)
        library = of_library(function.__module__)
        if library and not function.__closure__:
            return
        if not library and (what := outside(function)) is not None:
            raise RecordingError(
                f"it reads {what} (in {function.__name__}); read it in the loop, and pass what it gives"
            )
        self._names |= names
        self._functions.append(function)
        for cell in function.__closure__ or ():
            try:
                value = cell.cell_contents
            except ValueError:  # a name that is not assigned yet
                continue
            self._cells.append(cell)
            self._todo.append(("a variable of an enclosing function", value))
        defaults = function.__defaults__ or ()
        self._follow(function.__name__, (*defaults, function.__kwdefaults__, getattr(function, "__wrapped__", None)))
        self._partly.append((vars(function), frozenset()))
        if not library:
            found = function.__globals__
            self._globals.setdefault(id(found), (found, set()))[1].update(names)
            if "" in names and not names.isdisjoint({"globals", "eval", "exec"}):
                self._partly.append((found, frozenset()))
            self._todo += [(name, found[name]) for name in names & found.keys() if self._new(found[name])]
            self._follow(function.__name__, [sys.modules[name] for name in names & sys.modules.keys()])

    def _array(self, name: str, value: Any) -> None:
        if value.nbytes > LARGEST_ARRAY or value.dtype.hasobject:
            raise RecordingError(f"it reaches {name!r}, a NumPy array, which may change in place; make it a tensor")
        self._arrays.append((value, value.copy()))

    def _object(self, name: str, value: Any) -> None:
        kind = type(value)
        library = of_library(kind.__module__)
        if isinstance(value, pyro.infer.SVI):
            own = [vars(one) for one in kind.__mro__ if not of_library(one.__module__)]
            self._partly += [(vars(value), _OF_AN_SVI), *((holder, frozenset[str]()) for holder in own)]
            return
        if kind.__module__.startswith(_OF_THE_ENGINE):
            return
        if isinstance(value, dict | types.MappingProxyType):
            items = dict(dict.items(value) if isinstance(value, dict) else value)
            if items.keys() != _OF_A_SCOPE:
                self._held.append(Held(value))
                self._todo += [(str(key), entry) for key, entry in items.items() if self._new(entry)]
        elif isinstance(value, list | tuple | set | frozenset | deque):
            if not isinstance(value, tuple | frozenset):
                self._lists.append((value, list(value)))
                self._entries += len(value)
            self._follow(name, value)
        elif not transparent(value):
            raise RecordingError(f"it reaches {name!r}, a {kind.__name__}, whose state cannot be seen")
        if isinstance(value, nn.Module):
            self.modules.append(value)
            for hooks in (vars(value)[name] for name in _HOOKS if name in vars(value)):
                self._held.append(Held(hooks, what="a hook"))
                self._follow("a hook", hooks.values())
        if not library:
            self._class(kind)
            for base in kind.__mro__:
                for slot in slots(base):
                    self._held.append(Held(Slot(value, slot)))
                    self._todo.append((slot, getattr(value, slot, None)))
        if hasattr(value, "__dict__") and not isinstance(vars(value), types.MappingProxyType):
            self._attributes(vars(value), kind, library, isinstance(value, nn.Module))

    def _attributes(self, holder: dict[str, Any], kind: type, library: bool, module: bool) -> None:
        """Follow what an object has: of a library's class all, of others what is named."""
        if library:
            names = [n for n in holder if n not in _OF_EVERY_MODULE] if module else list(holder)
            self._held.append(Held(holder))
            self._todo += [(name, holder[name]) for name in names]
            if kind.__module__.partition(".")[0] in _CACHING:
                self._caching[id(holder)] = None
            return
        always = frozenset().union(*(named_by(base) for base in kind.__mro__ if of_library(base.__module__)))
        self._partly.append((holder, always - _OF_EVERY_MODULE if module else always))
        self._caching[id(holder)] = always

    def _class(self, kind: type, made: bool = False) -> None:
        """Follow a class and what it inherits from: what is named, what Python or a library calls, and how it is made."""
        called = frozenset().union(*(dir(base) for base in kind.__mro__ if of_library(base.__module__)))
        for one in (*kind.__mro__, *type.mro(type(kind))):
            if of_library(one.__module__) or (one, made) in self._classes:
                continue
            self._classes.add((one, made))
            dunder = {n for n in vars(one) if n.startswith("__") and callable(vars(one)[n])}
            if not made:
                dunder -= {"__init__", "__new__", "__post_init__"}
            self._partly.append((vars(one), frozenset(dunder | (called - {"__init__", "__new__", "__dict__"}))))

    def _settings(self) -> None:
        """Look at Pyro's settings."""
        for module, name, _ in pyro.settings._REGISTRY.values():
            holder = import_module(module)
            *path, last = name.split(".")
            self._held.append(Held(vars(functools.reduce(getattr, path, holder)), (last,)))

    def __bool__(self) -> bool:
        """Return whether all is the very object that it was; what is merely equal, `changed` finds out."""
        return (
            bool(self._same)
            and all(all(map(operator.is_, map(read, holders), old)) for _, read, holders, old in self._parts)
            and all(len(now) == len(old) and all(map(operator.is_, now, old)) for now, old in self._lists)
            and all(now.shape == old.shape and now.tobytes() == old.tobytes() for now, old in self._arrays)
        )

    def drawn(self) -> str | None:
        """Return the name of a generator that has drawn since, Python's, NumPy's or one of the programs' own; or None."""
        return next((name for one, name, old in self._generators if not equal_states(generator_state(one), old)), None)

    def changed(self, run: bool = False) -> str | None:
        """Return the name of a value that is not what it was, or None.

        Args:
            run: whether the programs have run since. What libraries keep of their last results is then no longer looked at.
        """
        if self:
            return None
        for held in self._same.held:
            for name, old, new in held.pairs():
                if run and self._kept_by_library(held, name, new):
                    held.skipped.add(name)
                elif _differs(old, new):
                    return held.what or str(name)
        for what, read, holders, old in self._parts:
            if any(map(_differs, old, map(read, holders))):
                return what
        if any(len(now) != len(old) or any(map(_differs, old, now)) for now, old in self._lists):
            return "an element of a list or set"
        if any(now.shape != old.shape or now.tobytes() != old.tobytes() for now, old in self._arrays):
            return "a NumPy array"
        self.renew()  # equal, and other objects
        return None

    def _kept_by_library(self, held: Held, name: Any, new: Any) -> bool:
        """Return whether a library's own code keeps a result there: a weight normalised at each call, an autoguide's plates, a
        transform's inverse (by a weak reference in torch before 2.15).
        """
        names = self._caching.get(id(held.holder), frozenset())
        if names is not None and (name not in names or name in self._names):
            return False
        values = new if isinstance(new, tuple) else new.values() if isinstance(new, dict) else (new,)
        return all(value is None or isinstance(value, Tensor | Messenger | weakref.ReferenceType) for value in values)

    def renew(self) -> None:
        """Take what is there now for what must be there."""
        for held in self._same.held:
            held.renew()
        self._same = Same(self._held)
        self._parts = self._parts_now()
        self._lists = [(now, list(now)) for now, _ in self._lists]
        self._arrays = [(now, now.copy()) for now, _ in self._arrays]

    def put_back(self) -> None:
        """Undo what the programs have replaced, added or drawn."""
        for held in self._same.held:
            held.put_back()
        for cell, value in zip(self._cells, self._parts[0][-1], strict=True):
            cell.cell_contents = value
        for now, old in self._lists:
            now.clear()
            (now.update if isinstance(now, set) else now.extend)(old)
        for now, old in self._arrays:
            if now.flags.writeable:
                now[...] = old


def _differs(old: Any, new: Any) -> bool:
    """Return whether another object is another value; only numbers, strings and tuples of them are compared by value."""
    if new is old:
        return False
    if type(new) is not type(old):
        return True
    if type(old) is tuple:
        return len(old) != len(new) or any(map(_differs, old, new))
    if isinstance(old, dict):
        return not old.keys() == new.keys() == _OF_A_SCOPE
    return not isinstance(old, int | float | complex | str | bytes | np.generic) or repr(new) != repr(old)
