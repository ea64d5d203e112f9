import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pyro.distributions.transforms import conditional_spline, planar
from tables import only
from torch.autograd.functional import jacobian
from torch.distributions import Normal

from pyro_vae.conditionals import KINDS, Flow, flow_layers
from pyro_vae.distributions import BOX, spline

INVERTIBLE = [kind for kind in KINDS if kind != "planar"]


def bent(kind: str, features: int = 2, by: float = 0.3) -> Flow:
    """A flow away from its start, float64."""
    torch.manual_seed(0)
    flow = Flow(features, kind, layers=3, context=3, hidden=(16,)).double()
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(by * torch.randn_like(parameter))
    return flow


def parameters_of(flow: Flow, *lead: int) -> torch.Tensor:
    torch.manual_seed(1)
    return torch.randn(*lead, flow.size, dtype=torch.float64)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("features", [2, 5])
def test_density_of_a_draw_is_the_change_of_variables(kind, features):
    flow = bent(kind, features)
    parameters = parameters_of(flow)
    p = flow(parameters)
    z = p.rsample()
    log_prob = p.log_prob(z)
    e = z
    for transform in reversed(p.transforms):
        e = transform.inv(e)
    e = e.detach()

    def push(e):
        for transform in flow(parameters).transforms:
            e = transform(e)
        return e

    torch.testing.assert_close(push(e), z)
    expected = p.base_dist.log_prob(e) - torch.linalg.slogdet(jacobian(push, e)).logabsdet
    torch.testing.assert_close(log_prob, expected)
    assert abs(expected - p.base_dist.log_prob(e)) > 0.01  # there is a change of volume to get right


@pytest.mark.parametrize("kind", only(INVERTIBLE, ["autoregressive", "spline_coupling"]))
def test_density_integrates_to_one(kind):
    flow = bent(kind, by=0.1)  # more, and the splines' peaks fall between the points of the grid
    p = flow(parameters_of(flow))
    with torch.no_grad():
        draws = p.sample((5000,))
        low, high = draws.amin(0), draws.amax(0)
        margin = (high - low) * 0.5
        axes = [
            torch.linspace(float(a), float(b), 401, dtype=torch.float64)
            for a, b in zip(low - margin, high + margin, strict=True)
        ]
        grid = torch.cartesian_prod(*axes).reshape(401, 401, 2)
        density = p.log_prob(grid).exp()
    total = torch.trapezoid(torch.trapezoid(density, axes[1]), axes[0])
    assert abs(total - 1) < 2e-3  # the nets' ReLUs put kinks in the density, and the tails go on


