"""Probabilistic PCA and factor analysis against their closed forms (REFERENCES: Tipping & Bishop 1999)."""

import math

import pyro
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA, FactorAnalysis
from tables import only

import pyro_vae as pv
from pyro_vae.conditionals import MLP, Conditional, FullCovariance, Normal
from pyro_vae.evidence import maximum_likelihood
from pyro_vae.guides.latent import LatentGuide
from pyro_vae.guides.linear import LinearGuide
from pyro_vae.models.linear import LinearModel

GOLDEN = {2: (0.054117, 0.005707), 5: (0.036197, 8.907637), 10: (0.022751, 17.451947), 20: (0.011274, 27.277300)}
GAPS = {5: 0.110, 10: 0.772, 20: 3.49}  # of a diagonal guide, nats per datum


@pytest.fixture(scope="module")
def digits() -> torch.Tensor:
    return torch.tensor(load_digits().data / 16)


def solved(x: torch.Tensor, latent: int, *, rotate: bool = False) -> LinearModel:
    solution = maximum_likelihood(x, latent)
    model = LinearModel(latent, x.shape[1]).double().set_to(solution)
    if rotate:
        generator = torch.Generator().manual_seed(latent)
        rotation = torch.linalg.qr(torch.randn(latent, latent, generator=generator, dtype=torch.float64)).Q
        with torch.no_grad():
            model.weight.copy_(model.weight @ rotation)
    return model


@pytest.mark.parametrize("latent", GOLDEN)
def test_maximum_likelihood_has_the_golden_values(digits, latent):
    variance, log_likelihood = GOLDEN[latent]
    solution = maximum_likelihood(digits, latent)
    assert solution.scale**2 == pytest.approx(variance, abs=5e-7)
    assert solution.log_likelihood == pytest.approx(log_likelihood, abs=5e-7)
    model = solved(digits, latent)
    assert model.marginal().log_prob(digits).mean().item() == pytest.approx(solution.log_likelihood, abs=1e-10)


def test_maximum_likelihood_agrees_with_scikit_learn(digits):
    """Which divides the covariance by n - 1: a difference of 5e-6 nats."""
    theirs = PCA(10, svd_solver="full").fit(digits.numpy()).score(digits.numpy())
    assert maximum_likelihood(digits, 10).log_likelihood == pytest.approx(theirs, abs=1e-5)


@pytest.mark.parametrize("latent", GOLDEN)
def test_with_the_exact_posterior_every_single_draw_gives_log_p(digits, latent):
    model = solved(digits, latent, rotate=True)
    log_w = pv.log_weights(pv.Pair(model, LinearGuide(model)), {"x": digits[:300]}, 5)
    assert log_w.shape == (5, 300)
    exact = model.marginal().log_prob(digits[:300])
    assert (log_w - exact).abs().max().item() < 1e-10


def test_factor_analysis_agrees_with_scikit_learn(digits):
    x = digits[:300]
    x = x[:, x.std(0) > 0.05]
    fitted = FactorAnalysis(5).fit(x.numpy())
    model = LinearModel(5, x.shape[1], noise=x.shape[1]).double()
    with torch.no_grad():
        model.weight.copy_(torch.tensor(fitted.components_.T.copy()))
        model.loc.copy_(torch.tensor(fitted.mean_))
        model.log_scale.copy_(0.5 * torch.tensor(fitted.noise_variance_).log())
    assert model.marginal().log_prob(x).mean().item() == pytest.approx(fitted.score(x.numpy()), abs=1e-9)
    log_w = pv.log_weights(pv.Pair(model, LinearGuide(model)), {"x": x[:50]}, 2)
    assert (log_w - model.marginal().log_prob(x[:50])).abs().max().item() < 1e-10


@pytest.mark.parametrize("latent", only(GAPS, [10]))
def test_a_diagonal_guide_on_a_rotated_model_has_the_gap_of_theory(digits, latent):
    """1/2 (sum log L_jj - log det L) with L = I + W'W / s2, at its best: scales 1 / sqrt(L_jj)."""
    model = solved(digits, latent, rotate=True)
    precision = torch.eye(latent).double() + model.weight.T @ model.weight / (2 * model.log_scale).exp()
    gap = 0.5 * (precision.diagonal().log().sum() - torch.logdet(precision)).item()

    def guide(x):
        with pyro.plate("data", len(x)):
            exact = model.posterior(x)
            pyro.sample("z", pyro.distributions.Normal(exact.loc, precision.diagonal().rsqrt()).to_event(1))

    x = {"x": digits}
    table = pv.elbo(pv.Pair(model, guide), x, num_samples=64)
    evidence = model.marginal().log_prob(digits).mean().item()
    assert evidence - table.elbo == pytest.approx(gap, abs=0.02)
    assert gap > 0.05


