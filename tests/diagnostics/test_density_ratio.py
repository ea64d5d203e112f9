"""Density ratios by telling draws apart: closed forms of Gaussians, errors that are believed, and refusals."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from tables import some
from torch import Tensor

import pyro_vae as pv
from pyro_vae.diagnostics.density_ratios import _slope
from pyro_vae.objectives import critic_gain, divergence_bound


def normal(mean: float, std: float, count: int, seed: int) -> Tensor:
    return mean + std * torch.randn(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def log_ratio(x: Tensor, mean: float, std: float) -> Tensor:
    """log N(x; mean, std) / N(x; 0, 1)"""
    return (x**2 - ((x - mean) / std) ** 2) / 2 - math.log(std)


def gain_of(critic, mean: float, std: float) -> float:
    """Return log 2 - the critic's loss for N(mean, std) and N(0, 1), by quadrature."""

    def under(x: float, mean: float, std: float) -> float:
        return math.exp(-(((x - mean) / std) ** 2) / 2) / std / math.sqrt(2 * math.pi)

    def at(x: float) -> float:
        c = critic(torch.tensor(float(x), dtype=torch.float64))
        never = torch.tensor(-1e3, dtype=torch.float64)
        data, draws = critic_gain(c, never).item(), critic_gain(-never, c).item()
        return under(x, mean, std) * (data - math.log(2)) + under(x, 0, 1) * (draws - math.log(2))

    return math.log(2) + quad(at, -40, 40, points=[-2, -1, 0, 1, 2, 3], limit=400, epsabs=1e-12)[0]


@pytest.mark.parametrize(
    ("mean", "std", "golden"),
    [
        (0.5, 1, 0.030311300521),
        (1, 1, 0.111421482185),
        (2, 1, 0.336830820347),
        (4, 1, 0.632720193737),
        (0, 2, 0.092733381666),
        (0, 0.5, 0.092733381666),
        (0, 4, 0.253471355135),
    ],
)
def test_a_critic_that_knows_the_ratio_gives_the_divergence(mean, std, golden) -> None:
    assert gain_of(lambda x: log_ratio(x, mean, std), mean, std) == pytest.approx(golden, abs=1e-9)


@pytest.mark.parametrize(
    ("scale", "golden"),
    [(0, 0.0), (0.25, 0.0528), (0.5, 0.0872), (1, 0.1114), (1.5, 0.0933), (2, 0.0498), (4, -0.2379)],
)
def test_every_critic_bounds_from_below_and_an_overconfident_one_badly(scale, golden) -> None:
    found = gain_of(lambda x: scale * log_ratio(x, 1, 1), 1, 1)
    assert found == pytest.approx(golden, abs=2.5e-3)  # the golden figures are of 200,000 draws
    assert found <= 0.111421482185 + 1e-9
    draws = [log_ratio(normal(mean, 1, 200_000, seed), 1, 1) for seed, mean in enumerate((1, 0))]
    value, stderr = divergence_bound(*(scale * each for each in draws))
    assert abs(value - found) <= 4 * stderr + 1e-12
    if scale:
        both, label = torch.cat(draws).numpy(), np.repeat([1.0, 0.0], 200_000)
        slope, error = _slope(scale * both, label, np.ones(400_000))
        assert slope == pytest.approx(1 / scale, abs=4 * error)


@pytest.mark.parametrize(("p", "q", "golden"), [(0.9, 0.5, 0.101749225079), (0.2, 0.8, 0.192744757022)])
def test_the_divergence_of_two_coins(p, q, golden) -> None:
    c = torch.tensor([(1 - p) / (1 - q), p / q], dtype=torch.float64).log()
    gain = critic_gain(c[:, None], c[None])  # at data, at draws
    weight = torch.tensor([[1 - p], [p]], dtype=torch.float64) * torch.tensor([1 - q, q], dtype=torch.float64)
    assert (weight * gain).sum().item() == pytest.approx(golden, abs=1e-11)