@pytest.mark.parametrize("kind", INVERTIBLE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_other_values_have_the_same_density_as_draws(kind, dtype):
    flow = bent(kind, 4, by=0.1).to(dtype)
    parameters = parameters_of(flow, 2, 3).to(dtype)
    with torch.no_grad():
        p = flow(parameters)
        z = p.rsample((7,))
        tolerance = {"atol": 1e-3, "rtol": 1e-3} if dtype == torch.float32 else {}
        torch.testing.assert_close(flow(parameters).log_prob(z.clone()), p.log_prob(z), **tolerance)


def test_planar_says_that_other_values_have_no_density():
    flow = bent("planar")
    with pytest.raises(KeyError, match="intermediates cache"):
        flow(parameters_of(flow)).log_prob(torch.zeros(2, dtype=torch.float64))


@pytest.mark.parametrize("kind", KINDS)
def test_two_distributions_of_one_flow_do_not_share_a_cache(kind):
    flow = bent(kind)
    parameters = parameters_of(flow, 4)
    first, second = flow(parameters), flow(parameters + 1)
    z1, z2 = first.rsample(), second.rsample()
    expected = first.log_prob(z1)
    second.log_prob(z2)
    torch.testing.assert_close(first.log_prob(z1), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_reach_every_parameter(kind):
    flow = bent(kind, 4)
    parameters = parameters_of(flow, 30).requires_grad_()
    p = flow(parameters)
    z = p.rsample()
    (p.log_prob(z) + z.square().sum(-1)).sum().backward()
    assert parameters.grad.any(0).all()
    missing = [name for name, p in flow.named_parameters() if p.grad is None or not p.grad.any()]
    assert missing == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["autoregressive", "coupling", "spline_coupling"])
def test_bends_to_a_curved_posterior(kind):
    """z1 ~ N(0, 1.5), z2 ~ N(z1^2 / 2, .4): a fitted Gaussian stays .70 nats away, a flow does not."""

    def log_target(z):
        return Normal(0.0, 1.5).log_prob(z[..., 0]) + Normal(z[..., 0] ** 2 / 2, 0.4).log_prob(z[..., 1])

    def gap(num_samples):
        q = flow(parameters).expand((num_samples,))
        z = q.rsample()
        return (q.log_prob(z) - log_target(z)).mean()

    torch.manual_seed(0)
    flow = Flow(2, kind, layers=4, context=4, hidden=(32,))
    parameters = torch.nn.Parameter(0.01 * torch.randn(flow.size))
    optimizer = torch.optim.Adam([parameters, *flow.parameters()], lr=1e-2)
    for _ in range(300):
        optimizer.zero_grad()
        gap(128).backward()
        optimizer.step()
    with torch.no_grad():
        assert 0 < gap(10_000) < 0.25


def test_one_latent():
    flow = Flow(1, "planar")
    p = flow(torch.randn(5, flow.size))
    assert p.log_prob(p.rsample()).shape == (5,)
    with pytest.raises(
        ValueError,
        match=r"'coupling' moves one coordinate given another and needs 2 or more, not 1: use 'planar'",
    ):
        Flow(1, "coupling")


def test_pyros_own_conditional_transforms():
    torch.manual_seed(0)
    flow = Flow(3, [conditional_spline(3, 2, [8])], context=2).double()
    p = flow(torch.randn(5, flow.size, dtype=torch.float64))
    z = p.rsample((4,))
    assert p.log_prob(z).shape == (4, 5)


def test_messages():
    with pytest.raises(ValueError, match="kind must be one of planar, autoregressive, coupling"):
        Flow(3, "glow")
    with pytest.raises(ValueError, match="a planar flow has no known inverse and so cannot be a prior: use 'coupling'"):
        flow_layers("planar", 3, 0)
    with pytest.raises(ValueError, match="context must be at least 1, got 0"):
        Flow(3, context=0)
    with pytest.raises(TypeError, match="the flow's transforms Planar take no context"):
        Flow(3, [planar(3)])
    with pytest.raises(ValueError, match=r"the head Flow\(3\) needs 11 numbers per datum"):
        Flow(3, context=5)(torch.zeros(4, 3))


reals = st.floats(-6, 6)


@settings(deadline=None, max_examples=100, derandomize=True)
@given(bins=st.integers(2, 12), spread=st.floats(0, 10), seed=st.integers(0, 2**31))
def test_spline_is_increasing_and_inverts(bins, spread, seed):
    generator = torch.Generator().manual_seed(seed)
    raw = spread * torch.randn(3 * bins - 1, generator=generator, dtype=torch.float64)
    x = torch.linspace(-BOX - 1, BOX + 1, 2001, dtype=torch.float64, requires_grad=True)
    y, log_slope = spline(x, raw.expand(2001, -1))
    assert (y.diff() > 0).all()
    (slope,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(slope.log(), log_slope, atol=1e-6, rtol=1e-6)
    back, log_back = spline(y.detach(), raw.expand(2001, -1), inverse=True)
    # where the slope is small the inverse magnifies rounding
    assert ((back - x).abs() < 1e-11 / slope.clamp(max=1)).all()
    torch.testing.assert_close(log_back, -log_slope, atol=1e-4, rtol=1e-4)


def test_spline_begins_as_the_identity():
    x = torch.linspace(-5, 5, 101, dtype=torch.float64)
    y, log_slope = spline(x, torch.zeros(101, 23, dtype=torch.float64))
    torch.testing.assert_close(y, x)
    torch.testing.assert_close(log_slope, torch.zeros_like(x), atol=1e-12, rtol=0)
