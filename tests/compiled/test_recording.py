"""Recordings against eager Pyro: every objective and kind of program; and what must be refused."""

import re
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pyro
import pyro.distributions as dist
import pyro.distributions.transforms as transforms
import pytest
import torch
import torch.nn.functional as F
from pyro import poutine
from pyro.distributions import constraints
from pyro.infer import (
    RenyiELBO,
    ReweightedWakeSleep,
    Trace_ELBO,
    TraceEnum_ELBO,
    TraceGraph_ELBO,
    TraceMeanField_ELBO,
)
from pyro.infer.autoguide import AutoLowRankMultivariateNormal, AutoMultivariateNormal, AutoNormal
from pyro.nn import PyroModule, PyroParam, PyroSample
from torch import Tensor, nn
from zoo import ROWS

from pyro_vae.compiled.guards import Watch
from pyro_vae.compiled.recording import record, signature
from pyro_vae.compiled.state import RecordingError
from pyro_vae.svi import SVI, EagerWarning

BATCH, FEATURES, LATENT = 12, 9, 3
Program = Callable[..., Any]


class Case(NamedTuple):
    elbo: Any
    model: Program
    guide: Program
    args: Callable[[], tuple[Any, ...]]


CASES: dict[str, Callable[[], Case]] = {}
REFUSED: dict[str, tuple[str, Callable[[], Case]]] = {}


def case(make: Callable[[], Case]) -> Callable[[], Case]:
    CASES[make.__name__.strip("_")] = make
    return make


def refused(reason: str) -> Callable[[Callable[[], Case]], Callable[[], Case]]:
    def keep(make: Callable[[], Case]) -> Callable[[], Case]:
        REFUSED[make.__name__.strip("_")] = reason, make
        return make

    return keep


@pytest.fixture(autouse=True)
def fresh():
    pyro.clear_param_store()
    torch.manual_seed(0)
    yield
    pyro.clear_param_store()
    torch.set_default_dtype(torch.float32)


def net(n_in: int, n_out: int, hidden: int = 8) -> nn.Sequential:
    return nn.Sequential(nn.Linear(n_in, hidden), nn.Softplus(), nn.Linear(hidden, n_out))


def bits() -> tuple[Tensor, ...]:
    return (torch.rand(BATCH, FEATURES).round(),)


def reals(columns: int = 4) -> Callable[[], tuple[Tensor, ...]]:
    return lambda: (torch.randn(BATCH, columns),)


def standard(x: Tensor) -> Any:
    return dist.Normal(x.new_zeros(x.shape[0], LATENT), 1.0).to_event(1)


def vae(
    elbo: Any = None,
    encoder: nn.Module | None = None,
    decoder: nn.Module | None = None,
    likelihood: Callable[[Tensor], Any] = lambda logits: dist.Bernoulli(logits=logits),
) -> Case:
    encoder, decoder = encoder or net(FEATURES, 2 * LATENT), decoder or net(LATENT, FEATURES)

    def model(x: Tensor) -> None:
        pyro.module("decoder", decoder)
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", standard(x))
            pyro.sample("x", likelihood(decoder(z)).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        pyro.module("encoder", encoder)
        with pyro.plate("data", x.shape[0]):
            loc, log_scale = encoder(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))

    return Case(elbo or Trace_ELBO(), model, guide, bits)


@case
def trace() -> Case:
    return vae()


@case
def mean_field() -> Case:
    return vae(TraceMeanField_ELBO())


@case
def looped_particles() -> Case:
    return vae(Trace_ELBO(num_particles=3))


@case
def vectorized_particles() -> Case:
    return vae(Trace_ELBO(num_particles=3, vectorize_particles=True, max_plate_nesting=1))


@case
def renyi() -> Case:
    return vae(RenyiELBO(alpha=0.0, num_particles=4, vectorize_particles=True, max_plate_nesting=1))