def test_the_gap_has_the_golden_values_averaged_over_rotations(digits):
    """The figures given are for one rotation; the mean over many must be near them."""
    for latent, golden in GAPS.items():
        solution = maximum_likelihood(digits, latent)
        base = solution.weight.T @ solution.weight / solution.scale**2
        gaps = []
        for seed in range(200):
            noise = torch.randn(latent, latent, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
            q = torch.linalg.qr(noise).Q
            precision = torch.eye(latent).double() + q.T @ base @ q
            gaps.append(0.5 * (precision.diagonal().log().sum() - torch.logdet(precision)).item())
        gaps = torch.tensor(gaps)
        assert (gaps.mean() - golden).abs() < 3 * gaps.std()


@pytest.mark.slow
def test_svi_reaches_the_closed_form_from_below_and_finds_the_principal_subspace(digits):
    """A linear guide with full covariance can be exact, so the ELBO can reach the maximum likelihood."""
    latent = 5
    solution = maximum_likelihood(digits, latent)
    torch.manual_seed(0)
    model = LinearModel(latent, 64).double()
    head = FullCovariance(latent)
    guide = LatentGuide(Conditional(MLP(64, head.size, ()), head).double())
    pair = pv.Pair(model, guide)
    with torch.no_grad():
        model.loc.copy_(digits.mean(0))
    optimizer = torch.optim.Adam(pair.named_parameters().values(), lr=0.02)
    steps = 1500
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 0.02 * (1 - step / steps)
        optimizer.zero_grad()
        loss = pair.objective.differentiable_loss(pair.bound_model, pair.bound_guide, {"x": digits})
        (loss / len(digits)).backward()
        optimizer.step()
    reached = pv.elbo(pair, {"x": digits}, num_samples=20).elbo
    assert solution.log_likelihood - 0.15 < reached < solution.log_likelihood + 0.02
    learned = torch.linalg.qr(model.weight.detach()).Q
    cosines = torch.linalg.svdvals(learned.T @ torch.linalg.qr(solution.weight).Q)
    assert torch.arccos(cosines.clamp(max=1)).max().item() < math.radians(5)


def test_a_dimension_collapses_exactly_when_its_variance_is_below_the_noise():
    """With the noise held at s2, W = 0 in direction j is the optimum if and only if l_j <= s2."""
    torch.manual_seed(0)
    variances = torch.tensor([3.0, 2.0, 0.9, 0.5], dtype=torch.float64)
    x = torch.randn(4000, 4, dtype=torch.float64)
    x = (x - x.mean(0)) @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(x.T, correction=0))).T * variances.sqrt()
    model = LinearModel(4, 4).double()
    with torch.no_grad():
        model.log_scale.zero_()
        model.loc.zero_()
        model.weight.copy_(torch.eye(4) + 0.1 * torch.randn(4, 4))
    model.log_scale.requires_grad_(False)
    optimizer = torch.optim.LBFGS([model.weight], max_iter=300, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = -model.marginal().log_prob(x).mean()
        value.backward()
        return value

    optimizer.step(loss)
    lengths = torch.linalg.eigvalsh((model.weight @ model.weight.T).detach()).flip(0)
    assert torch.allclose(lengths, (variances - 1).clamp(min=0), atol=1e-3)


def test_the_noise_may_be_one_or_one_a_feature():
    with pytest.raises(ValueError, match="1 or features = 64, got 3"):
        LinearModel(2, 64, noise=3)


@pytest.mark.parametrize("latent", [0, 64, 70])
def test_too_many_directions_are_refused(digits, latent):
    with pytest.raises(ValueError, match="0 < latent < features = 64"):
        maximum_likelihood(digits, latent)


def test_a_predicted_diagonal_head_is_a_mean_field_guide(digits):
    """Its best gap on an unrotated model is 0: the posterior is diagonal."""
    model = solved(digits, 5)
    guide = LatentGuide(Conditional(MLP(64, 10, ()), Normal(5)).double())
    precision = 1 + (model.weight**2).sum(0) / (2 * model.log_scale).exp()
    mapping = model.weight / (2 * model.log_scale).exp() / precision
    with torch.no_grad():
        last = guide.encoder.net.last
        last.weight[:5], last.bias[:5] = mapping.T, -model.loc @ mapping
        last.weight[5:] = 0
        last.bias[5:] = guide_raw(precision.rsqrt())
    log_w = pv.log_weights(pv.Pair(model, guide), {"x": digits[:100]}, 3)
    assert (log_w - model.marginal().log_prob(digits[:100])).abs().max().item() < 1e-6


def guide_raw(scale: torch.Tensor) -> torch.Tensor:
    from pyro_vae.conditionals import from_scale

    return from_scale(scale)
