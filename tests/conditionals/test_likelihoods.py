"""Every head, from one registry: its distribution is one, at every parameter, and it begins where it says."""

from itertools import product

import pyro
import pytest
import torch
from tables import some
from torch.autograd import grad
from torch.fx.experimental.proxy_tensor import make_fx

from pyro_vae.conditionals import (
    KINDS,
    Bernoulli,
    Categorical,
    ContinuousBernoulli,
    DiscretizedLogistic,
    DiscretizedLogisticMixture,
    Flow,
    FullCovariance,
    Head,
    LowRank,
    NegativeBinomial,
    Normal,
    PointMass,
    Poisson,
    ZeroInflated,
)

LEVELS = {
    "bernoulli": (lambda n: Bernoulli(n), [0.0, 1.0]),
    "discretized logistic": (lambda n: DiscretizedLogistic(n), [k / 255 for k in range(256)]),
    "discretized logistic, 17 levels": (lambda n: DiscretizedLogistic(n, 17), [k / 16 for k in range(17)]),
    "discretized logistic, 2 levels": (lambda n: DiscretizedLogistic(n, 2), [0.0, 1.0]),
    "mixture": (lambda n: DiscretizedLogisticMixture(n, 17, 3), [k / 16 for k in range(17)]),
    "categorical": (lambda n: Categorical(n, 5), [0.0, 1.0, 2.0, 3.0, 4.0]),
    "categorical on [0, 1]": (lambda n: Categorical(n, 17, highest=1.0), [k / 16 for k in range(17)]),
}
REAL = {
    "normal": lambda n: Normal(n),
    "normal, softplus": lambda n: Normal(n, positive="softplus"),
    "normal, fixed": lambda n: Normal(n, "fixed", value=0.3),
    "normal, learned": lambda n: Normal(n, "learned", value=0.3),
    "normal, per feature": lambda n: Normal(n, "per_feature"),
    "low rank": lambda n: LowRank(n, 2),
    "full covariance": lambda n: FullCovariance(n),
}
FLOWS = {f"flow, {kind}": lambda n, kind=kind: Flow(n, kind, layers=2, context=3, hidden=(8,)) for kind in KINDS}
UNIT = {"continuous bernoulli": lambda n: ContinuousBernoulli(n)}
COUNTS = {
    "poisson": lambda n: Poisson(n),
    "negative binomial": lambda n: NegativeBinomial(n),
    "zero-inflated poisson": lambda n: ZeroInflated(Poisson(n)),
    "zero-inflated negative binomial": lambda n: ZeroInflated(NegativeBinomial(n)),
}
HEADS = {**{name: make for name, (make, _) in LEVELS.items()}, **REAL, **FLOWS, **UNIT, **COUNTS}
MASSLESS = {"point mass": lambda n: PointMass(n)}
LEADS = [(), (4,), (3, 4), (3, 1, 4)]


