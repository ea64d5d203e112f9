"""Arguments, data and methods of all kinds: the same numbers, or the same errors, as with Pyro's `SVI`."""

import argparse
import functools
import warnings
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO
from svi_scripts import Case, Cases, Vae, X, agree, make
from tables import only
from torch import nn

from pyro_vae import SVI

CASES = Cases()
case = CASES.add


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


def bernoulli(*last):
    enc, dec = nn.Linear(6, 4), nn.Sequential(nn.Linear(2, 6, bias=not last), *last)

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
@pytest.mark.parametrize("name", only(INVALID, ["NaN"]))
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


@pytest.mark.parametrize("mode", ["recorded", pytest.param("on", marks=pytest.mark.slow)])
def test_invalid_data_move_running_statistics_once_as_in_pyro(mode, uncompiled):
    def run(kind):
        pyro.clear_param_store()
        torch.manual_seed(0)
        norm = nn.BatchNorm1d(6)
        model, guide = bernoulli(norm)
        options = {} if kind is pyro.infer.SVI else {"compile": mode}
        svi = kind(model, guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO(), **options)
        for _ in range(4):
            svi.step(BITS)
        with pytest.raises(ValueError, match="site 'x'"):
            svi.step(INVALID["a grey pixel"][2][0])
        return torch.cat([norm.running_mean, norm.running_var, norm.num_batches_tracked[None]])

    assert torch.allclose(run(SVI), run(pyro.infer.SVI), rtol=1e-5)


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


@pytest.mark.parametrize("name", CASES.params({"masks_that_are_written_twice"}))
def test_the_same_numbers_as_pyro(name):
    agree(CASES[name])