@case
def renyi_looped() -> Case:
    return vae(RenyiELBO(alpha=0.5, num_particles=3))


@case
def probabilities() -> Case:
    return vae(decoder=nn.Sequential(net(LATENT, FEATURES), nn.Sigmoid()), likelihood=lambda p: dist.Bernoulli(p))


@case
def validated() -> Case:
    return vae(likelihood=lambda logits: dist.Bernoulli(logits=logits, validate_args=True))


@case
def continuous_bernoulli() -> Case:
    return vae(likelihood=lambda logits: dist.ContinuousBernoulli(logits=logits))


@case
def batch_norm_and_dropout() -> Case:
    encoder = nn.Sequential(
        nn.Linear(FEATURES, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 2 * LATENT)
    )
    return vae(
        encoder=encoder,
        decoder=nn.Sequential(nn.Linear(LATENT, 8), nn.BatchNorm1d(8), nn.Linear(8, FEATURES)),
    )


@case
def convolutional() -> Case:
    encoder = nn.Sequential(
        nn.Unflatten(1, (1, 3, 3)), nn.Conv2d(1, 4, 2), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2 * LATENT)
    )
    decoder = nn.Sequential(
        nn.Linear(LATENT, 16), nn.Unflatten(1, (4, 2, 2)), nn.ConvTranspose2d(4, 1, 2), nn.Flatten()
    )
    return vae(encoder=encoder, decoder=decoder)


@case
def recurrent() -> Case:
    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.gru = nn.GRU(3, 5, batch_first=True)
            self.out = nn.Linear(5, 2 * LATENT)

        def forward(self, x):
            return self.out(self.gru(x.view(-1, 3, 3))[0][:, -1])

    return vae(encoder=Encoder())


@case
def hierarchical() -> Case:
    nets = {"e1": net(FEATURES, 6), "e2": net(3, 4), "d1": net(2, 6), "d2": net(3, FEATURES)}

    def model(x):
        pyro.module("d1", nets["d1"])
        pyro.module("d2", nets["d2"])
        with pyro.plate("data", x.shape[0]):
            z2 = pyro.sample("z2", dist.Normal(x.new_zeros(x.shape[0], 2), 1.0).to_event(1))
            loc, log_scale = nets["d1"](z2).chunk(2, -1)
            z1 = pyro.sample("z1", dist.Normal(loc, log_scale.exp()).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=nets["d2"](z1)).to_event(1), obs=x)

    def guide(x):
        pyro.module("e1", nets["e1"])
        pyro.module("e2", nets["e2"])
        with pyro.plate("data", x.shape[0]):
            loc, log_scale = nets["e1"](x).chunk(2, -1)
            z1 = pyro.sample("z1", dist.Normal(loc, log_scale.exp()).to_event(1))
            loc, log_scale = nets["e2"](z1).chunk(2, -1)
            pyro.sample("z2", dist.Normal(loc, log_scale.exp()).to_event(1))

    return Case(Trace_ELBO(), model, guide, bits)


@case
def class_conditional() -> Case:
    encoder, decoder = net(FEATURES + 4, 2 * LATENT), net(LATENT + 4, FEATURES)

    def model(x, y):
        pyro.module("decoder", decoder)
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", standard(x))
            logits = decoder(torch.cat([z, F.one_hot(y, 4).to(x.dtype)], -1))
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)

    def guide(x, y):
        pyro.module("encoder", encoder)
        with pyro.plate("data", x.shape[0]):
            loc, log_scale = encoder(torch.cat([x, torch.eye(4, dtype=x.dtype)[y]], -1)).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))

    return Case(Trace_ELBO(), model, guide, lambda: (*bits(), torch.randint(4, (BATCH,))))


