"""Grey levels by a density: closed forms, inverses and volumes, each with a case that is wrong."""

import itertools
import math
from typing import Any

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from scipy.integrate import quad
from scipy.stats import norm
from torch import Tensor, nn
from torch.autograd.functional import jacobian
from torch.distributions import Transform

import pyro_vae as pv
from pyro_vae.conditionals import CellsPrior, Dequantize, Flow, FlowPrior, Rounding, StandardNormal, Stretched
from pyro_vae.distributions import IMPOSSIBLE, Cells, NormalCDF, Rounded
from pyro_vae.guides.latent import LatentGuide
from pyro_vae.models.latent import LatentModel
from pyro_vae.plots.reversible import from_noise, to_noise

F64 = torch.float64


class Of(nn.Module):
    """() -> a distribution that is ready."""

    def __init__(self, fn: dist.TorchDistribution) -> None:
        super().__init__()
        self.fn = fn

    def forward(self) -> dist.TorchDistribution:
        return self.fn


class Learned(nn.Module):
    """x -> a flow whose parameters are linear in x."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.head = Flow(features, "coupling", layers=2, context=3, hidden=(8,))
        self.net = nn.Linear(features, self.head.size)
        with torch.no_grad():  # near uniform: draws of what is narrower leave the ends of a cell out
            self.net.weight.mul_(0.3)
            self.net.bias.zero_()

    def forward(self, x: Tensor) -> dist.TorchDistribution:
        return self.head(self.net(x))


def pair_of(prior: nn.Module, features: int, levels: int, inner: nn.Module | None = None) -> pv.Pair:
    pair = pv.Pair(LatentModel(prior, Rounding(features, levels)), LatentGuide(Dequantize(levels, inner)))
    for module in pair.modules().values():
        module.double()
    return pair.train(False)


def every(features: int, levels: int) -> Tensor:
    """All vectors of levels, ``(levels ** features, features)``."""
    return torch.tensor(list(itertools.product(range(levels), repeat=features)), dtype=F64) / (levels - 1)


def bent(module: nn.Module, by: float = 0.3) -> nn.Module:
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(by * torch.randn_like(parameter))
    return module


def spread(pair: pv.Pair, x: Tensor, draws: int = 4) -> Tensor:
    return pv.log_weights(pair, {"x": x}, draws)


def test_the_identity_is_exact() -> None:
    """log P = -features log levels for every x and at every draw, and to rounding in single precision."""
    pair, x = pair_of(CellsPrior(StandardNormal(3), 17), 3, 17), every(3, 17)[::97]
    torch.testing.assert_close(
        spread(pair, x), torch.full((4, len(x)), -3 * math.log(17), dtype=F64), rtol=0, atol=1e-10
    )
    for module in pair.modules().values():
        module.float()
    assert (spread(pair, x.float(), 500) + 3 * math.log(17)).abs().max() < 1e-4
    wrong = pair_of(CellsPrior(StandardNormal(3), 16), 3, 17)  # levels miscounted by one
    assert (spread(wrong, x) + 3 * math.log(17)).abs().max() > 0.1


@pytest.mark.parametrize("pushed", [True, False], ids=["through Phi", "on the line"])
def test_a_dequantized_normal_is_a_difference_of_phis(pushed: bool) -> None:
    """P(k) is the normal's mass of the cell, and the bound its mean log density there, by quadrature."""
    levels, loc, scale = 5, (0.4 if pushed else 2.2), (0.7 if pushed else 1.1)
    normal = dist.Normal(torch.tensor([loc], dtype=F64), torch.tensor([scale], dtype=F64)).to_event(1)
    pair = pair_of(CellsPrior(Of(normal), levels) if pushed else Of(normal), 1, levels)
    edges = norm.ppf(np.arange(levels + 1) / levels) if pushed else np.arange(levels + 1.0)
    edges[[0, -1]] = -np.inf, np.inf  # what lies beyond the line's ends is rounded to these
    mass = np.diff(norm.cdf(edges, loc, scale))

    def density(z: float) -> float:
        return norm.logpdf(norm.ppf(z / levels), loc, scale) - norm.logpdf(norm.ppf(z / levels)) - math.log(levels)

    inside = range(1, levels - 1)  # where no draw is at an end of the line
    bound = [quad(density if pushed else lambda z: norm.logpdf(z, loc, scale), k, k + 1)[0] for k in inside]
    found = pv.log_evidence(pair, {"x": every(1, levels)}, num_samples=20_000)
    error = found.estimate.numpy() - np.log(mass)
    assert np.all(np.abs(error) < 5 * found.stderr.numpy() + 1e-9)
    elbo = [pv.elbo(pair, {"x": every(1, levels)[k : k + 1]}, num_samples=20_000).elbo for k in inside]
    assert elbo == pytest.approx(bound, abs=0.01)
    assert all(np.log(mass[1:-1]) > np.array(bound) + 5e-4), "the bound lies below, or nothing is tested"


