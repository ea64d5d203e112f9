"""Every diagnostic both ways: it passes the exact posterior, and rejects a scale of 0.7, a shift, a lost correlation, a collapse.

The pair is linear-Gaussian with a posterior of correlation -0.8, so that what is exact and what is damaged are known. Rates over many
trials are in docs/diagnostics.md; ``benchmarks/diagnostics_rates.py`` measures them.
"""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyro_vae as pv
from pyro_vae.annealing import anneal, sandwich, schedule
from pyro_vae.calibration import calibrate, uniform
from pyro_vae.criticism import (
    disentanglement,
    frechet,
    neighbours,
    pixel_calibration,
    predictive_checks,
    probes,
    two_sample,
)
from pyro_vae.gaps import gaps, refit_guide
from pyro_vae.guides.linear import LinearGuide
from pyro_vae.models.linear import LinearModel
from pyro_vae.reference import grid_posterior, nuts
from pyro_vae.space import latents_of, simulate
from pyro_vae.surgery import surgery

DAMAGES = ("scale", "shift", "correlation", "collapse")


def linear() -> LinearModel:
    with torch.random.fork_rng():
        model = LinearModel(2, 3).double()
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 0.9], [0.9, 1.0], [0.2, -0.2]]))
        model.log_scale.fill_(math.log(0.7))
    return model


def damaged(model: LinearModel, how: str) -> pv.Pair:
    """The model with its exact posterior, damaged in one way."""

    def guide(x):
        with pyro.plate("data", len(x)):
            exact = model.posterior(x)
            loc, tril = exact.loc.detach(), exact.scale_tril.detach()
            std = exact.variance.sqrt().detach()
            if how == "scale":
                tril = 0.7 * tril
            if how == "shift":
                loc = loc + 0.4 * std
            if how == "correlation":  # the same spread in every dimension
                tril = torch.diag_embed(std)
            if how == "collapse":  # the second dimension is its prior
                loc = loc * torch.tensor([1.0, 0.0]).double()
                tril = torch.diag_embed(torch.stack([std[..., 0], torch.ones_like(std[..., 0])], -1))
            pyro.sample("z", dist.MultivariateNormal(loc, scale_tril=tril))

    return pv.Pair(model, guide)


@pytest.fixture
def model() -> LinearModel:
    return linear()


def data(model: LinearModel, count: int) -> dict[str, torch.Tensor]:
    return {"x": model.marginal().sample((count,)).detach()}


# --- calibration ------------------------------------------------------------------------------------------------------


def test_the_exact_posterior_is_calibrated(model):
    ranks, coverage = calibrate(damaged(model, "none"), data(model, 1000))
    assert set(ranks.ranks) == {"log p(x, z)", "z[0]", "z[1]"}
    assert ranks.pvalue > 0.01
    assert coverage.pvalue > 0.01
    assert coverage.at(0.9) == pytest.approx(0.9, abs=0.03)
    assert all(r.min() >= 0 and r.max() <= 63 for r in ranks.ranks.values())


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_posterior_is_not(model, how):
    ranks, _ = calibrate(damaged(model, how), data(model, 1000))
    assert ranks.pvalue < 1e-4
    if how in ("correlation", "collapse"):  # no dimension alone shows it
        assert ranks.worst == "log p(x, z)"


def test_coverage_sees_a_narrow_posterior(model):
    _, coverage = calibrate(damaged(model, "scale"), data(model, 1000))
    assert coverage.pvalue < 1e-6
    assert coverage.at(0.9) < 0.85


def test_discrete_latents_are_calibrated_too():
    weights = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    centres = torch.tensor([-1.0, 0.0, 1.5]).double()

    def model(x):
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", dist.Categorical(weights))
            pyro.sample("x", dist.Normal(centres[c], 0.7), obs=x)

    def guide(power):
        def run(x):
            logits = weights.log() + dist.Normal(centres, 0.7).log_prob(x[:, None])
            with pyro.plate("data", len(x)):
                pyro.sample("c", dist.Categorical(logits=power * logits))

        return run

    batch = {"x": torch.zeros(2000).double()}
    assert calibrate(pv.Pair(model, guide(1.0)), batch)[0].pvalue > 0.01
    assert calibrate(pv.Pair(model, guide(2.0)), batch)[0].pvalue < 1e-4


@pytest.mark.usefixtures("unchanged_random_state")
def test_calibration_can_be_repeated_and_leaves_no_trace(model):
    first, second = (calibrate(damaged(model, "none"), {"x": torch.zeros(50, 3).double()})[0] for _ in range(2))
    assert all(torch.equal(first.ranks[name], second.ranks[name]) for name in first.ranks)


