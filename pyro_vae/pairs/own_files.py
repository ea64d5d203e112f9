"""Pairs in a user's own file: loading it with the modules that lie beside it, and telling it from others."""

import ast
import functools
import hashlib
import importlib.util
import os
import sys
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from pyro_vae.program import PairError
from pyro_vae.runs import open_regular

_beside: dict[Path, dict[str, ModuleType]] = {}  # what users' files have imported, by their folder
_INSTALLED = tuple({path + os.sep for path in sysconfig.get_paths().values()})
_MAX_SOURCE = 10_000_000  # bytes; a real one has thousands
_MAX_FILES = 1_000  # of one package


def file_of(name: str) -> Path | None:
    """Return the file that a pair's name ``file.py:function`` names, absolute; None for others."""
    place, _, function = name.rpartition(":")
    return Path(os.path.realpath(Path(place).expanduser())) if function and place.endswith(".py") else None


def source_of(name: str) -> str | None:
    """Return what tells a pair's source file, with the files beside it that it imports, from others.

    Returns:
        None where it has no file, or one that cannot be read.
    """
    path = file_of(name)
    if path is None:
        return None
    try:
        own, *beside = _digests(path).values()
    except OSError:
        return None
    return hashlib.sha256("".join([own, *beside]).encode()).hexdigest()[:32] if beside else own[:32]


def _digests(path: Path) -> dict[Path, str]:
    """Return what tells the content of a file from others, and that of each file beside it that it imports.

    Of a package beside it that is every file. Modules whose names are computed are not found.
    """
    found: dict[Path, str] = {}
    waiting = [path]
    while waiting:
        one = waiting.pop()
        try:
            with open_regular(one) as file:
                source = file.read(_MAX_SOURCE)
        except OSError:
            if one == path:
                raise
            continue
        found[one] = hashlib.sha256(source).hexdigest()
        beside = {file for name in _imported(source) for file in _files_of(path.parent, name)}
        waiting += beside - found.keys() - {*waiting}
    own = found.pop(path)
    names = sorted(found, key=lambda one: one.relative_to(path.parent).as_posix())
    return {path: own, **{one: found[one] for one in names}}


def _imported(source: bytes) -> set[str]:
    """Return the first part of the name of each module that a file imports, wherever in it."""
    try:
        nodes = list(ast.walk(ast.parse(source)))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return set()
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom) and not node.level]
    return {name.partition(".")[0] for name in names} - {""}


def _files_of(folder: Path, name: str) -> list[Path]:
    """Return the files of the module or package of such a name in a folder; of none that Python itself has."""
    if name in sys.stdlib_module_names or name == "pyro_vae":
        return []
    package = sorted((folder / name).rglob("*.py"))[:_MAX_FILES] if (folder / name).is_dir() else []
    return package or [path for path in [folder / f"{name}.py"] if path.is_file()]


def load_file(path: Path, given: str) -> ModuleType:
    """Run a user's file, which is called as it was ``given``, as a module and return it.

    Raises:
        PairError: there is no such file, or running it fails.
    """
    if not path.is_file():
        raise PairError(f"there is no file {given}; a pair of your own is named file.py:function")
    name = path.stem
    while name in sys.modules:  # two files of one name, or one that is called like a library
        name += "_"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        with neighbours(path.parent):
            spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise PairError(f"{given} cannot be loaded: {type(error).__name__}: {error}") from error
    return module


@contextmanager
def neighbours(folder: Path) -> Iterator[None]:
    """Let imports find the modules of ``folder`` first, as in a script that is run there.

    Those of other users' folders, and of the program that runs, stay their own: each file has the
    neighbours that lie beside it, whatever their names.
    """
    names = {path.stem for path in folder.glob("*.py")} | {path.parent.name for path in folder.glob("*/__init__.py")}
    own = _beside.setdefault(folder, {})
    hidden = {
        name: module
        for name, module in sys.modules.items()
        if name.partition(".")[0] in names and not _stays(name, module, folder)
    }
    for name in hidden:
        del sys.modules[name]
    sys.modules.update(own)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        if str(folder) not in sys.path:
            sys.path.append(str(folder))  # for what programs import when they run
        own.update({name: module for name, module in sys.modules.items() if _lies_in(module, folder)})
        sys.modules.update(hidden)


def with_neighbours(function: Callable[..., Any], folder: Path) -> Callable[..., Any]:
    """Return ``function`` such that what it imports is found as when its file was loaded."""

    @functools.wraps(function)
    def call(*args: Any, **options: Any) -> Any:
        with neighbours(folder):
            return function(*args, **options)

    return call


def _stays(name: str, module: ModuleType, folder: Path) -> bool:
    """Return whether a module is the folder's own, or one that everything else rests on."""
    top = name.partition(".")[0]
    file = getattr(module, "__file__", None)
    return (
        top in sys.stdlib_module_names
        or top in ("pyro_vae", "__main__")
        or file is None
        or file.startswith(_INSTALLED)
        or _lies_in(module, folder)
    )


def _lies_in(module: ModuleType, folder: Path) -> bool:
    file = getattr(module, "__file__", None)
    return isinstance(file, str) and file.startswith(f"{folder}{os.sep}") and not file.startswith(_INSTALLED)