@pytest.mark.parametrize(("mean", "std", "golden"), some([(0.0, 2.0, 0.092733381666), (1.0, 1.0, 0.111421482185)], 2))
def test_the_ratio_of_two_normals_is_learned_from_draws(mean, std, golden) -> None:
    found = pv.density_ratio(normal(mean, std, 8000, 0), normal(0, 1, 4000, 1), folds=5)
    assert abs(found.divergence - golden) < 4 * found.stderr < 0.04
    x = torch.linspace(-1.5, 1.5, 7, dtype=torch.float64)
    error = found.uncertainty(x)
    assert ((found(x) - log_ratio(x, mean, std)).abs() < 4 * error + 0.02).all()
    assert (error < 0.15).all()
    assert found.believable
    assert abs(found.slope - 1) < 4 * found.slope_stderr
    assert "calibrated)" in repr(found)
    other = pv.density_ratio(normal(0, 1, 4000, 1), normal(mean, std, 8000, 0), folds=2)
    assert ((found(x) + other(x)).abs() < 4 * error + 0.02).all(), "log p / q is minus log q / p, whatever their sizes"


def test_draws_of_one_density_are_not_told_apart() -> None:
    rng = torch.Generator().manual_seed(0)
    found = pv.density_ratio(torch.randn(600, 5, generator=rng), torch.randn(500, 5, generator=rng).numpy(), folds=5)
    assert abs(found.divergence) < 0.02
    assert found.accuracy == pytest.approx(0.5, abs=0.08)
    same = torch.zeros(50, 2)
    assert pv.density_ratio(same, same, folds=2).accuracy == 0.5, "a critic that says nothing is right half of the time"


@pytest.mark.slow
def test_the_error_that_is_said_is_the_error_that_is_made() -> None:
    x = torch.tensor([-1.0, 0.5, 2.0], dtype=torch.float64)
    scores = []
    for seed in range(12):
        found = pv.density_ratio(normal(1, 1, 400, 2 * seed), normal(0, 1, 400, 2 * seed + 1), folds=8)
        scores.append((found(x) - log_ratio(x, 1, 1)) / found.uncertainty(x))
    spread = torch.stack(scores).square().mean().sqrt().item()
    assert 0.5 < spread < 2, "in units of what was said: about 1"


def test_features_of_ones_own() -> None:
    """A ring around a disc: no linear critic sees it, the radius does."""
    angle = 2 * math.pi * torch.rand(800, generator=torch.Generator().manual_seed(0))
    x = torch.stack([angle.cos(), angle.sin()], 1)
    radius = torch.cat([torch.full((400,), 1.0), torch.full((400,), 1.5)]) + 0.2 * normal(0, 1, 800, 1)
    p, q = (radius[:, None] * x).split(400)
    told = pv.density_ratio(p, q, folds=4, features=lambda x: x.norm(dim=1, keepdim=True))
    blind = pv.density_ratio(p, q, folds=4, features=lambda x: x)
    assert told.divergence > 0.2 > 0.05 > blind.divergence


@pytest.mark.parametrize(
    ("p", "q", "said"),
    [
        (torch.randn(100, 3), torch.randn(100, 2), "draws of p have 3 features and draws of q 2"),
        (torch.randn(100, 3), torch.randn(39, 3), "there are 39 draws of one of the two, and at least 40"),
        (torch.randn(100, 3).log(), torch.randn(100, 3), "draws of p are not finite"),
    ],
)
def test_what_cannot_be_compared_is_refused(p, q, said) -> None:
    with pytest.raises(ValueError, match=said):
        pv.density_ratio(p, q)


def test_other_mistakes_are_told() -> None:
    p, q = torch.randn(50, 2), torch.randn(50, 2)
    with pytest.raises(ValueError, match="folds must be from 2 to 25"):
        pv.density_ratio(p, q, folds=1)
    with pytest.raises(TypeError, match="p is a dict; give draws as a tensor or an array"):
        pv.density_ratio({"x": p}, q)
    with pytest.raises(ValueError, match="x has 3 features, and the draws that were compared have 2"):
        pv.density_ratio(p, q, folds=2)(torch.zeros(4, 3))