def parameters_of(head: Head, *lead: int, spread: float = 1.0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    torch.manual_seed(1)
    return spread * torch.randn(*lead, head.size, dtype=dtype)


def made(name: str, features: int = 3, dtype: torch.dtype = torch.float64) -> Head:
    torch.manual_seed(0)
    return {**HEADS, **MASSLESS}[name](features).to(dtype)


@pytest.mark.parametrize("name", LEVELS)
@pytest.mark.parametrize("spread", [0.1, 1.0, 10.0, 1e4])
def test_probabilities_sum_to_one(name, spread):
    head = made(name, 1)
    values = torch.tensor(LEVELS[name][1], dtype=torch.float64)
    p = head(parameters_of(head, 20, spread=spread))
    total = torch.stack([p.log_prob(value.expand(20, 1)) for value in values]).exp().sum(0)
    torch.testing.assert_close(total, torch.ones_like(total), atol=1e-12, rtol=0)


@pytest.mark.parametrize("logit", [0.0, 1e-9, 0.19, 0.21, -0.2, 1.0, -16.0, 40.0, -300.0])
def test_continuous_bernoulli_integrates_to_one(logit):
    x = torch.linspace(0, 1, 200_001, dtype=torch.float64)
    p = ContinuousBernoulli(1)(torch.tensor([logit], dtype=torch.float64))
    total = torch.trapezoid(p.log_prob(x.unsqueeze(-1)).exp(), x)
    assert abs(total - 1) < logit**2 * 1e-11 + 1e-10  # the rule errs by (step * logit)^2 / 12
    mean = torch.trapezoid(p.log_prob(x.unsqueeze(-1)).exp() * x, x)
    torch.testing.assert_close(p.mean[0], mean, atol=1e-6, rtol=0)
    variance = torch.trapezoid(p.log_prob(x.unsqueeze(-1)).exp() * (x - mean) ** 2, x)
    torch.testing.assert_close(p.variance[0], variance, atol=1e-6, rtol=0)


def test_continuous_bernoulli_is_smooth_where_the_series_ends():
    for edge in (0.2, -0.2):  # |h| = 0.1
        logits = torch.tensor([edge - 1e-9, edge + 1e-9], dtype=torch.float64, requires_grad=True)
        p = ContinuousBernoulli(2)(logits).base_dist
        for quantity in (p.log_prob(torch.tensor(0.3)), p.mean, p.variance):
            (slope,) = grad(quantity.sum(), logits, retain_graph=True)
            assert abs(quantity[0] - quantity[1]) < 1e-8
            assert abs(slope[0] - slope[1]) < 1e-8


@pytest.mark.parametrize("name", REAL)
def test_real_densities_integrate_to_one_in_two_dimensions(name):
    head = made(name, 2)
    p = head(parameters_of(head, spread=0.7))
    axes = [
        torch.linspace(float(m - 9 * s), float(m + 9 * s), 801, dtype=torch.float64)
        for m, s in zip(p.mean.detach(), p.stddev.detach(), strict=True)
    ]
    grid = torch.cartesian_prod(*axes).reshape(801, 801, 2)
    total = torch.trapezoid(torch.trapezoid(p.log_prob(grid).exp(), axes[1]), axes[0])
    assert abs(total - 1) < 1e-6


@pytest.mark.parametrize("name", [name for name in HEADS if "flow" not in name])
def test_mean_and_variance_are_those_of_the_draws(name):
    head = made(name)
    p = head(parameters_of(head, 4))
    torch.manual_seed(2)
    draws = p.sample((20_000,))
    variance = p.stddev.square()
    error = (variance / 20_000) ** 0.5
    assert ((p.mean - draws.mean(0)).abs() < 5 * error + 1e-12).all()
    squares = (draws - p.mean).square()
    # the draws' own error, or, where a value is so rare that it was not drawn, a bound for numbers within 1
    error = torch.maximum(squares.std(0) / 20_000**0.5, error * (p.stddev < 0.1))
    assert ((variance - squares.mean(0)).abs() < 5 * error + 1e-12).all()


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("lead", LEADS)
def test_draws_lie_in_the_support(name, dtype, lead):
    head = made(name, dtype=dtype)
    for spread in (1.0, 100.0):
        p = head(parameters_of(head, *lead, spread=spread, dtype=dtype))
        assert (p.batch_shape, p.event_shape) == (lead, (3,))
        draws = p.sample((5,))
        assert draws.shape == (5, *lead, 3)
        assert draws.dtype == dtype
        assert p.support.check(draws).all()
        if "flow" not in name:  # another draw than the cached one: below
            log_prob = p.log_prob(draws)
            assert log_prob.shape == (5, *lead)
            assert log_prob.dtype == dtype
            assert log_prob.isfinite().all()


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_finite_at_the_ends(name, dtype):
    """Parameters of 0 and +-1e4, alone and together, and values at the edges of the support."""
    head = made(name, dtype=dtype)
    torch.manual_seed(3)
    ends = torch.tensor([-1e4, 0.0, 1e4], dtype=dtype)
    parameters = torch.cat([ends.unsqueeze(-1).expand(3, head.size), ends[torch.randint(3, (40, head.size))]])
    parameters.requires_grad_()
    p = head(parameters)
    if name in LEVELS:
        values = [torch.full((3,), LEVELS[name][1][k], dtype=dtype) for k in (0, 1, -1)]
    elif name in COUNTS:
        values = [torch.full((3,), value, dtype=dtype) for value in (0.0, 1.0, 5000.0)]
    elif name in UNIT:
        values = [torch.full((3,), value, dtype=dtype) for value in (0.0, 0.5, 1.0)]
    elif name in REAL:
        values = [torch.full((3,), value, dtype=dtype) for value in (-1.0, 0.0, 1.0)]
    else:
        values = [p.rsample()]
    for value in values:
        log_prob = p.log_prob(value)
        (slope,) = grad(log_prob.sum(), parameters, retain_graph=True)
        assert log_prob.isfinite().all()
        assert slope.isfinite().all()


@pytest.mark.parametrize("name", HEADS)
def test_leading_dimensions_agree_with_a_loop(name):
    head = made(name)
    parameters = parameters_of(head, 2, 4)
    p = head(parameters)
    values = p.rsample() if p.has_rsample else p.sample()
    together = p.log_prob(values)
    if name == "flow, planar":  # only its own draws have a density
        return
    for i, j in product(range(2), range(4)):
        torch.testing.assert_close(head(parameters[i, j]).log_prob(values[i, j]), together[i, j])
    spread_out = head(parameters[:, None]).log_prob(values[None])  # (2, 2, 4)
    torch.testing.assert_close(spread_out[1, 1], together[1])


@pytest.mark.parametrize("name", [*HEADS, *MASSLESS])
def test_expand_keeps_the_density(name):
    head = made(name)
    p = head(parameters_of(head, 4))
    wide = p.expand((6, 4))
    assert (wide.batch_shape, wide.event_shape) == ((6, 4), (3,))
    values = wide.rsample() if wide.has_rsample else wide.sample()
    assert values.shape == (6, 4, 3)
    there = wide.log_prob(values)
    assert there.shape == (6, 4)
    if name != "flow, planar":
        torch.testing.assert_close(there, p.log_prob(values))


@pytest.mark.parametrize("name", [name for name in [*HEADS, *MASSLESS] if "flow" not in name])
def test_starts_at_the_mean_and_std(name):
    head = made(name, 4)
    mean = torch.tensor([0.1, 0.35, 0.5, 0.97], dtype=torch.float64)
    std = torch.tensor([0.2, 0.1, 0.3, 0.15], dtype=torch.float64)
    for p in (head(head.start(mean)), head(head.start(mean, std))):
        torch.testing.assert_close(p.mean, mean, atol=1e-9, rtol=0)
    if name in ("normal", "normal, softplus", "normal, per feature", "low rank", "full covariance"):
        torch.testing.assert_close(p.stddev, std, atol=1e-9, rtol=0)
    if name == "normal, learned":
        torch.testing.assert_close(p.stddev, std.square().mean().sqrt().expand(4), atol=1e-9, rtol=0)
    if name == "discretized logistic":  # in the middle, where no tail is cut, rounding adds a twelfth of a squared step
        narrow = head(head.start(torch.full_like(mean, 0.5), torch.full_like(mean, 0.03)))
        torch.testing.assert_close(narrow.variance, torch.full_like(mean, 0.03**2 + 255**-2 / 12), atol=1e-7, rtol=0)


@pytest.mark.parametrize("name", [*HEADS, *MASSLESS])
def test_starts_for_features_that_never_vary(name):
    head = made(name, dtype=torch.float32)
    mean, std = torch.tensor([0.0, 1.0, 0.5]), torch.tensor([0.0, 0.0, 0.4])
    for start in (head.start(mean, std), head.start(mean, torch.zeros(3))):
        assert start.shape == (head.size,)
        assert start.dtype == torch.float32
        p = head(start)
        value = p.rsample() if p.has_rsample else torch.tensor([0.0, 1.0, 0.0])
        assert p.log_prob(value).isfinite()


@pytest.mark.parametrize("name", FLOWS)
def test_flows_start_near_the_gaussian(name):
    head = made(name, 3)
    mean, std = (
        torch.tensor([-1.0, 0.0, 3.0], dtype=torch.float64),
        torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64),
    )
    draws = head(head.start(mean, std)).sample((20_000,))
    assert ((draws.mean(0) - mean) / std).abs().max() < 0.2
    assert (draws.std(0) / std - 1).abs().max() < 0.3