def test_arviz_draws_the_ranks(model):
    az = pytest.importorskip("arviz", reason="draws the ranks")
    import matplotlib
    import matplotlib.pyplot as plt

    backend = matplotlib.get_backend()
    matplotlib.use("agg")
    try:
        az.plot_ecdf_pit(calibrate(damaged(model, "none"), data(model, 200))[0].to_datatree())
    finally:
        plt.close("all")
        matplotlib.use(backend)


def test_the_uniformity_test_is_honest():
    generator = torch.Generator().manual_seed(0)
    pvalues = [uniform(torch.randint(0, 64, (500,), generator=generator), 64) for _ in range(400)]
    assert sum(p < 0.05 for p in pvalues) / 400 == pytest.approx(0.05, abs=0.035)
    assert uniform(torch.zeros(500), 64) < 1e-10


def test_a_model_that_cannot_be_simulated_is_named():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=2 * x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x, 1.0))

    pair = pv.Pair(model, guide)
    batch = {"data": torch.zeros(4), "x": torch.zeros(4)}
    drawn, _ = simulate(pair, batch)
    assert drawn["x"].shape == (4,)

    def other(y):
        with pyro.plate("data", len(y)):
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=2 * y)

    with pytest.raises(
        pv.PairError, match=r"cannot be simulated: its observed site 'x' is no field of the batch \(y\)"
    ):
        simulate(pv.Pair(other, lambda y: None), {"y": torch.zeros(4)})


# --- references -------------------------------------------------------------------------------------------------------


def test_the_grid_is_exact(model):
    batch = data(model, 5)
    grid = grid_posterior(pv.Pair(model, LinearGuide(model)), batch, points=150)
    exact = model.posterior(batch["x"])
    assert torch.allclose(grid.log_evidence, model.marginal().log_prob(batch["x"]), atol=1e-8)
    assert torch.allclose(grid.mean, exact.loc, atol=1e-8)
    assert torch.allclose(grid.covariance, exact.covariance_matrix.expand(5, 2, 2), atol=1e-8)
    assert grid.edge < 1e-6


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


def test_annealing_agrees_with_the_closed_form_and_the_bounds_hold_it(model):
    batch = data(model, 8)
    exact = model.marginal().log_prob(batch["x"]).detach()
    pair = pv.Pair(model, damaged(model, "collapse").guide)  # the guide is not used
    result = anneal(pair, batch, temperatures=60, chains=16, leapfrog=5)
    assert ((result.estimate - exact).abs() < 4.5 * result.stderr + 0.05).all()
    assert 0.4 < result.acceptance.mean() < 0.95
    bounds = sandwich(pair, batch, temperatures=60, chains=16, leapfrog=5)
    drawn, _ = simulated(pair, batch)
    truth = model.marginal().log_prob(drawn["x"]).detach()
    assert bounds.lower.mean() < truth.mean() + 0.05
    assert bounds.upper.mean() > truth.mean() - 0.05
    assert bounds.gap < 0.6


def simulated(pair, batch):
    from pyro_vae.weights import evaluation

    with evaluation(pair, 0):
        return simulate(pair, batch)


def test_the_schedule_goes_from_prior_to_posterior():
    betas = schedule(10)
    assert (betas[0], betas[-1]) == (0.0, 1.0)
    assert betas == sorted(betas)
    with pytest.raises(ValueError, match="temperatures must be at least 1, got 0"):
        schedule(0)


@pytest.mark.slow
def test_nuts_finds_the_posterior(model):
    batch = data(model, 1)
    exact = model.posterior(batch["x"])
    result = nuts(pv.Pair(model, LinearGuide(model)), batch, chains=2, warmup=100, draws=300)
    error = (result.draws.mean((1, 2)) - exact.loc) / (exact.variance.sqrt() / result.ess.sqrt()[:, None])
    assert error.abs().max() < 4.5
    assert result.rhat.max() < 1.05


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


# --- gaps and surgery -------------------------------------------------------------------------------------------------


def test_an_exact_guide_has_no_gaps_and_a_narrow_one_only_an_amortization_gap(model):
    batch = data(model, 20)
    exact = gaps(damaged(model, "none"), batch, steps=5, num_samples=200)
    assert abs(exact.approximation) < 0.02
    assert abs(exact.amortization) < 0.02
    narrow = gaps(damaged(model, "scale"), batch, steps=150, num_samples=1000)
    closed = 2 * (0.5 * 0.49 - 0.5 - math.log(0.7))  # KL of a Gaussian of 0.7 times the scale
    assert narrow.amortization == pytest.approx(closed, abs=0.05)
    assert narrow.approximation < 0.05


