"""The names of pairs and data sets with a line each, read from the source: to run it would import
torch, which takes seconds.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parent.parent


def pairs() -> dict[str, str]:
    """Return the first line about each pair of the zoo, by name in the zoo's order."""
    families = [
        name.name
        for node in _statements("pairs/__init__.py")
        if isinstance(node, ast.ImportFrom) and node.module == "pyro_vae.pairs"
        for name in node.names
    ]
    return {
        function.name: (ast.get_docstring(function) or "").split("\n")[0]
        for family in families
        for function in _statements(f"pairs/{family}.py")
        if isinstance(function, ast.FunctionDef) and "pair" in _decorators(function)
    }


def data_sets() -> dict[str, str]:
    """Return the line about each named data set, by name."""
    for node in _statements("data/sources.py"):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id == "DATASETS":
            assert node.value is not None
            return ast.literal_eval(node.value)
    raise AssertionError("data/sources.py has no table DATASETS")


def _statements(file: str) -> Iterator[ast.stmt]:
    return iter(ast.parse((PACKAGE / file).read_text(encoding="utf-8")).body)


def _decorators(function: ast.FunctionDef) -> list[str]:
    return [decorator.id for decorator in function.decorator_list if isinstance(decorator, ast.Name)]
