import pyro
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pyro_vae.distributions import CategoricalLevels, ContinuousBernoulli, DiscretizedLogistic, Levels

quick = settings(deadline=None, max_examples=150, derandomize=True)
double = torch.float64


def grid(levels: int, highest: float = 1.0, dtype: torch.dtype = double) -> torch.Tensor:
    return torch.arange(levels, dtype=dtype) * (highest / (levels - 1))


@quick
@given(
    loc=st.floats(-1e6, 1e6),
    log_scale=st.floats(-20, 20),
    levels=st.integers(2, 300),
    dtype=st.sampled_from([torch.float32, double]),
)
def test_discretized_logistic(loc, log_scale, levels, dtype):
    loc, scale = torch.tensor(loc, dtype=dtype), torch.tensor(log_scale, dtype=dtype).exp()
    p = DiscretizedLogistic(loc, scale, levels)
    values = grid(levels, dtype=dtype)
    log_prob = p.log_prob(values)
    assert log_prob.isfinite().all()
    tolerance = 1e-11 if dtype == double else 2e-4
    assert abs(log_prob.double().exp().sum() - 1) < tolerance
    moments = (log_prob.double().exp() @ values.double(), log_prob.double().exp() @ values.double().square())
    assert abs(p.mean - moments[0]) < tolerance
    assert abs(p.variance - (moments[1] - moments[0] ** 2)) < tolerance
    assert p.support.check(p.sample((20,))).all()


@quick
@given(loc=st.floats(-0.5, 1.5), log_scale=st.floats(-4, 1), levels=st.integers(2, 40))
def test_discretized_logistic_is_a_difference_of_distribution_functions(loc, log_scale, levels):
    """Where nothing cancels, the definition itself is exact enough to compare with."""
    loc, scale = torch.tensor(loc, dtype=double), torch.tensor(log_scale, dtype=double).exp()
    values, half = grid(levels), 0.5 / (levels - 1)
    upper = torch.sigmoid((values + half - loc) / scale)
    lower = torch.sigmoid((values - half - loc) / scale)
    upper[-1], lower[0] = 1.0, 0.0
    torch.testing.assert_close(
        DiscretizedLogistic(loc, scale, levels).log_prob(values).exp(), upper - lower, atol=1e-12, rtol=0
    )


@quick
@given(levels=st.integers(2, 65536), highest=st.sampled_from([1.0, None, 255.0]), data=st.data())
def test_levels_hold_in_float32(levels, highest, data):
    highest = float(levels - 1) if highest is None else highest
    constraint = Levels(levels, highest)
    k = data.draw(st.integers(0, levels - 1))
    value = torch.tensor(k, dtype=torch.float32) / (levels - 1) * highest
    assert constraint.check(value)
    assert constraint.index(value) == k
    for off in (0.3, -0.3):
        assert not constraint.check(torch.tensor((k + off) / (levels - 1) * highest, dtype=double))
    assert not constraint.check(torch.tensor(-highest))
    assert not constraint.check(torch.tensor(2 * highest))


def test_levels_refuse_what_is_no_number():
    assert (
        Levels(3).check(torch.tensor([0.0, 0.5, 1.0, 1.5, -0.5, float("nan"), float("inf")])).tolist()
        == [True] * 3 + [False] * 4
    )
    assert repr(Levels(256)) == "Levels(256 values from 0 to 1)"


@quick
@given(logit=st.floats(-1e4, 1e4), x=st.floats(0, 1))
def test_continuous_bernoulli_is_symmetric_and_finite(logit, x):
    logit, x = torch.tensor(logit, dtype=double, requires_grad=True), torch.tensor(x, dtype=double)
    p = ContinuousBernoulli(logit)
    torch.testing.assert_close(p.log_prob(x), ContinuousBernoulli(-logit).log_prob(1 - x), atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(p.mean, 1 - ContinuousBernoulli(-logit).mean)
    assert 0 <= p.mean <= 1
    (slope,) = torch.autograd.grad(p.log_prob(x), logit)
    torch.testing.assert_close(slope, x - p.mean, atol=1e-7, rtol=1e-7)  # an exponential family
    draws = p.rsample((10,))
    assert ((draws >= 0) & (draws <= 1)).all()


def test_continuous_bernoulli_agrees_with_torch_where_torch_does_not_clamp():
    logits = torch.tensor([-12.0, -3.0, -0.5, 0.0, 0.5, 3.0, 12.0], dtype=double)
    reference = torch.distributions.ContinuousBernoulli(logits=logits)
    p = ContinuousBernoulli(logits)
    x = torch.linspace(0, 1, 5, dtype=double).unsqueeze(-1)
    torch.testing.assert_close(p.log_prob(x), reference.log_prob(x), atol=1e-6, rtol=0)
    torch.testing.assert_close(p.mean, reference.mean, atol=1e-6, rtol=0)


@pytest.mark.parametrize("logit", [-30.0, -1.0, -0.019, 0.0, 0.021, 5.0])
def test_continuous_bernoulli_draws_carry_the_right_gradient(logit):
    """d/dl of E x is Var x."""
    torch.manual_seed(0)
    logits = torch.full((100_000,), logit, dtype=double, requires_grad=True)
    p = ContinuousBernoulli(logits)
    p.rsample().sum().backward()
    error = logits.grad.std() / 100_000**0.5
    assert abs(logits.grad.mean() - p.variance[0]) < 5 * error


def test_categorical_levels_as_categorical():
    logits = torch.randn(4, 3, 5, dtype=double)
    p = CategoricalLevels(logits)
    k = torch.randint(5, (2, 4, 3))
    torch.testing.assert_close(p.log_prob(k.double()), torch.distributions.Categorical(logits=logits).log_prob(k))
    torch.testing.assert_close(CategoricalLevels(logits, 1.0).log_prob(k / 4), p.log_prob(k.double()))
    assert p.log_prob(torch.zeros(3, dtype=double)).shape == (4, 3)


def test_parameters_are_checked():
    with pyro.validation_enabled():
        for make in (
            lambda: DiscretizedLogistic(torch.zeros(2), torch.tensor([1.0, -1.0])),
            lambda: DiscretizedLogistic(torch.full((2,), float("nan")), torch.ones(2)),
            lambda: ContinuousBernoulli(torch.tensor(float("nan"))),
            lambda: CategoricalLevels(torch.full((2,), float("nan"))),
        ):
            with pytest.raises(ValueError, match="to satisfy the constraint"):
                make()