@case
def subsampled_inside() -> Case:
    encoder, decoder = net(FEATURES, 2 * LATENT), net(LATENT, FEATURES)

    def model(full):
        pyro.module("decoder", decoder)
        with pyro.plate("data", BATCH, subsample_size=5) as rows:
            z = pyro.sample("z", standard(full[rows]))
            pyro.sample("x", dist.Bernoulli(logits=decoder(z)).to_event(1), obs=full[rows])

    def guide(full):
        pyro.module("encoder", encoder)
        with pyro.plate("data", BATCH, subsample_size=5) as rows:
            loc, log_scale = encoder(full[rows]).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))

    return Case(Trace_ELBO(), model, guide, bits)


@case
def subsampled_by_argument() -> Case:
    inner = vae()

    def scaled(program):
        def run(x, rows):
            with poutine.scale(scale=600 / BATCH):
                program(x)

        return run

    return Case(Trace_ELBO(), scaled(inner.model), scaled(inner.guide), lambda: (*bits(), torch.randperm(600)[:BATCH]))


@case
def masked_and_scaled() -> Case:
    encoder, decoder = net(FEATURES, 2 * LATENT), net(LATENT, FEATURES)

    def model(x, beta):
        pyro.module("decoder", decoder)
        with pyro.plate("data", x.shape[0]):
            with poutine.scale(scale=beta):
                z = pyro.sample("z", standard(x))
            pyro.sample("x", dist.Bernoulli(logits=decoder(z)).mask(x.sum(-1, keepdim=True) > 4).to_event(1), obs=x)

    def guide(x, beta):
        pyro.module("encoder", encoder)
        with pyro.plate("data", x.shape[0]), poutine.scale(scale=beta):
            loc, log_scale = encoder(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))

    return Case(Trace_ELBO(), model, guide, lambda: (*bits(), torch.rand(())))


def mixture(guide_enumerates: bool, elbo: Any = None, beta: bool = False) -> Case:
    encoder, decoder, classifier = net(FEATURES, 2 * LATENT), net(LATENT, FEATURES), net(FEATURES, 4)

    def model(x, beta=1.0):
        pyro.module("decoder", decoder)
        locs = pyro.param("locs", lambda: torch.randn(4, LATENT))
        scales = pyro.param("scales", lambda: torch.ones(4, LATENT), constraint=constraints.positive)
        weights = pyro.param("weights", lambda: torch.ones(4) / 4, constraint=constraints.simplex)
        with pyro.plate("data", x.shape[0]), poutine.scale(scale=beta):
            c = pyro.sample("c", dist.Categorical(weights), infer={"enumerate": "parallel"})
            z = pyro.sample("z", dist.Normal(locs[c], scales[c]).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=decoder(z)).to_event(1), obs=x)

    def guide(x, beta=1.0):
        pyro.module("encoder", encoder)
        with pyro.plate("data", x.shape[0]), poutine.scale(scale=beta):
            if guide_enumerates:
                pyro.module("classifier", classifier)
                pyro.sample("c", dist.Categorical(logits=classifier(x)), infer={"enumerate": "parallel"})
            loc, log_scale = encoder(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))

    args = (lambda: (*bits(), torch.rand(()) + 0.1)) if beta else bits
    return Case(elbo or TraceEnum_ELBO(max_plate_nesting=1), model, guide, args)


@case
def enumerated_in_model() -> Case:
    return mixture(False)


@case
def enumerated_in_guide() -> Case:
    return mixture(True)


@case
def enumerated_and_tempered() -> Case:
    return mixture(False, beta=True)


@case
def enumerated_particles() -> Case:
    return mixture(True, TraceEnum_ELBO(max_plate_nesting=1, num_particles=2, vectorize_particles=True))


