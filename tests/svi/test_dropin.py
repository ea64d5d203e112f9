"""What scripts do with Pyro's `SVI` gives the same numbers with ours, at every step, and never a crash where Pyro has none.

Each case runs the same script with both and compares all losses. It says what our `SVI` must have warned of, if anything:
a program that cannot be replayed runs eagerly, from the step on that was to be recorded, with Pyro's draws.
"""

import argparse
import functools
import os
import random
from collections import defaultdict, deque
from contextvars import ContextVar

import numpy as np
import pyro
import pytest
import torch
from pyro.distributions.testing.fakes import NonreparameterizedNormal
from pyro.infer import JitTrace_ELBO, JitTraceMeanField_ELBO, TraceGraph_ELBO
from svi_scripts import Case, Cases, Vae, X, agree, make

from pyro_vae import SVI

CASES = Cases()
case = CASES.add


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


@case()
def reaches_its_own_svi(kind):
    class Trainer:
        def __init__(self):
            self.v = Vae()
            self.svi = make(kind, self.model, self.v.guide)

        def model(self, x, flag=None):
            assert self.svi.model is not None
            self.v.model(x)

    trainer = Trainer()
    return [trainer.svi.step(X, *((True,) if i % 2 else ())) for i in range(8)]


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


@case("it takes the value of a tensor out of torch")
def swallows_the_refusal(kind):
    v = Vae()

    def model(x):
        try:
            big = v.dec[0].weight.mean().tolist() > 0.1
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


QUICK = {
    "counts_its_calls",
    "changes in object",
    "makes_what_it_needs_at_its_first_call",
}
QUICK |= {"swallows_the_refusal", "writes_into_the_batch"}


@pytest.mark.parametrize("name", CASES.params(QUICK))
def test_the_same_numbers_as_pyro(name):
    agree(CASES[name])
