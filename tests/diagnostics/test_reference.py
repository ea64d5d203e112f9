"""What is exact: the grid and NUTS, against closed forms; and what refuses discrete latent variables."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from truths import DAMAGES, damaged, data, exact_guide, grid_evidence, linear, neural, rand

import pyro_vae as pv
from pyro_vae.diagnostics.elbo_surgery import surgery
from pyro_vae.diagnostics.inference_gaps import gaps
from pyro_vae.diagnostics.reference import Nuts, compare, grid_posterior, nuts
from pyro_vae.evidence import anneal
from pyro_vae.guides.linear import LinearGuide
from pyro_vae.models.linear import LinearModel
from pyro_vae.program import latents_of


@pytest.fixture
def model() -> LinearModel:
    return linear()


def test_the_grid_is_exact(model):
    batch = data(model, 5)
    grid = grid_posterior(pv.Pair(model, LinearGuide(model)), batch, points=150)
    exact = model.posterior(batch["x"])
    assert torch.allclose(grid.log_evidence, model.marginal().log_prob(batch["x"]), atol=1e-8)
    assert torch.allclose(grid.mean, exact.loc, atol=1e-8)
    assert torch.allclose(grid.covariance, exact.covariance_matrix.expand(5, 2, 2), atol=1e-8)
    assert grid.edge < 1e-6


def test_the_grid_of_a_neural_pair_is_that_of_the_references():
    pair, x = neural(), (rand(20, 8, seed=13) > 0).double()
    grid = grid_posterior(pair, {"x": x}, box=(-6.0, 6.0))
    assert torch.allclose(grid.log_evidence, grid_evidence(pair, x), atol=1e-10)
    order = torch.arange(19, -1, -1)
    assert torch.allclose(grid_posterior(pair, {"x": x[order]}, box=(-6.0, 6.0)).mean, grid.mean[order], atol=1e-10)
    few = grid_posterior(pair, {"x": x[:3]}, box=(-6.0, 6.0))  # other chunks
    assert torch.allclose(few.covariance, grid.covariance[:3], atol=1e-10)


def test_the_grid_refuses_more_than_two_dimensions():
    model = LinearModel(3, 4).double()
    with pytest.raises(pv.PairError, match="one or two latent dimensions, and there are 3"):
        grid_posterior(pv.Pair(model, LinearGuide(model)), {"x": torch.zeros(2, 4).double()})


def test_constrained_sites_are_sampled_in_unconstrained_space():
    """Gamma-Poisson is conjugate: p(x) is negative binomial."""

    def model(x):
        with pyro.plate("data", len(x)):
            rate = pyro.sample("rate", dist.Gamma(torch.tensor(3.0).double(), 2.0))
            pyro.sample("x", dist.Poisson(rate), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("rate", dist.Gamma(3.0 + x, 3.0))

    x = torch.tensor([0.0, 2.0, 5.0]).double()
    exact = dist.GammaPoisson(torch.tensor(3.0).double(), 2.0).log_prob(x)
    pair = pv.Pair(model, guide)
    assert torch.allclose(pv.log_weights(pair, {"x": x})[0], exact, atol=1e-10)
    space = latents_of(pair, {"x": x})
    u = space.from_guide(4)
    assert torch.allclose(space.log_joint(u) - space.log_q(u), exact.expand(4, 3), atol=1e-10)
    grid = grid_posterior(pair, {"x": x}, points=2000, box=(-8.0, 4.0))
    assert torch.allclose(grid.log_evidence, exact, atol=1e-6)


@pytest.mark.slow
def test_nuts_finds_the_posterior(model):
    batch = data(model, 1)
    exact = model.posterior(batch["x"])
    pair = pv.Pair(model, LinearGuide(model))
    result = nuts(pair, batch, chains=2, warmup=60, draws=200)
    error = (result.draws.mean((1, 2)) - exact.loc) / (exact.variance.sqrt() / result.ess.sqrt()[:, None])
    assert error.abs().max() < 4.5
    assert result.rhat.max() < 1.05
    assert compare(pair, batch, result)[0].pvalue > 0.01


@pytest.mark.parametrize("how", ["none", *DAMAGES])
def test_a_guide_is_told_from_draws_of_the_posterior_only_where_it_is_wrong(model, how):
    batch = data(model, 2)
    draws = model.posterior(batch["x"]).sample((4, 500)).detach().permute(2, 0, 1, 3)
    perfect = Nuts(draws, torch.ones(2), torch.full((2,), 1000.0))  # every second draw is used
    for test in compare(damaged(model, how), batch, perfect):
        assert test.pvalue > 0.01 if how == "none" else test.pvalue < 1e-3


@pytest.mark.slow
def test_nuts_agrees_with_the_grid_of_a_neural_pair():
    pair, x = neural(), (rand(1, 8, seed=13) > 0).double()
    grid = grid_posterior(pair, {"x": x}, box=(-6.0, 6.0))
    result = nuts(pair, {"x": x}, chains=2, warmup=60, draws=150)
    spread = grid.covariance.diagonal(dim1=1, dim2=2).sqrt()
    assert ((result.draws.mean((1, 2)) - grid.mean).abs() < 4.5 * spread / result.ess.sqrt()).all()
    assert compare(exact_guide(pair), {"x": x}, result)[0].pvalue > 0.01


def test_discrete_latents_are_refused_where_a_continuous_method_is_asked_for():
    def model(x):
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", dist.Bernoulli(0.5))
            pyro.sample("x", dist.Normal(c, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("c", dist.Bernoulli(0.5))

    for method in (anneal, grid_posterior, nuts, surgery):
        with pytest.raises(
            pv.PairError, match="site 'c' is discrete, and this method needs continuous latent variables"
        ):
            method(pv.Pair(model, guide), {"x": torch.zeros(3)})
    with pytest.raises(pv.PairError, match="site 'c' has no reparameterised draws"):
        gaps(pv.Pair(model, guide), {"x": torch.zeros(3)})