@case
def hidden_markov() -> Case:
    def model(x):
        rows = pyro.param("rows", lambda: torch.ones(3, 3) / 3, constraint=constraints.simplex)
        locs = pyro.param("locs", lambda: torch.randn(3))
        with pyro.plate("sequences", x.shape[0]):
            state = 0
            for t in pyro.markov(range(x.shape[1])):
                state = pyro.sample(f"state{t}", dist.Categorical(rows[state]), infer={"enumerate": "parallel"})
                pyro.sample(f"x{t}", dist.Normal(locs[state], 1.0), obs=x[:, t])

    return Case(TraceEnum_ELBO(max_plate_nesting=1), model, lambda x: None, reals())


def discrete(elbo: Any, baseline: dict[str, Any] | None = None) -> Case:
    encoder, decoder = net(FEATURES, 5), net(5, FEATURES)

    class Baseline(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net(FEATURES, 1)

        def forward(self, x):
            return self.net(x).squeeze(-1)

    learned = Baseline()

    def model(x):
        pyro.module("decoder", decoder)
        with pyro.plate("data", x.shape[0]):
            c = pyro.sample("c", dist.Bernoulli(torch.full((x.shape[0], 5), 0.5)).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=decoder(c.to(x.dtype))).to_event(1), obs=x)

    def guide(x, observations=None):
        x = x if observations is None else observations["x"]
        pyro.module("encoder", encoder)
        infer = {}
        if baseline is not None:
            infer = {"baseline": baseline or {"nn_baseline": pyro.module("baseline", learned), "nn_baseline_input": x}}
        with pyro.plate("data", x.shape[0]):
            pyro.sample("c", dist.Bernoulli(logits=encoder(x)).to_event(1), infer=infer)

    return Case(elbo, model, guide, bits)


@case
def score_function() -> Case:
    return discrete(Trace_ELBO())


@case
def graph() -> Case:
    return discrete(TraceGraph_ELBO())


@case
def graph_with_learned_baseline() -> Case:
    return discrete(TraceGraph_ELBO(), {})


@case
def wake_sleep() -> Case:
    return discrete(ReweightedWakeSleep(num_particles=3, vectorize_particles=False))


@case
def wake_sleep_vectorized() -> Case:
    return discrete(ReweightedWakeSleep(num_particles=3, max_plate_nesting=1, insomnia=0.5))


def flow(make: Callable[[], Any], to_event: int = 0) -> Case:
    encoder, decoder, flows = net(FEATURES, 2 * LATENT), net(LATENT, FEATURES), [make(), make()]

    def model(x):
        pyro.module("decoder", decoder)
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", standard(x))
            pyro.sample("x", dist.Bernoulli(logits=decoder(z)).to_event(1), obs=x)

    def guide(x):
        pyro.module("encoder", encoder)
        for i, one in enumerate(flows):
            pyro.module(f"flow{i}", one)
        with pyro.plate("data", x.shape[0]):
            loc, log_scale = encoder(x).chunk(2, -1)
            q = dist.TransformedDistribution(dist.Normal(loc, log_scale.exp()), flows)
            pyro.sample("z", q.to_event(to_event))

    return Case(Trace_ELBO(), model, guide, bits)


@case
def planar() -> Case:
    return flow(lambda: transforms.planar(LATENT))


@case
def autoregressive() -> Case:
    return flow(lambda: transforms.affine_autoregressive(LATENT, hidden_dims=[8]))


@case
def coupling() -> Case:
    return flow(lambda: transforms.affine_coupling(LATENT, hidden_dims=[8]))


@case
def sylvester() -> Case:
    return flow(lambda: transforms.sylvester(LATENT, count_transforms=2))


@case
def spline() -> Case:
    return flow(lambda: transforms.spline(LATENT, count_bins=4, bound=0.5), to_event=1)


@case
def spline_coupling() -> Case:
    return flow(lambda: transforms.spline_coupling(LATENT, hidden_dims=[8], count_bins=4, bound=0.5))


@case
def spline_autoregressive() -> Case:
    return flow(lambda: transforms.spline_autoregressive(LATENT, hidden_dims=[8], count_bins=4, bound=0.5))


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


