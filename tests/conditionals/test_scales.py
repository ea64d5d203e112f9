import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pyro_vae.conditionals.scales import POSITIVE, SMALLEST, bounded, from_scale, to_scale


@pytest.mark.parametrize("positive", POSITIVE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_one_at_zero_and_increasing(positive, dtype):
    raw = torch.cat([-torch.logspace(4, -3, 400), torch.zeros(1), torch.logspace(-3, 4, 400)]).to(dtype)
    scale = to_scale(raw, positive)
    torch.testing.assert_close(scale[400], torch.ones((), dtype=dtype))
    assert (scale.diff() >= 0).all()
    assert (scale >= SMALLEST * (1 - 1e-5)).all()


@pytest.mark.parametrize("positive", POSITIVE)
@settings(deadline=None, max_examples=200, derandomize=True)
@given(exponent=st.floats(-9.5, 9.5))
def test_round_trip(positive, exponent):
    scale = torch.tensor(math.exp(exponent), dtype=torch.float64)
    torch.testing.assert_close(to_scale(from_scale(scale, positive), positive), scale, rtol=1e-6, atol=SMALLEST)


@settings(deadline=None, max_examples=200, derandomize=True)
@given(raw=st.floats(-1e4, 1e4), value=st.floats(-100, 100), positive=st.sampled_from(POSITIVE))
def test_a_normal_log_density_keeps_finite_gradients(raw, value, positive):
    parameter = torch.tensor(raw, dtype=torch.float32, requires_grad=True)
    torch.distributions.Normal(0.0, to_scale(parameter, positive)).log_prob(torch.tensor(value)).backward()
    assert parameter.grad.isfinite()


def test_exp_always_leads_back():
    """However far out a scale has gone, its gradient points back: a clamp before exp would give 0 here."""
    raw = torch.tensor([-1e4, -100.0, -10.0, 10.0, 100.0, 1e4], requires_grad=True)
    bounded(raw).sum().backward()
    assert (raw.grad > 0).all()
    reference = (1 + (raw.detach().double() / 10).square()) ** -1.5
    torch.testing.assert_close(raw.grad.double(), reference, rtol=1e-3, atol=0)
