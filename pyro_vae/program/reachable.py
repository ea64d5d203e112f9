"""The nets that a program can reach, wherever they are.

A program says which nets it uses by holding them: as attributes, in lists, dictionaries and
dataclasses, in variables of enclosing functions, in globals, or in whatever these hold in turn. All
of that is gone through, breadth first, so that every net gets the shortest of its names, the same
in every process.
"""

import dis
import functools
import inspect
from argparse import Namespace
from collections import deque
from collections.abc import Iterator
from itertools import chain, count
from types import CodeType, ModuleType, SimpleNamespace
from typing import Any

from torch import Tensor, nn

from pyro_vae.compiled import of_library

LARGEST = 1000  # entries of a container that is looked into: longer ones hold data
_OF_EVERY_MODULE = frozenset(vars(nn.Module()))
_PLAIN = frozenset(map(id, (bool, int, float, str, bytes, type(None), Tensor, nn.Parameter)))  # hold no nets

Path = tuple[str, ...]


def modules_of(program: Any) -> dict[Path, nn.Module]:
    """Return the modules that a program can reach, by their path from it; modules within one of
    these are left out.

    The path of the program itself, or of the module that it is a method of, is empty.
    """
    found: dict[Path, nn.Module] = {}
    seen: set[int] = set()
    inside: set[int] = set()
    todo: deque[tuple[Path, Any]] = deque([((), program)])
    while todo:
        path, thing = todo.popleft()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        if isinstance(thing, nn.Module) and id(thing) not in inside:
            found[_free(path, found)] = thing
            inside |= {id(module) for module in thing.modules()}
        held = ((more, value) for more, value in _within(thing) if id(value) not in seen)
        todo.extend(((*path, *more), value) for more, value in held if _leads_on(value))
    return found


def _free(path: Path, taken: dict[Path, nn.Module]) -> Path:
    """Return a path that no other module has, nor a part of one: ``(a, 1)`` may be part 1 of ``(a,)``."""
    *outer, last = path or ("",)
    return next(one for one in chain([path], ((*outer, f"{last}_{i}") for i in count(1))) if one not in taken)


def _within(thing: Any) -> Iterator[tuple[Path, Any]]:
    """Yield what an object holds, with the path to each."""
    if isinstance(thing, nn.Module):
        kinds: set[type] = set()
        for name, module in thing.named_modules():
            kept = {key: value for key, value in vars(module).items() if key not in _OF_EVERY_MODULE}
            yield from ((tuple(filter(None, (name, key))), value) for key, value in kept.items())
            if type(module) not in kinds:  # many layers are of few classes
                kinds.add(type(module))
                yield from (((), function) for function in _of_class(type(module)))
    elif inspect.isfunction(thing):
        yield from _of_function(thing)
    elif inspect.ismethod(thing):
        yield from (((), part) for part in (thing.__self__, thing.__func__))
    elif isinstance(thing, functools.partial):
        yield (), thing.func
        yield from (((), arg) if callable(arg) else ((str(i),), arg) for i, arg in enumerate(thing.args))
        yield from (((name,), value) for name, value in thing.keywords.items())
    elif isinstance(thing, dict):
        yield from (((str(key).replace(".", "_"),), value) for key, value in list(thing.items()))
    elif isinstance(thing, set | frozenset):
        yield from (((str(i),), value) for i, value in enumerate(sorted(thing, key=str)))
    elif isinstance(thing, list | tuple | deque):
        yield from (((str(i),), value) for i, value in enumerate(thing))
    elif inspect.isclass(thing):
        yield from (((), value) for value in _of_class(thing))
    else:
        yield from _of_object(thing)


def _of_object(thing: Any) -> Iterator[tuple[Path, Any]]:
    # Bound to a batch, or under a handler: it goes by the name of its program. Not asked for by
    # ``hasattr``: an object may make up its attributes, or fail.
    if "program" in getattr(thing, "__dict__", {}):
        yield (), thing.program
    yield from (((name,), value) for name, value in getattr(thing, "__dict__", {}).items())
    for kind in type(thing).__mro__:
        slots = vars(kind).get("__slots__", ())
        for name in [slots] if isinstance(slots, str) else slots:
            if hasattr(thing, name):
                yield (name,), getattr(thing, name)
    yield from (((), value) for value in _of_class(type(thing)))


def _of_class(kind: type) -> Iterator[Any]:
    """Yield the methods, properties and other attributes of a user's class and its parents."""
    for one in kind.__mro__:
        if one is not object and not of_library(one.__module__):
            for name, value in vars(one).items():
                if not name.startswith("__") or inspect.isfunction(value):
                    yield value
                    yield from (getattr(value, way, None) for way in ("fget", "func", "__func__"))


def _of_function(function: Any) -> Iterator[tuple[Path, Any]]:
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield (name,), cell.cell_contents
        except ValueError:  # a name that is not assigned yet
            continue
    for name, *attributes in _globals_of(function.__code__):
        path: Path = (name,)
        value = function.__globals__.get(name)
        for attribute in attributes:
            if not isinstance(value, ModuleType) or of_library(value.__name__):
                break
            path, value = (*path, attribute), vars(value).get(attribute)
        yield path, value
    parameters = inspect.signature(function, follow_wrapped=False).parameters.values()
    yield from (((p.name,), p.default) for p in parameters if p.default is not p.empty)
    yield from (((name,), value) for name, value in vars(function).items() if name != "__wrapped__")
    yield (), getattr(function, "__wrapped__", None)


@functools.lru_cache(maxsize=10_000)
def _globals_of(code: CodeType) -> tuple[tuple[str, ...], ...]:
    """The globals that code reads, each with the attributes that it reads of it; also in the
    functions within it.

    A name counts only where it is read as a global: ``vae.decoder`` is none called ``decoder``.
    """
    found: dict[tuple[str, ...], None] = {}
    names: tuple[str, ...] = ()
    for one in dis.get_instructions(code):
        if names and one.opname in ("LOAD_ATTR", "LOAD_METHOD"):
            names = (*names, one.argval)
            continue
        if names:
            found[names] = None
        names = (one.argval,) if one.opname == "LOAD_GLOBAL" else ()
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            found |= dict.fromkeys(_globals_of(constant))
    return tuple(found)


def _leads_on(value: Any) -> bool:
    """Return whether a value may hold nets: modules, small containers, and what is of a user's
    class.
    """
    if id(type(value)) in _PLAIN:
        return False
    if isinstance(value, nn.Module | functools.partial) or inspect.ismethod(value):
        return True
    if isinstance(value, dict | list | tuple | set | frozenset | deque):
        return len(value) <= LARGEST
    if inspect.isfunction(value):
        return value.__closure__ is not None or not of_library(value.__module__)
    if inspect.isclass(value):
        return value is not object and not of_library(value.__module__)
    if isinstance(value, ModuleType) or value is None:
        return False
    if isinstance(value, SimpleNamespace | Namespace) or not of_library(type(value).__module__):
        return True
    return callable(value) and hasattr(
        value, "__dict__"
    )  # of a library, and holds things: a wrapped program, a distribution
