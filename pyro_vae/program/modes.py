"""What modules are, trained or frozen, and stay while a program of theirs runs."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from pyro.nn import PyroModule
from torch import nn


@contextmanager
def modes_kept(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Leave every module in the mode, training or evaluation, that it is in now."""
    modes = [(module, module.training) for module in modules]
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def frozen_kept(program: Callable) -> Iterator[None]:
    """Leave frozen what is: Pyro's store makes every parameter that a PyroModule holds itself
    trainable when the program first reads it.
    """
    frozen = [p for p in program.parameters() if not p.requires_grad] if isinstance(program, PyroModule) else []
    try:
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)


def is_frozen(module: nn.Module) -> bool:
    """Return whether a module has parameters, and trains none of them."""
    parameters = list(module.parameters())
    return bool(parameters) and not any(p.requires_grad for p in parameters)