@pytest.mark.parametrize("name", some([*HEADS, *MASSLESS], 3))
def test_can_be_recorded_and_replayed_on_other_data(name):
    head = made(name)
    first, second = parameters_of(head, 4), 2 * parameters_of(head, 4).flip(0)
    sampled = not head(first).has_rsample
    values = head(first).sample(), head(second).sample()

    def score(parameters, value):
        p = head(parameters)
        return p.log_prob(value if sampled else p.rsample())

    with pyro.validation_enabled(False):
        torch.manual_seed(4)
        recorded = make_fx(score)(first, values[0])
        torch.manual_seed(5)
        replayed = recorded(second, values[1])
        torch.manual_seed(5)
        torch.testing.assert_close(replayed, score(second, values[1]))


@pytest.mark.parametrize("name", ["discretized logistic", "mixture", "categorical", "bernoulli"])
def test_values_between_the_levels_are_refused(name):
    head = made(name)
    p = head(parameters_of(head))
    assert p.support.check(p.sample()).all()
    for wrong in (0.03, -1.0, 5.0, float("nan")):
        with pytest.raises(ValueError, match="within the support"):
            p.log_prob(torch.full((3,), wrong, dtype=torch.float64))


def test_kinds_are_read_in_turn():
    """A convolutional decoder gives all locations and then all scales."""
    p = Normal(2)(torch.tensor([1.0, 2.0, 0.0, 0.0]))
    torch.testing.assert_close(p.mean, torch.tensor([1.0, 2.0]))
    logits = torch.zeros(3, 2)
    logits[1, 0] = logits[2, 1] = 50.0
    torch.testing.assert_close(Categorical(2, 3)(logits.flatten()).mean, torch.tensor([1.0, 2.0]))


def test_messages():
    with pytest.raises(
        ValueError, match=r"the head Normal\(4, scale='predicted'\) needs 8 numbers per datum and the net gives"
    ):
        Normal(4)(torch.zeros(5, 4))
    with pytest.raises(ValueError, match=r"scale must be one of predicted, learned, per_feature, fixed; got 'global'"):
        Normal(4, "global")
    with pytest.raises(ValueError, match=r"positive must be one of exp, softplus; got 'square'"):
        Normal(4, positive="square")
    with pytest.raises(ValueError, match="value must be above 0, got 0"):
        Normal(4, "fixed", value=0)
    with pytest.raises(ValueError, match="levels must be at least 2, got 1"):
        DiscretizedLogistic(4, levels=1)(torch.zeros(8))
    with pytest.raises(ValueError, match="rank must be at least 1, got 0"):
        LowRank(4, 0)
    with pytest.raises(ValueError, match="features must be at least 1, got 0"):
        Bernoulli(0)