@pytest.mark.parametrize("kind", ["coupling", pytest.param("spline_autoregressive", marks=pytest.mark.slow)])
def test_probabilities_of_all_levels_sum_to_one_and_are_those_of_draws(kind: str) -> None:
    """By importance weighting of a learned guide that is not uniform."""
    torch.manual_seed(0)
    flow, inner = bent(FlowPrior(2, kind, layers=2, hidden=(8,)), 0.2), bent(Learned(2), 0.05)
    narrow = Stretched(flow, torch.zeros(2), torch.full((2,), 0.6))  # a wide one peaks at the ends of cells
    pair = pair_of(CellsPrior(narrow, 3), 2, 3, inner)
    found = pv.log_evidence(pair, {"x": every(2, 3)}, num_samples=10_000)
    p = found.estimate.exp()
    error = p * found.stderr
    assert abs(p.sum().item() - 1) < 4 * error.square().sum().sqrt().item() < 0.05
    draws = pair.sample(20_000).double()
    often = (draws[:, None] == every(2, 3)).all(-1).double().mean(0)
    noise = (p * (1 - p) / 20_000 + error.square()).sqrt()
    assert ((often - p).abs() < 4 * noise).all()
    assert p.std() > 0.05, "levels that are equally likely test nothing"


class WrongVolume(NormalCDF):
    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return super().log_abs_det_jacobian(x, y) + x.square().sum(-1) / 100


class WrongInverse(NormalCDF):
    def _inverse(self, y: Tensor) -> Tensor:
        return super()._inverse(y) + 1e-4


def volume_is_right(transform: Transform, e: Tensor) -> None:
    expected = torch.linalg.slogdet(jacobian(transform, e)).logabsdet
    torch.testing.assert_close(transform.log_abs_det_jacobian(e, transform(e)), expected)


def inverse_is_right(transform: Transform, e: Tensor, atol: float) -> None:
    torch.testing.assert_close(transform.inv(transform(e).clone()), e, rtol=0, atol=atol)


@pytest.mark.parametrize(("dtype", "atol"), [(F64, 1e-12), (torch.float32, 1e-5)])
def test_phi_inverts_and_knows_its_volume(dtype: torch.dtype, atol: float) -> None:
    torch.manual_seed(0)
    e = torch.randn(4, dtype=dtype)
    inverse_is_right(NormalCDF(), e, atol)
    volume_is_right(NormalCDF(), e)
    ends = NormalCDF().inv(torch.tensor([0.0, 1.0], dtype=dtype))
    assert ends.isfinite().all(), "single precision rounds some draws to an end"
    with pytest.raises(AssertionError):
        volume_is_right(WrongVolume(), e)
    with pytest.raises(AssertionError):
        inverse_is_right(WrongInverse(), e, atol)


def push(fn: Cells, noise: Tensor) -> Tensor:
    """Return what a `CellsPrior` of a stretched flow makes of noise."""
    stretched: Any = fn.base_dist
    for transform in stretched.base_dist.transforms:
        noise = transform(noise)
    value = stretched.loc + stretched.scale * noise
    for transform in fn.transforms:
        value = transform(value)
    return value