def test_a_diagonal_guide_has_the_approximation_gap_of_theory(model):
    batch = data(model, 20)

    def guide(x):
        with pyro.plate("data", len(x)):
            exact = model.posterior(x)
            pyro.sample("z", dist.Normal(exact.loc.detach(), exact.variance.sqrt().detach()).to_event(1))

    result = gaps(pv.Pair(model, guide), batch, steps=200, num_samples=2000)
    precision = model.posterior(batch["x"]).precision_matrix.detach()[0]
    closed = 0.5 * (precision.diagonal().log().sum() - torch.logdet(precision)).item()
    assert result.approximation == pytest.approx(closed, abs=0.05)
    assert result.amortization > 0.1  # the marginal scale is wider than the best mean-field one


def test_gaps_leave_the_pair_as_it_was(model):
    pair = pv.Pair(model, LinearGuide(model))
    before = {name: tensor.clone() for name, tensor in pair.state_dict().items()}
    gaps(pair, data(model, 3), steps=3, num_samples=10)
    assert all(torch.equal(before[name], tensor) for name, tensor in pair.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in pair.named_parameters().values())


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


def test_refitting_helps_a_bad_guide_and_leaves_it_as_it_was(model):
    from pyro_vae.conditionals import MLP, Conditional, FullCovariance
    from pyro_vae.guides.latent import LatentGuide

    head = FullCovariance(2)
    pair = pv.Pair(model, LatentGuide(Conditional(MLP(3, head.size, ()), head).double()))
    before = {name: tensor.clone() for name, tensor in pair.state_dict().items()}
    batches = (data(model, 100) for _ in range(150))
    result = refit_guide(pair, batches, data(model, 200), lr=0.05)
    assert result.gain > 0.3
    assert all(torch.equal(before[name], tensor) for name, tensor in pair.state_dict().items())
    with pytest.raises(pv.PairError, match="has no parameters of its own"):
        refit_guide(pv.Pair(model, LinearGuide(model)), [], data(model, 5))


# --- criticism --------------------------------------------------------------------------------------------------------


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_a_classifier_tells_only_what_differs():
    first, second = normal(1500, 4), normal(1500, 4, seed=1)
    assert two_sample(first, second).pvalue > 0.01
    mixed = second.clone()
    mixed[:, 1] = 0.8 * mixed[:, 0] + 0.6 * mixed[:, 1]
    for other in (0.7 * second, second + 0.4, mixed, second * torch.tensor([1.0, 1.0, 1.0, 0.0]).double()):
        assert two_sample(first, other).pvalue < 1e-3


def test_predictive_checks_see_a_scale_and_accept_the_model():
    sets = normal(50, 200, 6)
    assert min(check.pvalue for check in predictive_checks(normal(200, 6, seed=2), sets).values()) > 0.03
    wrong = predictive_checks(0.7 * normal(200, 6, seed=2), sets)["standard deviation of a feature"]
    assert wrong.pvalue < 0.05
    assert abs(wrong.observed - wrong.expected) > 6 * wrong.spread


def test_pixels_are_calibrated_where_probabilities_are_frequencies():
    p = torch.rand(2000, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = torch.bernoulli(p, generator=torch.Generator().manual_seed(1))
    assert pixel_calibration(p, x).error < 0.01
    assert pixel_calibration((p > 0.5).double() * 0.98 + 0.01, x).error > 0.1


def test_the_frechet_distance_is_that_of_gaussians():
    first, second = normal(4000, 3), 2 * normal(4000, 3, seed=1) + 1
    assert frechet(first, first) == pytest.approx(0.0, abs=1e-9)
    assert frechet(first, second) == pytest.approx(3 * 1 + 3 * (2 - 1) ** 2, rel=0.05)


def test_copies_are_nearer_than_held_out_data():
    train, test = normal(500, 5), normal(500, 5, seed=1)
    assert neighbours(normal(500, 5, seed=2), train, test).closer == pytest.approx(0.05, abs=0.05)
    assert neighbours(train[:200] + 1e-3, train, test).closer == 1.0


def test_probes_and_disentanglement():
    y = torch.arange(600) % 3
    codes = normal(600, 4)
    codes[:, 0] += 4 * y
    assert min(probes(codes[:300], y[:300], codes[300:], y[300:]).values()) > 0.9
    assert max(probes(normal(300, 4), y[:300], normal(300, 4, seed=1), y[300:]).values()) < 0.5
    assert disentanglement(codes, y[:, None]) > 0.5
    mixed = codes.clone()
    mixed[:, 1] += 4 * y
    assert disentanglement(mixed, y[:, None]) < 0.1
    with pytest.raises(ValueError, match="compares two latent dimensions, and there are 1"):
        disentanglement(codes[:, :1], y[:, None])
