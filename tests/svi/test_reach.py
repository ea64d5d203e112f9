"""Where programs keep what changes, or read it from: found or refused by name, and always Pyro's numbers."""

import ctypes
import datetime
import functools
import multiprocessing
import queue
import sys
import time
import types
from collections import UserDict

import pyro
import pytest
import torch
from pyro.infer import Trace_ELBO
from svi_scripts import Case, Cases, Vae, X, agree, make

CASES = Cases()
case = CASES.add
settings = types.ModuleType("settings_of_test")


class Meta(type):
    beta = 0.1


class Described(metaclass=Meta):
    pass


def imported() -> float:
    import settings_of_test

    return settings_of_test.beta


def with_default(beta=0.1, *, power=1.0):
    return beta * power


def fresh(change):
    """Return how to call a copy of a function, and to change it by `change(copy)`."""
    one = types.FunctionType(with_default.__code__, globals(), "one", (0.1,))
    one.__kwdefaults__ = {"power": 1.0}
    return one, lambda: change(one)


def held(value, read, write):
    """Return how to read a value of a holder, and how to write it."""
    return lambda: read(value), lambda: write(value)


def set_value(one):
    one.value = 1.0


UNSEEN = "whose state cannot be seen"
HOLDERS = {
    "a C number": (UNSEEN, lambda: held(ctypes.c_double(0.1), lambda s: s.value, set_value)),
    "shared memory": (UNSEEN, lambda: held(multiprocessing.RawValue("d", 0.1), lambda s: s.value, set_value)),
    "a queue": (UNSEEN, lambda: held(queue.SimpleQueue(), lambda s: 0.1 + 0.9 * s.qsize(), lambda s: s.put(1))),
    "a dictionary of Python's": (None, lambda: held(UserDict(b=0.1), lambda s: s["b"], lambda s: s.update(b=1.0))),
    "a metaclass": (None, lambda: held(Described, lambda s: s.beta, lambda s: setattr(Meta, "beta", 1.0))),
    "a default": (None, lambda: fresh(lambda f: setattr(f, "__defaults__", (1.0,)))),
    "a named default": (None, lambda: fresh(lambda f: f.__kwdefaults__.update(power=10.0))),
    "code": (None, lambda: fresh(lambda f: setattr(f, "__code__", (lambda beta=0: 1.0).__code__))),
    "an import": (None, lambda: held(settings, lambda s: imported(), lambda s: setattr(s, "beta", 1.0))),
    "sys.modules": (
        None,
        lambda: held(settings, lambda s: sys.modules["settings_of_test"].beta, lambda s: setattr(s, "beta", 1.0)),
    ),
}


def a_holder_that_changes(kind, name):
    sys.modules["settings_of_test"], settings.beta, Meta.beta = settings, 0.1, 0.1
    v = Vae()
    read, write = HOLDERS[name][1]()
    svi = make(kind, lambda x: v.model(x, read()), v.guide)
    losses = [svi.step(X) for _ in range(4)]
    write()
    return losses + [svi.step(X) for _ in range(4)]


for _name, (_said, _) in HOLDERS.items():
    CASES[f"changes in {_name}"] = Case(
        functools.partial(a_holder_that_changes, name=_name), _said, "eager" if _said else "recorded"
    )


@case("it reads the clock")
def a_branch_of_the_clock(kind):
    v, begun = Vae(), time.monotonic()
    svi = make(kind, lambda x: v.model(x, 0.1 if time.monotonic() < begun + 1000 else 1.0), v.guide)
    return [svi.step(X) for _ in range(3)]


@case("it reads the clock")
def a_branch_of_the_calendar(kind):
    v = Vae()
    svi = make(kind, lambda x: v.model(x, 0.1 if datetime.date.today().year > 1999 else 1.0), v.guide)
    return [svi.step(X) for _ in range(3)]


def test_a_file_that_is_read_at_each_step(tmp_path):
    path = tmp_path / "beta.txt"

    def run(kind):
        def model(x):
            with open(path) as file:
                v.model(x, float(file.read()))

        v = Vae()
        path.write_text("0.1")
        svi = make(kind, model, v.guide)
        losses = [svi.step(X) for _ in range(3)]
        path.write_text("1.0")
        return losses + [svi.step(X) for _ in range(3)]

    agree(Case(run, "it reads a file", "eager"))


@case()
def the_forward_of_a_librarys_module(kind):
    v = Vae()
    svi = make(kind, v.model, v.guide)
    losses = [svi.step(X) for _ in range(4)]
    old = v.dec.forward
    v.dec.forward = lambda z: 2 * old(z)
    return losses + [svi.step(X) for _ in range(4)]


@case()
def a_class_derived_from_svi(kind):
    class Mine(kind):
        beta = 0.5

        def __init__(self, **options):
            self.v, self.history = Vae(), []
            super().__init__(self.weighted, self.v.guide, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO(), **options)

        def weighted(self, x):
            self.v.model(x, self.beta)

        def step(self, x):
            self.history.append(super().step(x))

    make.last = svi = Mine(**({} if kind is pyro.infer.SVI else {"compile": "recorded"}))
    for i in range(8):
        svi.beta = 0.5 if i < 4 else 1.0
        svi.step(X)
    return svi.history


class Doubles(torch.overrides.TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        return 2 * out if func is torch.tanh else out


@case()
def a_mode_of_torchs_around_some_steps(kind):
    v = Vae()
    svi, losses = make(kind, v.model, v.guide), []
    for i in range(7):
        with Doubles() if i in (2, 5) else torch.device("cpu"):
            losses.append(svi.step(X))
    return losses


QUICK = {"changes in a C number", "changes in code", "a_branch_of_the_clock", "the_forward_of_a_librarys_module"}
QUICK |= {"a_mode_of_torchs_around_some_steps", "a_class_derived_from_svi"}


@pytest.mark.parametrize("name", CASES.params(QUICK))
def test_the_same_numbers_as_pyro(name):
    agree(CASES[name])