def density_is_right(fn: Cells, noise: Tensor, z: Tensor) -> None:
    """log p(z) is that of the noise less log |det J|, by autograd."""
    normal = dist.Normal(torch.zeros_like(noise), 1.0).to_event(1)
    expected = normal.log_prob(noise) - torch.linalg.slogdet(jacobian(lambda e: push(fn, e), noise)).logabsdet
    torch.testing.assert_close(fn.log_prob(z), expected)


@pytest.mark.parametrize("kind", ["coupling", "autoregressive", "spline_coupling", "spline_autoregressive"])
@pytest.mark.parametrize(("dtype", "atol"), [(F64, 1e-8), (torch.float32, 2e-3)])
def test_a_flow_of_levels_inverts_and_knows_its_volume(kind: str, dtype: torch.dtype, atol: float) -> None:
    torch.manual_seed(1)
    flow = bent(FlowPrior(4, kind, layers=3, hidden=(8,)), 0.2)
    stretched = Stretched(flow, torch.tensor([0.1, -0.4, 0.0, 0.3]), torch.full((4,), 0.8)).to(dtype)
    fn, noise = CellsPrior(stretched, 17)(), 0.7 * torch.randn(4, dtype=dtype)
    z = push(fn, noise).detach()
    torch.testing.assert_close(to_noise(fn, z.clone()), noise, rtol=0, atol=atol)
    torch.testing.assert_close(from_noise(fn, noise), z)
    if dtype is F64:
        density_is_right(fn, noise, z)
        with pytest.raises(AssertionError):
            density_is_right(CellsPrior(stretched, 18)(), noise, z)


def test_the_density_of_cells_is_zero_outside_and_known_at_given_values() -> None:
    torch.manual_seed(0)
    low = torch.tensor([0.0, 3.0], dtype=F64)
    fn = Cells(dist.Normal(torch.zeros(2, dtype=F64), 1.5).to_event(1), low)
    z = fn.sample((50,))
    assert fn.support.check(z).all()
    torch.testing.assert_close(fn.log_prob(z.clone()), fn.expand([50]).log_prob(z))
    assert fn.log_prob(low + torch.tensor([0.5, 1.5])) == -math.inf
    assert fn.log_prob(low + torch.tensor([0.0, 1.0])).isfinite(), "a cell has its ends"


def test_rounding_gives_all_mass_to_one_level() -> None:
    x = every(2, 3)
    log_p = Rounded(torch.tensor([1.5, 0.2], dtype=F64), 3).log_prob(x)
    assert log_p.max() == 0
    assert x[log_p.argmax()].tolist() == [0.5, 0.0]
    assert (log_p == 0).sum() == 1
    assert (log_p[log_p < 0] <= IMPOSSIBLE).all()
    outside = Rounded(torch.tensor([-7.0, 9.0], dtype=F64), 3)
    assert outside.sample().tolist() == [0.0, 1.0]
    assert outside.log_prob(outside.sample()) == 0
    assert outside.log_prob(torch.tensor([0.2, 1.0], dtype=F64)) <= IMPOSSIBLE, "0.2 is no level"


def test_what_cannot_be_is_said_in_a_sentence() -> None:
    with pytest.raises(ValueError, match=r"x has 3 features and z has shape \(5, 2\): build the prior with 3") as said:
        Rounding(3, 17)(torch.zeros(5, 2))
    assert "\n" not in str(said.value)
    with pytest.raises(ValueError, match="levels must be at least 2"):
        Rounding(3, 1)
    pair = pair_of(CellsPrior(StandardNormal(2), 5), 2, 5)
    problems = pv.find_problems(pair, {"x": torch.rand(6, 2, dtype=F64)})
    assert len(problems) == 1
    assert "support" in str(problems[0])
    assert pv.find_problems(pair, {"x": every(2, 5)[:6]}) == []
    other = pair_of(CellsPrior(StandardNormal(3), 5), 2, 5)
    assert "x has 2 features and z has shape" in str(pv.find_problems(other, {"x": every(2, 5)[:6]})[0])
