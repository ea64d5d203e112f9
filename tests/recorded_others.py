"""More programs that are recorded, such as posteriors over positive numbers, and programs that are refused."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.distributions import constraints
from pyro.infer import (
    Trace_ELBO,
    TraceGraph_ELBO,
)
from pyro.infer.autoguide import AutoLowRankMultivariateNormal, AutoMultivariateNormal, AutoNormal
from pyro.nn import PyroModule, PyroParam, PyroSample
from recorded_programs import BATCH, Case, Program, bits, case, discrete, reals, refused, vae
from torch import Tensor, nn


def positive(name: str, *shape: int) -> Tensor:
    return pyro.param(name, lambda: torch.rand(shape) + 1.5, constraint=constraints.positive)


def latent(prior: Callable[[], Any], posterior: Callable[[], Any]) -> Case:
    def model(x):
        t = pyro.sample("t", prior())
        with pyro.plate("data", x.shape[0]):
            pyro.sample("x", dist.Normal(t.reshape(-1).sum(), 1.0), obs=x[:, 0])

    return Case(Trace_ELBO(), model, lambda x: pyro.sample("t", posterior()), reals())


@case
def gamma() -> Case:
    return latent(
        lambda: dist.Gamma(torch.ones(3) * 2, 1.0).to_event(1),
        lambda: dist.Gamma(positive("a", 3), positive("b", 3)).to_event(1),
    )


@case
def beta() -> Case:
    return latent(lambda: dist.Beta(torch.tensor(2.0), 2.0), lambda: dist.Beta(positive("a"), positive("b")))


@case
def dirichlet() -> Case:
    return latent(lambda: dist.Dirichlet(torch.ones(4)), lambda: dist.Dirichlet(positive("a", 4)))


@case
def student() -> Case:
    return latent(
        lambda: dist.StudentT(4.0, torch.tensor(0.0), 1.0),
        lambda: dist.StudentT(positive("df"), pyro.param("loc", torch.tensor(0.0)), positive("scale")),
    )


@case
def correlation() -> Case:
    def model(x):
        corr = pyro.sample("corr", dist.LKJCholesky(4, torch.tensor(2.0)))
        scale = pyro.sample("scale", dist.LogNormal(torch.zeros(4), 1.0).to_event(1))
        with pyro.plate("data", x.shape[0]):
            pyro.sample("x", dist.MultivariateNormal(x.new_zeros(4), scale_tril=scale.unsqueeze(-1) * corr), obs=x)

    return Case(Trace_ELBO(), model, AutoNormal(model), reals())


def regression(guide: Callable[[Program], Program]) -> Case:
    def model(x):
        w = pyro.sample("w", dist.Normal(torch.zeros(4), 1.0).to_event(1))
        s = pyro.sample("s", dist.HalfCauchy(torch.tensor(1.0)))
        with pyro.plate("data", x.shape[0]):
            pyro.sample("y", dist.Normal(x @ w, s), obs=x.sum(-1))

    return Case(Trace_ELBO(), model, guide(model), reals())


@case
def full_covariance() -> Case:
    return regression(AutoMultivariateNormal)


@case
def low_rank_covariance() -> Case:
    return regression(AutoLowRankMultivariateNormal)


@case
def bayesian_weights() -> Case:
    class Regression(PyroModule):
        def __init__(self):
            super().__init__()
            self.linear = PyroModule[nn.Linear](4, 1)
            self.linear.weight = PyroSample(dist.Normal(torch.tensor(0.0), 1.0).expand([1, 4]).to_event(2))
            self.linear.bias = PyroSample(dist.Normal(torch.tensor(0.0), 1.0).expand([1]).to_event(1))
            self.scale = PyroParam(torch.tensor(1.0), constraint=constraints.positive)

        def forward(self, x):
            loc = self.linear(x).squeeze(-1)
            with pyro.plate("data", x.shape[0]):
                pyro.sample("y", dist.Normal(loc, self.scale), obs=x.sum(-1))

    model = Regression()
    return Case(Trace_ELBO(), model, AutoNormal(model), reals())


# --- what cannot be recorded
# ---------------------------------------------------------------------------------------------


@refused("reads the value of a tensor.*recorded_others.py:.*if torch.rand")
def branch() -> Case:
    inner = vae()

    def model(x):
        if torch.rand(()) > 0.1:
            pyro.factor("penalty", -x.mean(), has_rsample=False)
        inner.model(x)

    return inner._replace(model=model)


@refused("draws from NumPy's random state")
def numpy_noise() -> Case:
    inner = vae()

    def model(x):
        pyro.factor("noise", torch.tensor(float(np.random.rand())))
        inner.model(x)

    return inner._replace(model=model)


@refused("it draws from 'a variable of an enclosing function'")
def own_numpy_generator() -> Case:
    inner, generator = vae(), np.random.default_rng(0)

    def model(x):
        pyro.factor("noise", torch.tensor(generator.random()))
        inner.model(x)

    return inner._replace(model=model)


@refused("it changes 'an element of a list or set' itself at every step")
def python_counter() -> Case:
    inner, calls = vae(), [0]

    def model(x):
        calls[0] += 1
        with poutine.scale(scale=1.0 / calls[0]):
            inner.model(x)

    return inner._replace(model=model)


@refused("its parameters are not the same tensors|replaces '__baseline_avg_downstream_cost_c'")
def running_average_in_store() -> Case:
    return discrete(TraceGraph_ELBO(), {"use_decaying_avg_baseline": True})


@refused("depends on data or draws|reads the value")
def rejection_sampler() -> Case:
    return latent(
        lambda: dist.VonMises(torch.tensor(0.0), 1.0),
        lambda: dist.VonMises(pyro.param("m", torch.tensor(0.1)), positive("k")),
    )


@refused("reads the value of a tensor.*for i in range")
def random_structure() -> Case:
    def model(x):
        n = pyro.sample("n", dist.Geometric(torch.tensor(0.5)))
        total = 0.0
        for i in range(int(n)):
            total = total + pyro.sample(f"t{i}", dist.Normal(torch.tensor(0.0), 1.0))
        pyro.sample("x", dist.Normal(total, torch.tensor(1.0)), obs=torch.tensor(1.0))

    def guide(x):
        n = pyro.sample("n", dist.Geometric(pyro.param("p", torch.tensor(0.5), constraint=constraints.unit_interval)))
        for i in range(int(n)):
            pyro.sample(f"t{i}", dist.Normal(pyro.param("m", torch.tensor(0.0)), 1.0))

    return Case(Trace_ELBO(), model, guide, bits)


@refused("boolean mask.*x\\[torch.rand")
def boolean_index() -> Case:
    inner = vae()

    def model(x):
        pyro.factor("extra", x[torch.rand(len(x)) > 0.5].sum())
        inner.model(x)

    return inner._replace(model=model)


@refused("takes the value of a tensor out of torch")
def through_numpy() -> Case:
    inner = vae()

    def model(x):
        pyro.factor("extra", torch.as_tensor(x.numpy().sum()))
        inner.model(x)

    return inner._replace(model=model)


@refused("uses a sparse tensor")
def sparse_outside() -> Case:
    inner, mixing = vae(), torch.eye(BATCH).to_sparse()

    def guide(x):
        inner.guide(torch.sparse.mm(mixing, x))

    return inner._replace(guide=guide)


@refused("an argument is a sparse tensor")
def sparse_argument() -> Case:
    inner = vae()

    def dense(program):
        return lambda x: program(x.to_dense())

    model, guide = dense(inner.model), dense(inner.guide)
    return Case(inner.elbo, model, guide, lambda: (bits()[0].to_sparse(),))


# --- tests ---
