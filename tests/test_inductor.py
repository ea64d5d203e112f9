"""Inductor's code: kernels in an order that can be run, updates next to their gradients, draws as they were; called straight."""

import random

import pytest
import torch

from pyro_vae.inductor import inductor
from pyro_vae.kernel_order import least_to_come_first
from pyro_vae.recording import trace


@pytest.mark.parametrize("seed", range(20))
def test_each_comes_once_and_after_what_it_needs(seed):
    rng = random.Random(seed)
    needs = [set(rng.sample(range(i), min(i, rng.randrange(4)))) for i in range(60)]
    order = least_to_come_first(needs)
    assert sorted(order) == list(range(60))
    place = {i: at for at, i in enumerate(order)}
    assert all(place[j] < place[i] for i, others in enumerate(needs) for j in others)


def test_an_update_follows_its_gradient():
    # three layers: errors 0 -> 1 -> 2, the gradient of each layer, then the update of each
    errors, gradients, updates = [set(), {0}, {1}], [{0}, {1}, {2}], [{3}, {4}, {5}]
    order = least_to_come_first([*errors, *gradients, *updates])
    assert order == [0, 3, 6, 1, 4, 7, 2, 5, 8]


@pytest.mark.parametrize("needs", [[set(), {1}], [{1}, set()]])
def test_an_order_that_cannot_be_run_in_is_refused(needs):
    with pytest.raises(ValueError, match="not given in an order"):
        least_to_come_first(needs)


def several_draws(x, w):
    """The first draw has the longest way to go, so it would be drawn last if draws could move."""
    first, second, third = (torch.randn_like(x) for _ in range(3))
    return [torch.tanh(first @ w @ w @ w @ w + x), second @ w, third + second]


def test_draws_stay_in_their_order():
    x, w = torch.randn(40, 40), torch.randn(40, 40) / 7
    code = inductor(trace(several_draws, [x, w]), [x, w])
    for seed in (1, 2):
        torch.manual_seed(seed)
        wanted = several_draws(x, w)
        torch.manual_seed(seed)
        for got, value in zip(code(x, w), wanted, strict=True):
            torch.testing.assert_close(got, value, atol=1e-5, rtol=1e-5)


def test_code_called_straight_writes_once_and_lets_autograd_know():
    """Constants of the graph are handed over too."""

    def step(p, x):
        p.add_(x * torch.tensor([1.0, 2.0, 3.0]))
        return [p.sum()]

    p, x = torch.zeros(3), torch.ones(3)
    code = inductor(trace(step, [p.clone(), x]), [p, x])
    versions = []
    for i in (1, 2, 3):
        before = p._version
        (total,) = code(p, x)
        versions.append(p._version - before)
        assert p.tolist() == [i, 2 * i, 3 * i]
        assert total.item() == 6 * i
    assert code._straight is not None
    assert versions == [1, 1, 1]
