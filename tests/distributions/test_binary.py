"""Binary vectors, whose log-probabilities are products of matrices where few logits meet many data."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from pyro_vae.distributions import BinaryVector

K, B, D = 5, 7, 11


class Largest(TorchDispatchMode):
    """Notes the number of elements of the largest tensor that is made."""

    def __init__(self):
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        if isinstance(found, torch.Tensor) and not found._is_view():
            self.numbers = max(self.numbers, found.numel())
        return found


def case(logits, value, expanded):
    torch.manual_seed(0)
    logits = (4 * torch.randn(*logits, D, dtype=torch.float64)).requires_grad_()
    x = torch.bernoulli(torch.full((*value, D), 0.4, dtype=torch.float64))
    ours, theirs = BinaryVector(logits), dist.Bernoulli(logits=logits).to_event(1)
    if expanded:
        ours, theirs = ours.expand(expanded), theirs.expand(expanded)
    return logits, x, ours, theirs


@pytest.mark.parametrize(
    ("logits", "value", "expanded"),
    [
        ((K, 1), (B,), None),
        ((K, 1), (B,), (K, B)),
        ((K, 1), (B,), (3, K, B)),
        ((2, K, 1), (B,), None),
        ((K, 1, 1), (3, B), None),
        ((K, 1), (K, B), None),  # data with as many dimensions as the logits: one by one
        ((K, B), (B,), None),
        ((B,), (B,), None),
        ((), (B,), None),
        ((), (), None),
    ],
)
def test_is_bernoulli(logits, value, expanded):
    logits, x, ours, theirs = case(logits, value, expanded)
    found, right = ours.log_prob(x), theirs.log_prob(x)
    assert found.shape == right.shape
    assert torch.allclose(found, right, rtol=1e-13, atol=1e-13)
    weight = torch.rand_like(found)
    assert torch.allclose(
        *(torch.autograd.grad((weight * each).sum(), logits)[0] for each in (found, right)), rtol=1e-12, atol=1e-12
    )
    assert ours.sample().shape == theirs.sample().shape
    assert ours.mean.equal(theirs.mean)
    assert (ours.batch_shape, ours.event_shape) == (theirs.batch_shape, theirs.event_shape)


def test_no_array_of_components_data_and_features_is_made():
    _, x, ours, theirs = case((K, 1), (B,), (K, B))
    made = []
    for each in (ours, theirs):
        with Largest() as seen:
            each.log_prob(x).sum().backward()
        made.append(seen.numbers)
    assert made == [max(K * B, K * D, B * D), K * B * D]


def test_values_that_are_no_bits_are_refused():
    _, x, ours, _ = case((K, 1), (B,), None)
    x[0, 0] = 0.5
    with pyro.validation_enabled(True), pytest.raises(ValueError, match="support"):
        BinaryVector(ours.base_dist.logits).log_prob(x)
