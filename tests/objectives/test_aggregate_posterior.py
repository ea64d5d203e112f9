"""Objectives of the aggregate posterior: their estimators, against values that are known."""

import math
from collections.abc import Iterator

import pyro
import pyro.distributions as dist
import pyro.poutine as poutine
import pytest
import torch
from linear_pairs import FEATURES, pair
from pyro.infer import Trace_ELBO
from pyro.nn import PyroModule
from torch import Tensor

from pyro_vae.objectives import MaximumMeanDiscrepancy, TotalCorrelation, squared_mmd, stratified_weights


@pytest.fixture(autouse=True)
def own_store() -> Iterator[None]:
    """The programs run bare here, so what they register goes to a store of the test's."""
    with pyro.get_param_store().scope():
        yield


def test_total_correlation_of_beta_one_is_the_elbo() -> None:
    model, guide, x = pair()
    losses = []
    for objective in (TotalCorrelation(num_data=100, beta=1.0), Trace_ELBO()):
        torch.manual_seed(1)
        losses.append(objective.differentiable_loss(model, guide, x))
    torch.testing.assert_close(losses[0], losses[1])


def test_stratified_weights_estimate_the_aggregate_posterior_without_bias() -> None:
    _model, guide, _ = pair()
    data = torch.randn(40, FEATURES).double()
    loc, scale = guide.net(data).detach(), guide.log_spread.exp().detach()
    z = (loc[0] + scale * 0.3).detach()
    truth = dist.Normal(loc, scale).log_prob(z).sum(-1).exp().mean().item()
    others = 1 + torch.rand(20_000, 39).argsort(-1)[:, :4]  # batches of five, datum 0 in each
    order = torch.cat([torch.zeros(20_000, 1, dtype=torch.long), others], -1)
    density = dist.Normal(loc[order], scale).log_prob(z).sum(-1).exp()
    found = (stratified_weights(5, 40)[0] * density).sum(-1)
    assert found.mean().item() == pytest.approx(truth, abs=4 * found.std().item() / math.sqrt(len(found)))


def test_total_correlation_is_that_of_a_gaussian() -> None:
    """Codes of correlation rho have TC -log(1 - rho^2) / 2; narrow posteriors at draws of it show nearly that."""
    torch.manual_seed(0)
    rho, n = 0.8, 1500
    codes = dist.MultivariateNormal(torch.zeros(2), torch.tensor([[1.0, rho], [rho, 1.0]])).sample((n,)).double()

    class Codes(PyroModule):
        def forward(self, x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(x, 0.25).to_event(1))

    trace = poutine.trace(Codes()).get_trace(codes)
    objective = TotalCorrelation(num_data=n)
    objective.max_plate_nesting = 1
    wide = rho / (1 + 0.25**2)
    expected = -0.5 * math.log(1 - wide**2)
    assert objective.total_correlation(trace).mean().item() == pytest.approx(expected, abs=0.08)


def test_squared_mmd_is_the_mean_over_pairs() -> None:
    a, b = torch.randn(5, 3).double(), torch.randn(5, 3).double() + 1

    def kernel(u: Tensor, v: Tensor) -> Tensor:
        return 6 / (6 + (u - v).square().sum())

    pairs = [(i, j) for i in range(5) for j in range(5)]
    expected = sum((kernel(a[i], a[j]) + kernel(b[i], b[j])) / 20 for i, j in pairs if i != j)
    expected -= 2 * sum(kernel(a[i], b[j]) / 25 for i, j in pairs)
    torch.testing.assert_close(squared_mmd(a, b), expected)


def test_mmd_leaves_a_guide_alone_whose_codes_are_draws_of_the_prior() -> None:
    model, guide, _ = pair(exact=True)
    with torch.no_grad():
        x = poutine.uncondition(model)(torch.zeros(1000, FEATURES).double())
        values = [MaximumMeanDiscrepancy(weight=1.0).differentiable_loss(model, guide, x) for _ in range(1)]
        z = guide(x)
    assert abs(squared_mmd(z, torch.randn_like(z))) < 2e-3 < squared_mmd(z + 0.3, torch.randn_like(z))
    assert values[0].isfinite()
