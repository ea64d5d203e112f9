"""Weights of sites: per datum, tempered, free bits; on programs of every layout."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO

import pyro_vae as pv
from pyro_vae.guides.linear import LinearGuide
from pyro_vae.models.linear import LinearModel
from pyro_vae.program.handlers import FreeBits, PerDatum, Tempered, Wrapped

N, B, D = 40, 8, 3


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(N, D, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def under(handler, program):
    return Wrapped(program, handler)


def linear() -> tuple[LinearModel, LinearGuide]:
    model = LinearModel(2, D).double()
    return model, LinearGuide(model)


def global_model(x):
    mu = pyro.sample("mu", dist.Normal(torch.zeros(D).double(), 2.0).to_event(1))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(mu, 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z, 0.5).to_event(1), obs=x)


def global_guide(x):
    pyro.sample("mu", dist.Delta(torch.full((D,), 0.3).double()).to_event(1))
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Delta(0.5 * x).to_event(1))


def subsampled_model(x):
    mu = pyro.sample("mu", dist.Normal(torch.zeros(D).double(), 2.0).to_event(1))
    with pyro.plate("data", N, subsample=torch.arange(len(x))):
        z = pyro.sample("z", dist.Normal(mu, 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z, 0.5).to_event(1), obs=x)


def subsampled_guide(x):
    pyro.sample("mu", dist.Delta(torch.full((D,), 0.3).double()).to_event(1))
    with pyro.plate("data", N, subsample=torch.arange(len(x))):
        pyro.sample("z", dist.Delta(0.5 * x).to_event(1))


def loss(model, guide, *args) -> float:
    pyro.clear_param_store()
    value = Trace_ELBO().loss(model, guide, *args)
    pyro.clear_param_store()
    return value


def test_local_sites_alone_give_the_mean_over_the_batch(x):
    model, guide = linear()
    per_datum = lambda: PerDatum(N)  # noqa: E731
    value = loss(under(per_datum, model), under(per_datum, guide), x[:B])
    assert value == pytest.approx(-model.marginal().log_prob(x[:B]).mean().item(), abs=1e-10)


@pytest.mark.parametrize(
    ("model", "guide"),
    [(global_model, global_guide), (subsampled_model, subsampled_guide)],
    ids=["plain", "subsampled"],
)
def test_subsamples_average_to_the_whole_with_global_sites(x, model, guide):
    """The ELBO of all data, divided by N; also when the program's own plate has scaled up already."""
    handler = lambda: PerDatum(N)  # noqa: E731
    whole = loss(global_model, global_guide, x) / N
    parts = [loss(under(handler, model), under(handler, guide), x[start : start + B]) for start in range(0, N, B)]
    assert sum(parts) / len(parts) == pytest.approx(whole, abs=1e-10)


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0, 4.0])
def test_tempering_weighs_the_kl_and_nothing_else(x, beta):
    model, guide = linear()
    weight = torch.tensor(beta, dtype=torch.float64)
    handler = lambda: Tempered(weight)  # noqa: E731
    torch.manual_seed(0)
    value = loss(under(handler, model), under(handler, guide), x)
    torch.manual_seed(0)
    sites = {}
    guide_trace = pyro.poutine.trace(guide).get_trace(x)
    model_trace = pyro.poutine.trace(pyro.poutine.replay(model, trace=guide_trace)).get_trace(x)
    pyro.clear_param_store()
    for name, trace in (("q", guide_trace), ("p", model_trace)):
        trace.compute_log_prob()
        for site in ("z", "x"):
            if site in trace.nodes:
                sites[name, site] = trace.nodes[site]["log_prob_sum"].item()
    expected = sites["p", "x"] + beta * (sites["p", "z"] - sites["q", "z"])
    assert value == pytest.approx(-expected, abs=1e-9)


@pytest.mark.parametrize("nats", [0.0, 0.5, 100.0])
def test_free_bits_is_the_maximum_of_the_kl_and_the_floor(x, nats):
    model, guide = linear()
    free, per_datum = FreeBits(nats), lambda: PerDatum(N)
    wrapped = under(per_datum, model), under(per_datum, guide)
    torch.manual_seed(0)
    plain = Trace_ELBO().differentiable_loss(*wrapped, x)
    torch.manual_seed(0)
    value = Trace_ELBO().differentiable_loss(free.model(wrapped[0]), free.guide(wrapped[1]), x)
    torch.manual_seed(0)
    kl = single_draw_kl(guide, model, x)
    assert value.item() == pytest.approx(plain.item() + max(0.0, nats - kl), abs=1e-9)
    gradient = torch.autograd.grad(value, model.weight)[0]
    torch.manual_seed(0)
    floor_only = torch.autograd.grad(Trace_ELBO().differentiable_loss(*wrapped, x), model.weight)[0]
    assert torch.allclose(gradient, floor_only) == (kl >= nats)
    pyro.clear_param_store()


def single_draw_kl(guide, model, x) -> float:
    q = guide.posterior(x)
    torch.manual_seed(0)
    z = pyro.poutine.trace(guide).get_trace(x).nodes["z"]["value"]
    p = dist.Normal(torch.zeros(2).double(), 1.0).to_event(1)
    return (q.log_prob(z) - p.log_prob(z)).mean().item()


def test_free_bits_averages_over_vectorized_particles(x):
    model, guide = linear()
    free, per_datum = FreeBits(1000.0), lambda: PerDatum(N)
    elbo = Trace_ELBO(num_particles=7, vectorize_particles=True, max_plate_nesting=1)
    wrapped = under(per_datum, model), under(per_datum, guide)
    torch.manual_seed(0)
    value = elbo.loss(free.model(wrapped[0]), free.guide(wrapped[1]), x)
    torch.manual_seed(0)
    reconstruction = value - 1000.0
    assert -20 < reconstruction < 200
    pyro.clear_param_store()


def test_negative_free_bits_are_refused():
    with pytest.raises(ValueError, match="cannot be negative, got -1"):
        FreeBits(-1)


def test_a_pairs_programs_get_the_fields_that_they_name():
    pair = pv.Pair(lambda x, y=None: y, lambda x: x)
    batch = {"x": torch.zeros(2, 1), "y": torch.ones(2), "extra": torch.zeros(2)}
    assert pair.bound_model(batch) is batch["y"]
    assert pair.bound_guide(batch) is batch["x"]
    assert pair.fields == ("x", "y")
    with pytest.raises(pv.PairError, match="needs the field 'x'"):
        pair.bound_guide({"y": torch.zeros(2)})
