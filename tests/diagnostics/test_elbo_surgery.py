"""Where the KL goes, against the closed forms of Gaussians."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from truths import damaged, data, linear

import pyro_vae as pv
from pyro_vae.diagnostics.elbo_surgery import surgery
from pyro_vae.models.linear import LinearModel


@pytest.fixture
def model() -> LinearModel:
    return linear()


def test_the_parts_of_the_kl_add_up_and_agree_with_theory(model):
    def guide(x):
        with pyro.plate("data", len(x)):
            exact = model.posterior(x)
            pyro.sample("z", dist.Normal(exact.loc.detach(), exact.variance.sqrt().detach()).to_event(1))

    result = surgery(pv.Pair(model, guide), data(model, 400))
    assert result.information + result.marginal == pytest.approx(result.kl, abs=1e-10)
    assert result.correlation is not None
    assert result.correlation + result.dimensions.sum().item() == pytest.approx(result.marginal, abs=1e-5)
    exact = surgery(damaged(model, "none"), data(model, 1500))
    signal = torch.logdet(model.marginal().covariance_matrix) - 3 * math.log(0.49)
    assert exact.information == pytest.approx(0.5 * signal.item(), abs=0.12)  # I(x; z) of the linear model
    assert abs(exact.marginal) < 0.05  # the aggregate of exact posteriors is the prior
    assert exact.correlation is None  # the guide is not of independent dimensions
    collapsed = surgery(damaged(model, "collapse"), data(model, 400))
    assert collapsed.information < exact.information


def test_each_part_agrees_with_the_closed_form_of_gaussians(model):
    """q(z | x) = Normal(A x + b, S) of a diagonal S, and x Gaussian: q(z) is Gaussian, and all parts are KLs of Gaussians."""
    gain = torch.tensor([[0.6, 0.2, 0.0], [0.3, 0.5, 0.1]]).double()
    scale = torch.tensor([0.8, 0.6]).double()

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x @ gain.T + 0.2, scale).to_event(1))

    results = [surgery(pv.Pair(model, guide), data(model, 800), seed=seed) for seed in range(4)]
    covariance = gain @ model.marginal().covariance_matrix.detach() @ gain.T + scale.square().diag()
    loc = torch.full((2,), 0.2).double()
    variances = covariance.diagonal()
    information = 0.5 * (torch.logdet(covariance) - 2 * scale.log().sum())
    dimensions = 0.5 * (variances + loc**2 - 1 - variances.log())
    correlation = 0.5 * (variances.log().sum() - torch.logdet(covariance))

    def mean(part):
        return sum(part(result) for result in results) / len(results)

    assert mean(lambda r: r.information) == pytest.approx(information.item(), abs=0.05)
    assert mean(lambda r: r.correlation) == pytest.approx(correlation.item(), abs=0.05)
    assert mean(lambda r: r.marginal) == pytest.approx((dimensions.sum() + correlation).item(), abs=0.08)
    assert torch.allclose(mean(lambda r: r.dimensions), dimensions, atol=0.05)
    assert mean(lambda r: r.kl) == pytest.approx((information + dimensions.sum() + correlation).item(), abs=0.1)


@pytest.mark.parametrize("how", ["scale", "shift", "correlation"])
def test_the_aggregate_of_a_damaged_posterior_is_not_the_prior(model, how):
    assert surgery(damaged(model, how), data(model, 1000)).marginal > 0.05


def test_chunks_and_order_make_no_difference(model, monkeypatch):
    batch = data(model, 50)
    whole = surgery(damaged(model, "scale"), batch)
    monkeypatch.setattr("pyro_vae.diagnostics.elbo_surgery.MAX_PAIRS", 130)
    assert surgery(damaged(model, "scale"), batch)[:4] == pytest.approx(whole[:4], abs=1e-12)
    order = torch.randperm(50, generator=torch.Generator().manual_seed(0))
    other = surgery(damaged(model, "scale"), {"x": batch["x"][order]})
    assert other[:4] == pytest.approx(whole[:4], abs=0.3)  # other draws: one draw per datum has a spread of 1
