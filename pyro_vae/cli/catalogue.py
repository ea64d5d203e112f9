"""The names of pairs, data sets, pictures and settings, and their options, from the source: no
command imports torch, which takes seconds, before it knows what it is asked.
"""

import ast
from collections.abc import Callable, Iterator
from typing import Any

from pyro_vae.cli import source

SETTINGS = "pyro_vae.training.settings"


def pairs() -> dict[str, str]:
    """Return the first line about each pair of the zoo, by name in the zoo's order."""
    return {name: source.module(family).text(name).split("\n")[0] for name, family in _families()}


def builder(name: str) -> Callable[..., Any] | None:
    """Return a function with the signature and docstring of the pair ``name``, None outside the
    zoo."""
    family = next((family for pair, family in _families() if pair == name), None)
    return None if family is None else source.function(family, name)


def data_sets() -> dict[str, str]:
    """Return the line about each named data set, by name."""
    return source.module("pyro_vae.data.sources")["DATASETS"]


def pictures() -> dict[str, str]:
    """Return the name of the function that draws each picture, by the picture's name."""
    return source.keys("pyro_vae.plots.registry", "PICTURES")


def picture(name: str) -> Callable[..., Any]:
    """Return a function with the signature and docstring of the one that draws a picture."""
    return source.function("pyro_vae.plots.registry", pictures()[name])


def budgets() -> list[str]:
    """Return the names of the budgets of a diagnosis."""
    return [*source.keys("pyro_vae.diagnostics.diagnosis", "BUDGETS")]


def training() -> type:
    """Return a class with the fields, defaults and docstring of the settings of training."""
    return source.record(SETTINGS, "Training")


def _families() -> Iterator[tuple[str, str]]:
    """Return an iterator over the zoo's pairs, each with its module."""
    for node in source.module("pyro_vae.pairs").statements:
        if isinstance(node, ast.ImportFrom) and node.module == "pyro_vae.pairs":
            for alias in node.names:
                family = f"pyro_vae.pairs.{alias.name}"
                for function in source.module(family).statements:
                    if isinstance(function, ast.FunctionDef) and "pair" in _decorators(function):
                        yield function.name, family


def _decorators(function: ast.FunctionDef) -> list[str]:
    return [decorator.id for decorator in function.decorator_list if isinstance(decorator, ast.Name)]
