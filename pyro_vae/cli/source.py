"""What modules of the package say of their options, read from the source: to import them would
import torch, which takes seconds.

Only what an option's annotation and default need is evaluated: literals, annotations, registries
and their names. Whatever else these mention, such as a net, stands as an empty class of its name.
"""

import ast
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import make_dataclass
from functools import cache
from importlib import import_module
from inspect import Parameter, Signature
from pathlib import Path
from typing import Any

from pyro_vae.options import Registry

PACKAGE = Path(__file__).parent.parent
LIGHT = ("pyro_vae.options",)
"""Modules of the package that import nothing heavy; they are imported as they are."""


class _Opaque(type):
    """The kind of a class that stands for an object of its name."""

    def __getattr__(cls, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return opaque(name)

    def __getitem__(cls, key: Any) -> type:
        return cls

    def __call__(cls, *args: Any, **options: Any) -> type:
        return cls


def opaque(name: str) -> type:
    """Return an empty class that stands for an object called ``name``."""
    # jsonargparse looks for a class in its module, and to look into this package imports torch
    return _Opaque(name, (), {"__module__": "builtins"})


class Module(dict[str, Any]):
    """The names of one module of the package; a name is evaluated when it is looked up."""

    def __init__(self, dotted: str) -> None:
        super().__init__()
        self.statements = ast.parse(_text(dotted)).body
        self.bound = dict(_bindings(self.statements))
        self.stars = [
            node.module or ""
            for node in self.statements
            if isinstance(node, ast.ImportFrom) and node.names[0].name == "*"
        ]

    def __missing__(self, name: str) -> Any:
        if name not in self.bound:
            return self._starred(name)
        self[name] = self._made(name, self.bound[name])
        if isinstance(self[name], Registry):
            self._enter(name)
        return self[name]

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            return opaque(name)

    def evaluated(self, node: ast.expr | None) -> Any:
        """Return the value of an expression of this module."""
        if node is None:
            return None
        return eval(compile(ast.Expression(node), "<source>", "eval"), {}, self)

    def text(self, name: str) -> str:
        """Return the docstring of a function or class of this module."""
        return ast.get_docstring(self.bound[name]) or ""  # type: ignore[arg-type]

    def _made(self, name: str, node: ast.AST) -> Any:
        if isinstance(node, ast.ImportFrom):
            alias = next(alias for alias in node.names if (alias.asname or alias.name) == name)
            return _imported(node.module or "", alias.name)
        if isinstance(node, ast.Assign | ast.AnnAssign):
            return self.evaluated(node.value)
        return opaque(name)

    def _starred(self, name: str) -> Any:
        """Return what ``from ... import *`` binds to a name; only the module that has it is parsed.

        Raises:
            KeyError: there is none; the name is a builtin, perhaps.
        """
        for dotted in self.stars:
            if re.search(rf"^(class |def )?{name}\b", _text(dotted), re.MULTILINE):
                return module(dotted)[name]
        raise KeyError(name)

    def _enter(self, name: str) -> None:
        """Let the statements of this module enter their names into the registry ``name``."""
        for statement in self.statements:
            decorators = getattr(statement, "decorator_list", [])
            for decorator in filter(lambda one: _enters(one, name), decorators):
                self.evaluated(decorator)(opaque(name))
            if isinstance(statement, ast.For | ast.Expr) and _enters(statement, name):
                exec(compile(ast.Module([statement], []), "<source>", "exec"), {}, self)


@cache
def module(dotted: str) -> Module:
    """Return the names of a module of the package."""
    return Module(dotted)


def function(dotted: str, name: str) -> Callable[..., Any]:
    """Return a function that says what the one called ``name`` says: its signature, annotations and
    docstring.
    """
    names = module(dotted)
    if isinstance(names.bound[name], ast.ImportFrom):
        return function(names.bound[name].module, name)  # type: ignore[attr-defined]
    node = names.bound[name]
    assert isinstance(node, ast.FunctionDef)
    parameters = [*_parameters(node.args, names)]

    def stand_in(*args: Any, **options: Any) -> None:
        raise TypeError(f"{name} is known by its signature only")

    stand_in.__name__, stand_in.__doc__ = name, names.text(name)
    stand_in.__annotations__ = {p.name: p.annotation for p in parameters if p.annotation is not p.empty}
    stand_in.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    return stand_in


def record(dotted: str, name: str) -> type:
    """Return a dataclass with the fields and the docstring of the one called ``name``."""
    names = module(dotted)
    node = names.bound[name]
    assert isinstance(node, ast.ClassDef)
    lines = [line for line in node.body if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name)]
    fields = [(line.target.id, names.evaluated(line.annotation), names.evaluated(line.value)) for line in lines]  # type: ignore[union-attr]
    return make_dataclass(name, fields, namespace={"__doc__": names.text(name)})


def keys(dotted: str, name: str) -> dict[str, str]:
    """Return the keys of a dictionary that a module writes out, each with the name of its value."""
    node = module(dotted).bound[name]
    assert isinstance(node, ast.Assign | ast.AnnAssign)
    assert isinstance(node.value, ast.Dict)
    return {
        str(key.value): value.id if isinstance(value, ast.Name) else ""
        for key, value in zip(node.value.keys, node.value.values, strict=True)
        if isinstance(key, ast.Constant)
    }


def _parameters(args: ast.arguments, names: Module) -> Iterator[Parameter]:
    plain = [*args.posonlyargs, *args.args]
    without = len(plain) - len(args.defaults)
    defaults: list[ast.expr | None] = [*[None] * without, *args.defaults, *args.kw_defaults]
    for place, (one, default) in enumerate(zip([*plain, *args.kwonlyargs], defaults, strict=True)):
        kind = Parameter.POSITIONAL_OR_KEYWORD if place < len(plain) else Parameter.KEYWORD_ONLY
        annotation = Parameter.empty if one.annotation is None else names.evaluated(one.annotation)
        value = Parameter.empty if default is None else names.evaluated(default)
        yield Parameter(one.arg, kind, annotation=annotation, default=value)


def _bindings(statements: list[ast.stmt]) -> Iterator[tuple[str, ast.stmt]]:
    """Return an iterator over the names that statements bind, in the package's modules."""
    for node in statements:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name, node
        elif isinstance(node, ast.Assign):
            yield from ((target.id, node) for target in node.targets if isinstance(target, ast.Name))
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id, node
        elif isinstance(node, ast.ImportFrom):
            yield from ((alias.asname or alias.name, node) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((alias.asname or alias.name.partition(".")[0], node) for alias in node.names)


def _imported(dotted: str, name: str) -> Any:
    """Return what ``from dotted import name`` gives, as far as it can be known."""
    if dotted.partition(".")[0] in sys.stdlib_module_names or dotted.startswith(LIGHT):
        return getattr(import_module(dotted), name)
    if not dotted.startswith("pyro_vae"):
        return opaque(name)
    if _file(f"{dotted}.{name}").exists():
        return module(f"{dotted}.{name}")
    return getattr(module(dotted), name) if _file(dotted).exists() else opaque(name)


def _enters(node: ast.AST, registry: str) -> bool:
    """Return whether a statement calls ``registry.enter``."""
    return any(
        isinstance(one, ast.Attribute)
        and one.attr == "enter"
        and isinstance(one.value, ast.Name)
        and one.value.id == registry
        for one in ast.walk(node)
    )


def _text(dotted: str) -> str:
    return _file(dotted).read_text(encoding="utf-8")


def _file(dotted: str) -> Path:
    place = PACKAGE.joinpath(*dotted.split(".")[1:])
    return place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