@refused("reads the value of a tensor.*test_recording.py:.*if x.mean")
def branch() -> Case:
    inner = vae()

    def model(x):
        if x.mean() > 0.1:
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


@refused("two recordings of one call hold different constants")
def own_numpy_generator() -> Case:
    inner, generator = vae(), np.random.default_rng(0)

    def model(x):
        pyro.factor("noise", torch.tensor(generator.random()))
        inner.model(x)

    return inner._replace(model=model)


@refused("two recordings of one call hold different constants.*Python counter")
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


@refused("boolean mask.*x\\[x.sum")
def boolean_index() -> Case:
    inner = vae()

    def model(x):
        pyro.factor("extra", x[x.sum(-1) > 4].sum())
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


def eager(one: Case, args: tuple[Any, ...], params: list[Tensor]) -> tuple[list[Tensor], list[Tensor | None]]:
    for p in params:
        p.grad = None
    loss = one.elbo.loss_and_grads(one.model, one.guide, *args)
    losses = [torch.as_tensor(part) for part in (loss if isinstance(loss, tuple) else (loss,))]
    grads = [None if p.grad is None else p.grad.clone() for p in params]
    return losses, grads


def settle(one: Case, args: tuple[Any, ...]) -> list[Tensor]:
    """Create what the programs create at their first step; return the parameters."""
    with poutine.trace(param_only=True) as capture:
        one.elbo.loss_and_grads(one.model, one.guide, *args)
    return list({id(p): p for p in (s["value"].unconstrained() for s in capture.trace.nodes.values())}.values())


def buffers(one: Case) -> list[Tensor]:
    return [b for module in Watch(one.model, one.guide).modules for b in module._buffers.values() if b is not None]


def assert_equals_eager(one: Case, compile: bool, tolerance: float, steps: int = 10) -> None:
    args = one.args()
    params = settle(one, args)

    def loss_and_grads(grads, *args):
        loss = one.elbo.loss_and_grads(one.model, one.guide, *args)
        return loss, list(grads)

    def reference(*args):
        losses, grads = eager(one, args, params)
        return (tuple(losses) if len(losses) > 1 else losses[0]), grads

    recording = record(loss_and_grads, args, reference=reference, params=params)
    if compile:
        assert recording.compile(*signature(args, {})[1]) is None
    state = buffers(one)
    for step in range(steps):
        args = one.args()
        before = [b.clone() for b in state]
        torch.manual_seed(step)
        losses, grads = eager(one, args, params)
        after = [b.clone() for b in state]
        for b, old in zip(state, before, strict=True):
            b.data.copy_(old)
        torch.manual_seed(step)
        loss, found = recording(*args)
        for a, b in zip(losses, loss if isinstance(loss, tuple) else (loss,), strict=True):
            assert float(abs(a - b)) <= tolerance * max(float(abs(a)), 1.0)
        assert [g is None for g in grads] == [g is None for g in found]
        norm = torch.stack([g.norm() for g in grads if g is not None]).norm()
        gap = torch.stack([(a - b).norm() for a, b in zip(grads, found, strict=True) if a is not None]).norm()
        assert float(gap) <= tolerance * float(norm)
        for b, new in zip(state, after, strict=True):
            torch.testing.assert_close(b, new)


