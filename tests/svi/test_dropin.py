"""What scripts do with Pyro's `SVI` gives the same numbers with ours, at every step, and never a crash where Pyro has none.

Each case runs the same script with both and compares all losses. It says what our `SVI` must have warned of, if anything:
a program that cannot be replayed runs eagerly, from the step on that was to be recorded, with Pyro's draws.
"""

import argparse
import functools
import os
import random
import re
import warnings
from collections import defaultdict, deque
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.distributions.testing.fakes import NonreparameterizedNormal
from pyro.infer import JitTrace_ELBO, JitTraceMeanField_ELBO, Trace_ELBO, TraceGraph_ELBO
from torch import nn

from pyro_vae import SVI
from pyro_vae.svi import EagerWarning

X = torch.randn(20, 6, generator=torch.Generator().manual_seed(5))


class Vae(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enc, self.dec = nn.Linear(6, 4), nn.Sequential(nn.Linear(2, 5), nn.Tanh(), nn.Linear(5, 6))

    def model(self, x, beta=1.0):
        pyro.module("dec", self.dec)
        with pyro.plate("data", len(x)):
            with poutine.scale(scale=beta):
                z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.dec(z), 1.0).to_event(1), obs=x)

    def guide(self, x, *rest):
        pyro.module("enc", self.enc)
        with pyro.plate("data", len(x)):
            loc, s = self.enc(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, nn.functional.softplus(s) + 1e-3).to_event(1))


class Case(NamedTuple):
    run: Callable[..., Any]
    said: str | None
    engine: str


CASES: dict[str, Case] = {}