@pytest.mark.parametrize("name", CASES)
def test_recording_equals_eager_pyro(name):
    assert_equals_eager(CASES[name](), compile=False, tolerance=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_recording_equals_eager_pyro_in_double_precision(name):
    torch.set_default_dtype(torch.float64)
    assert_equals_eager(CASES[name](), compile=False, tolerance=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["trace", "enumerated_in_model", "correlation", "batch_norm_and_dropout"])
def test_inductor_equals_eager_pyro(name):
    assert_equals_eager(CASES[name](), compile=True, tolerance=1e-5)


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.parametrize("name", CASES)
def test_inductor_equals_eager_pyro_in_double_precision(name):
    torch.set_default_dtype(torch.float64)
    assert_equals_eager(CASES[name](), compile=True, tolerance=1e-10)


@pytest.mark.parametrize("name", REFUSED)
def test_refused_programs_run_eagerly_and_say_why(name):
    reason, make = REFUSED[name]
    one = make()
    svi = SVI(one.model, one.guide, pyro.optim.Adam({"lr": 1e-3}), one.elbo, compile="recorded")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(3):
            svi.step(*one.args())
    (said,) = [str(w.message) for w in caught if w.category is EagerWarning]
    assert re.search(reason, said), said
    assert not svi.compiled
    assert svi.why_not is not None


def test_log_weights_can_be_recorded():
    one = vae()

    def log_weights(batch, particles):
        with torch.no_grad(), pyro.plate("particles", particles, dim=-2):
            guide = poutine.trace(one.guide).get_trace(batch["x"])
            model = poutine.trace(poutine.replay(one.model, trace=guide)).get_trace(batch["x"])
        guide.compute_log_prob()
        model.compute_log_prob()
        return sum(model.nodes[name]["log_prob"] for name in "zx") - guide.nodes["z"]["log_prob"]

    (x,) = one.args()
    recording = record(log_weights, ({"x": x},), {"particles": 4})
    for step in range(3):
        batch = {"x": one.args()[0]}
        torch.manual_seed(step)
        expected = log_weights(batch, 4)
        torch.manual_seed(step)
        found = recording(batch, particles=4)
        assert found.shape == (4, BATCH)
        torch.testing.assert_close(found, expected)


def test_two_arguments_may_be_the_same_tensor():
    x = torch.ones(3)
    recording = record(lambda a, b: a - 2 * b, (x, x))
    assert recording(x, 3 * x).tolist() == [-5.0] * 3


def test_constants_may_be_read():
    def ragged(x):
        mask = torch.arange(x.shape[0]) % 2 == 0
        return x[mask] * float(torch.tensor(2.0)) if mask.any() else x

    recording = record(ragged, (torch.ones(4),))
    assert recording(torch.arange(4.0)).tolist() == [0.0, 4.0]


def test_masked_assignment_has_a_fixed_shape():
    def clipped(x):
        out, mask = x * 2, x > 1
        out[mask] = x[mask]
        out[x < 0] = 0.5
        return out

    recording = record(clipped, (torch.ones(3),))
    assert recording(torch.tensor([3.0, 1.0, -1.0])).tolist() == [3.0, 2.0, 0.5]


def test_mask_selections_are_of_no_other_use():
    with pytest.raises(RecordingError, match="boolean mask"):
        record(lambda x: x[x > 0].sum(), (torch.ones(3),))

    def crossed(x):
        out = x.clone()
        out[x > 0] = x[x > 1]
        return out

    with pytest.raises(RecordingError, match="assigns what one boolean mask selects at another mask"):
        record(crossed, (torch.ones(3) * 2,))


def test_a_call_that_runs_twice_differently_is_no_constant():
    lengths = iter(range(1, 20))
    with pytest.raises(RecordingError, match="two recordings of one call differ"):
        record(lambda x: sum(x for _ in range(next(lengths))), (torch.ones(3),))


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_every_pair_of_the_zoo_trains_the_same_recorded(row):
    found = []
    for mode in ("off", "recorded"):
        pair, data = row.build().train(True), row.batch()
        optim = torch.optim.Adam(pair.named_parameters().values(), lr=1e-3)
        svi = SVI(pair.bound_model, pair.bound_guide, optim, pair.objective, compile=mode)
        torch.manual_seed(1)
        for step in range(4):
            loss = svi.step({name: values.roll(step, 0) for name, values in data.items()})
        found.append((loss, torch.cat([p.detach().flatten() for p in pair.named_parameters().values()])))
    assert svi.compiled, svi.why_not
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-10)
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-9, atol=1e-11)