def case(said: str | None = None, engine: str | None = None) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add a script: what is said, and what ran the last step ("eager" if something is said)."""

    def add(run: Callable[..., Any]) -> Callable[..., Any]:
        CASES[run.__name__] = Case(run, said, engine or ("recorded" if said is None else "eager"))
        return run

    return add


def make(kind, model, guide, loss=None, lr=0.01):
    options = {} if kind is pyro.infer.SVI else {"compile": "recorded"}
    make.last = kind(model, guide, pyro.optim.Adam({"lr": lr}), loss or Trace_ELBO(), **options)
    return make.last


# ---- Python that the program changes itself, or that is changed between the steps ----


@case("it changes 't' itself at every step")
def counts_its_calls(kind):
    v = Vae()
    v.t = 0

    def model(x):
        v.t += 1
        v.model(x, 0.1 if v.t <= 8 else 1.0)

    svi = make(kind, model, v.guide)
    return [svi.step(X) for _ in range(14)] + [v.t]


STEPS = 0


@case("it changes 'STEPS' itself at every step")
def counts_in_a_global(kind):
    def model(x):
        global STEPS
        STEPS += 1
        v.model(x, 0.1 if STEPS <= 8 else 1.0)

    v, globals()["STEPS"] = Vae(), 0
    svi = make(kind, model, v.guide)
    return [svi.step(X) for _ in range(14)]


@case("it changes 'a variable of an enclosing function' itself at every step")
def counts_in_a_closure(kind):
    v, t = Vae(), 0

    def model(x):
        nonlocal t
        t += 1
        v.model(x, 0.1 if t <= 8 else 1.0)

    svi = make(kind, model, v.guide)
    return [svi.step(X) for _ in range(14)]


@case("it changes 'last' itself at every step")
def leaves_something_behind(kind):
    v = Vae()

    def guide(x):
        v.guide(x)
        v.last = x.mean() + v.enc.weight.sum()

    svi = make(kind, v.model, guide)
    return [svi.step(X) + float(v.last.detach()) for _ in range(8)]


@case("it changes 'an element of a list or set' itself at every step")
def collects_by_a_gradient_hook(kind):
    v, seen = Vae(), []
    v.dec[0].weight.register_hook(lambda g: seen.append(g.norm()))
    svi = make(kind, v.model, v.guide)
    return [svi.step(X) for _ in range(6)] + [len(seen)]


@case("'epoch' keeps changing")
def a_branch_that_comes_late(kind):
    v = Vae()
    v.epoch = 0
    svi = make(kind, lambda x: v.model(x, 1.0 if v.epoch > 11 else 0.1), v.guide)
    losses = []
    for v.epoch in range(15):
        losses += [svi.step(X) for _ in range(2)]
    return losses


class Schedule:
    beta = 0.1


class Slotted:
    __slots__ = ("beta",)

    def __init__(self):
        self.beta = 0.1


class Easy(dict):
    """Attributes that are entries."""

    __getattr__ = dict.__getitem__
    __setattr__ = dict.__setitem__


class Lazy:
    """Attributes that are looked up by name, somewhere else."""

    def __init__(self):
        self._content = {"beta": 0.1}

    def __getattr__(self, name):
        return self._content[name]

    def __setattr__(self, name, value):
        super().__setattr__(name, value) if name == "_content" else self._content.__setitem__(name, value)


HOLDERS = {
    "object": Schedule,
    "slots": Slotted,
    "easydict": lambda: Easy(beta=0.1),
    "lazy": Lazy,
    "namespace": lambda: argparse.Namespace(beta=0.1),
    "defaultdict": lambda: defaultdict(float, beta=0.1),
    "large": lambda: {**{str(i): i for i in range(300)}, "beta": 0.1},
    "array": lambda: {"beta": np.full(3, 0.1)},
    "deque": lambda: {"beta": deque([0.1])},
}


def a_holder_that_changes(kind, holder):
    v, s = Vae(), HOLDERS[holder]()
    nested = [{"cfg": s}]

    def beta():
        cfg = nested[0]["cfg"]
        value = cfg["beta"] if isinstance(cfg, dict) else cfg.beta
        return value if isinstance(value, float) else float(value[0])

    svi = make(kind, lambda x: v.model(x, beta()), v.guide)
    losses = [svi.step(X) for _ in range(4)]
    if isinstance(s, dict) and not isinstance(s["beta"], float):
        s["beta"][0] = 1.0
    elif isinstance(s, dict):
        s["beta"] = 1.0
    else:
        s.beta = 1.0
    return losses + [svi.step(X) for _ in range(4)]


for _holder in HOLDERS:
    CASES[f"changes in {_holder}"] = Case(functools.partial(a_holder_that_changes, holder=_holder), None, "recorded")


@case()
def an_environment_variable(kind):
    v = Vae()
    os.environ["BETA_OF_TEST"] = "0.1"
    svi = make(kind, lambda x: v.model(x, float(os.environ["BETA_OF_TEST"])), v.guide)
    losses = [svi.step(X) for _ in range(4)]
    os.environ["BETA_OF_TEST"] = "1.0"
    return losses + [svi.step(X) for _ in range(4)]


@case()
def a_trainer_that_keeps_its_losses(kind):
    class Trainer:
        def __init__(self):
            self.vae, self.losses, self.steps, self.beta = Vae(), [], 0, 0.5
            self.svi = make(kind, self.model, self.vae.guide)

        def model(self, x):
            self.vae.model(x, self.beta)

        def train(self):
            for i in range(8):
                self.steps += 1
                self.beta = 0.5 if i < 5 else 1.0
                self.losses.append(self.svi.step(X))

    trainer = Trainer()
    trainer.train()
    return trainer.losses


VALUE = ContextVar("VALUE", default=0.5)


@case("it reaches 'VALUE', a ContextVar, whose state cannot be seen")
def a_context_variable(kind):
    v = Vae()
    svi = make(kind, lambda x: v.model(x, VALUE.get()), v.guide)
    return [svi.step(X) for _ in range(3)]


@case("an enclosing function', a list_iterator, whose state cannot be seen")
def an_iterator(kind):
    v, betas = Vae(), iter([0.1, 0.2, 0.3, 0.4, 0.5])
    svi = make(kind, lambda x: v.model(x, next(betas)), v.guide)
    return [svi.step(X) for _ in range(5)]


# ---- random numbers of other kinds ----


@case("it draws from NumPy's random state")
def draws_by_numpy(kind):
    np.random.seed(1)
    v = Vae()

    def guide(x):
        v.rows = torch.tensor(np.random.choice(20, 10))
        v.guide(x[v.rows])

    svi = make(kind, lambda x: v.model(x[v.rows]), guide)
    return [svi.step(X) for _ in range(5)]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["numpy", "python", "torch"])
def test_a_generator_of_ones_own_is_refused_and_goes_on(name):
    def run(kind):
        v = Vae()
        if name == "torch":
            g = torch.Generator().manual_seed(4)
            draw = lambda: float(torch.rand((), generator=g))  # noqa: E731
        else:
            g = np.random.default_rng(4) if name == "numpy" else random.Random(3)
            draw = g.random
        svi = make(kind, lambda x: v.model(3 * x if draw() < 0.5 else x), v.guide)
        return [svi.step(X) for _ in range(6)]

    agree(Case(run, "it draws from|it reads the value", "eager"))


# ---- what is settled at the first call; what is refused ----


@case()
def makes_what_it_needs_at_its_first_call(kind):
    v = Vae()

    def guide(x):
        if not hasattr(v, "w"):
            v.w = torch.randn(20, 2)
        v.guide(x)

    svi = make(kind, v.model, guide)
    return [svi.step(X) for _ in range(6)]


@case("it reads the value of a tensor")
def swallows_the_refusal(kind):
    v = Vae()

    def model(x):
        try:
            big = bool(v.dec[0].weight.mean() > 0.1)
        except Exception:
            big = False
        v.model(x, 1.0 if big else 0.1)

    svi = make(kind, model, v.guide)
    losses = [svi.step(X) for _ in range(3)]
    v.dec[0].weight.data.add_(1)
    return losses + [svi.step(X) for _ in range(3)]


@case("like a running average in the store")
def a_running_average_in_the_store(kind):
    v = Vae()

    def guide(x):
        pyro.module("enc", v.enc)
        with pyro.plate("data", len(x)):
            baseline = {"use_decaying_avg_baseline": True, "baseline_beta": 0.9}
            loc, _ = v.enc(x).chunk(2, -1)
            pyro.sample("z", NonreparameterizedNormal(loc, 1.0).to_event(1), infer={"baseline": baseline})

    svi = make(kind, v.model, guide, TraceGraph_ELBO())
    return [svi.step(X) for _ in range(6)]


@case("it changes a list or dictionary that it is given")
def writes_into_the_batch(kind):
    v = Vae()

    def guide(b):
        b["twice"] = 2 * b["x"]
        v.guide(b["twice"])

    svi = make(kind, lambda b: v.model(b["twice"]), guide)
    return [svi.step({"x": X}) for _ in range(4)]


@case("runs eagerly")
def a_compiled_net(kind):
    v = Vae()
    v.dec = torch.compile(v.dec, backend="eager")
    svi = make(kind, v.model, v.guide)
    losses = [svi.step(X) for _ in range(3)]
    torch.distributions.Distribution.set_default_validate_args(True)  # torch.compile has switched it off
    return losses


@case("runs eagerly")
def a_scripted_net(kind):
    v = Vae()
    v.dec = torch.jit.script(v.dec)
    svi = make(kind, v.model, v.guide)
    return [svi.step(X) for _ in range(3)]


@pytest.mark.slow
@pytest.mark.parametrize("loss", [JitTrace_ELBO, JitTraceMeanField_ELBO])
@pytest.mark.parametrize("torchs", [False, True])
@pytest.mark.filterwarnings("ignore")
def test_jitted_losses_take_their_own_steps(loss, torchs):
    v = Vae()
    optim = torch.optim.Adam(v.parameters()) if torchs else pyro.optim.Adam({"lr": 1e-2})
    svi = SVI(v.model, v.guide, optim, loss(ignore_jit_warnings=True), compile="recorded")
    assert svi.step(X) != svi.step(X)
    assert svi.engine == "eager"


# ---- arguments ----


@dataclass
class Settings:
    beta: float
    x: torch.Tensor


class Labelled(dict):
    """A batch with a name."""


ARGUMENTS = {
    "namespace": lambda x: argparse.Namespace(beta=0.5, x=x),
    "simple": lambda x: SimpleNamespace(beta=0.5, x=x),
    "dataclass": lambda x: Settings(0.5, x),
    "nested": lambda x: SimpleNamespace(beta=np.float32(0.5), x=x, rest=[Settings(0.5, x)], cut=slice(0, 3)),
    "array": lambda x: SimpleNamespace(beta=np.array([0.5]), x=x),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ARGUMENTS)
def test_arguments_are_compared_by_value(name):
    def run(kind):
        v = Vae()
        svi = make(kind, lambda a: v.model(a.x, float(np.sum(a.beta))), lambda a: v.guide(a.x))
        losses = [svi.step(ARGUMENTS[name](X)) for _ in range(4)]
        changed = ARGUMENTS[name](2 * X)
        changed.beta = changed.beta * 0 + 1.0
        return losses + [svi.step(changed) for _ in range(3)]

    agree(Case(run, None, "recorded"))


@case()
def functions_and_partials_as_arguments(kind):
    v = Vae()

    def annealed(at, most):
        return min(1.0, at / most)

    svi = make(kind, lambda x, f: v.model(x, f()), lambda x, f: v.guide(x))
    return [svi.step(X, functools.partial(annealed, at, most=8)) for at in (1, 1, 1, 4, 4)]


@case()
def subclasses_of_dictionaries(kind):
    v = Vae()

    def model(b):
        v.model(b["x"], 0.1 if isinstance(b, Labelled) and b["none"] == 0 else 1.0)

    class Default(Labelled):
        def __missing__(self, key):
            return 0

    svi = make(kind, model, lambda b: v.guide(b["x"]))
    return [svi.step(Default(x=X)) for _ in range(4)]


@case()
def masks_that_are_written_twice(kind):
    v = Vae()

    def model(x, y):
        c = x.clone()
        c[x > 1] = y[x > 1]
        v.model(c)

    svi = make(kind, model, lambda x, y: v.guide(x))
    return [svi.step(X + i, 2 * X) for i in range(4)]


@case("argument 2 keeps changing; pass a tensor")
def a_number_at_every_step(kind):
    v = Vae()
    svi = make(kind, lambda x, beta: v.model(x, beta), v.guide)
    return [svi.step(X, (i + 1) / 14) for i in range(14)]


@case("keep it in one tensor that is written into, or pass it")
def a_tensor_that_is_bound_anew(kind):
    v = Vae()
    svi = make(kind, lambda: v.model(v.batch), lambda: v.guide(v.batch))
    losses = []
    for i in range(6):
        v.batch = X + i
        losses.append(svi.step())
    return losses


# ---- data that torch or Pyro refuse ----


def bernoulli():
    enc, dec = nn.Linear(6, 4), nn.Linear(2, 6)

    def model(x):
        pyro.module("dec", dec)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=dec(z)).to_event(1), obs=x)

    def guide(x):
        pyro.module("enc", enc)
        with pyro.plate("data", len(x)):
            loc, s = enc(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, s.exp()).to_event(1))

    return model, guide


def one_hot():
    v = Vae()
    layer = nn.Linear(3, 6)

    def model(x, y):
        pyro.module("layer", layer)
        v.model(x + layer(nn.functional.one_hot(y, 3).float()))

    return model, v.guide


def vae():
    v = Vae()
    return v.model, v.guide


BITS, Y = (X > 0).float(), torch.arange(20) % 3
INVALID = {
    "a grey pixel": (bernoulli, (BITS,), (BITS.index_fill(0, torch.tensor([3]), 0.5),), "site 'x'"),
    "NaN": (vae, (X,), (X.masked_fill(X > 2, float("nan")),), "Expected parameter"),
    "class 3 of 3": (one_hot, (X, Y), (X, Y + 1), "Class values must be smaller"),
}


@pytest.mark.parametrize("mode", ["recorded", pytest.param("on", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", INVALID)
def test_invalid_data_are_refused_by_pyro_and_training_goes_on(name, mode, uncompiled):
    program, good, bad, said = INVALID[name]

    def run(kind):
        pyro.clear_param_store()
        torch.manual_seed(0)
        model, guide = program()
        options = {} if kind is pyro.infer.SVI else {"compile": mode}
        svi = kind(model, guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO(), **options)
        losses = [svi.step(*good) for _ in range(4)]
        with pytest.raises((ValueError, RuntimeError), match=said):
            svi.step(*bad)
        torch.manual_seed(1)
        return losses + [svi.step(*good) for _ in range(3)]

    assert run(SVI) == pytest.approx(run(pyro.infer.SVI), rel=1e-5)


def test_validation_that_is_switched_off_stays_off():
    model, guide = bernoulli()
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 1e-3}), Trace_ELBO(), compile="recorded")
    with pyro.validation_enabled(False):
        losses = [svi.step(BITS), svi.step(BITS), svi.step(BITS / 2)]
    assert svi.engine == "recorded"
    assert torch.tensor(losses).isfinite().all()


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["off", "recorded", "on"])
def test_pyros_optimizers_take_their_step_whatever_the_loss(mode, uncompiled):
    def model(x):
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        with pyro.plate("n", len(x)):
            pyro.sample("u", dist.Uniform(0.0, 1.0, validate_args=False), obs=x)
            pyro.sample("x", dist.Normal(w, 1.0), obs=x)

    def guide(x):
        pyro.sample("w", dist.Normal(pyro.param("m", torch.tensor(3.0)), 0.1))

    found = []
    for kind, options in ((pyro.infer.SVI, {}), (SVI, {"compile": mode})):
        pyro.clear_param_store()
        torch.manual_seed(0)
        svi = kind(model, guide, pyro.optim.Adam({"lr": 0.05}), Trace_ELBO(), **options)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            for _ in range(10):
                svi.step(torch.linspace(0, 1.5, 20))
        found.append(pyro.param("m").item())
    assert found[0] == pytest.approx(found[1], rel=1e-6)
    assert found[1] < 2.9
    assert sum("is not finite" in str(w.message) for w in said) == 1


# ---- Pyro's other methods ----


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_what_pyros_svi_has_ours_has():
    def run(kind):
        pyro.clear_param_store()
        torch.manual_seed(0)
        v = Vae()
        svi = kind(v.model, v.guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO(), num_samples=4, num_steps=3)
        assert isinstance(svi, pyro.infer.SVI)
        svi.run(X)
        with poutine.trace(param_only=True) as seen:
            loss = sum(svi.loss_and_grads(svi.model, svi.guide, part) for part in X.chunk(4))
        params = {site["value"].unconstrained() for site in seen.trace.nodes.values()}
        svi.optim(params)
        pyro.infer.util.zero_grads(params)
        waic = svi.information_criterion()["waic"]
        return [loss, len(svi.exec_traces), float(waic.detach()), svi.step(X), svi.evaluate_loss(X)]

    assert run(SVI) == pytest.approx(run(pyro.infer.SVI), rel=1e-6)


def test_counts_and_recordings_are_bounded():
    v = Vae()
    svi = SVI(lambda x, b: v.model(x, b), v.guide, pyro.optim.Adam({"lr": 1e-3}), Trace_ELBO())
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for i in range(300):
            svi._count(str(i))
        svi.step(X, 0.1)
        svi.step(X, 0.2)
    assert len(svi.state_dict()["calls"]) <= 256
    assert ["argument 2 keeps changing" in str(w.message) for w in said] == [True]


def agree(one: Case) -> None:
    """Run a script with Pyro's and with our SVI; all its numbers must be the same."""
    found = []
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for kind in (pyro.infer.SVI, SVI):
            pyro.clear_param_store()
            torch.manual_seed(0)
            np.random.seed(0)
            found.append([*one.run(kind), float(torch.rand(()))])
    assert found[1] == pytest.approx(found[0], rel=1e-5)
    ours = [str(w.message) for w in said if issubclass(w.category, EagerWarning)]
    if one.said is None:
        assert ours == []
    else:
        assert len(ours) == 1
        assert re.search(one.said, ours[0]), ours
    assert make.last.engine == one.engine, make.last.why_not


QUICK = {
    "counts_its_calls",
    "changes in object",
    "a_trainer_that_keeps_its_losses",
    "makes_what_it_needs_at_its_first_call",
}
QUICK |= {"swallows_the_refusal", "writes_into_the_batch", "masks_that_are_written_twice"}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in CASES]
)
def test_the_same_numbers_as_pyro(name):
    agree(CASES[name])
