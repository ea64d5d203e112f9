"""Autoregressive densities are densities: they sum and integrate to one, and are what is drawn."""

import math
from itertools import product

import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

from pyro_vae import distributions
from pyro_vae.conditionals import (
    Autoregressive,
    Bernoulli,
    Categorical,
    ContinuousBernoulli,
    Density,
    DiscretizedLogistic,
    DiscretizedLogisticMixture,
    FullCovariance,
    Head,
    Normal,
)
from pyro_vae.distributions import Rescaled, by_feature
from pyro_vae.nets import MaskedMLP, PixelCNN


def net_of(head: Head, order: list[int] | None = None) -> MaskedMLP:
    order = list(range(head.features)) if order is None else order
    torch.manual_seed(0)
    net = MaskedMLP(torch.tensor(order), head.size // head.features, (11,), "silu").double()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.normal_()
    return net


def density(head: Head, order: list[int] | None = None, *lead: int) -> distributions.Autoregressive:
    head = head.double()
    torch.manual_seed(1)
    return Autoregressive(head, net_of(head, order))(0.5 * torch.randn(*lead, head.size, dtype=torch.float64))


def every(values: list[float], features: int) -> Tensor:
    return torch.tensor(list(product(values, repeat=features)), dtype=torch.float64)


LEVELS = {
    "bernoulli": (lambda n: Bernoulli(n), [0.0, 1.0], 8),
    "categorical": (lambda n: Categorical(n, 4, highest=1.0), [0, 1 / 3, 2 / 3, 1], 4),
    "discretized logistic": (lambda n: DiscretizedLogistic(n, 4), [0, 1 / 3, 2 / 3, 1], 4),
    "logistic mixture": (lambda n: DiscretizedLogisticMixture(n, 4, 3), [0, 1 / 3, 2 / 3, 1], 4),
}
REAL = {
    "normal": lambda: Normal(2),
    "normal, softplus": lambda: Normal(2, positive="softplus"),
    "normal, fixed": lambda: Normal(2, "fixed", value=0.3),
    "normal, learned": lambda: Normal(2, "learned", value=0.3),
    "normal, per feature": lambda: Normal(2, "per_feature", value=0.3),
}


@pytest.mark.parametrize("name", LEVELS)
@pytest.mark.parametrize("reverse", [False, True])
def test_probabilities_sum_to_one(name: str, reverse: bool) -> None:
    make, values, features = LEVELS[name]
    order = list(range(features))[::-1] if reverse else None
    total = density(make(features), order).log_prob(every(values, features)).exp().sum()
    assert total.item() == pytest.approx(1, abs=1e-12)


def test_a_net_that_peeks_does_not_sum_to_one() -> None:
    fn = density(Bernoulli(8))
    fn.net.direct.mask.fill_(1)  # every feature reads all others, and itself
    assert abs(fn.log_prob(every([0.0, 1.0], 8)).exp().sum().item() - 1) > 0.1


def test_a_pixelcnn_sums_to_one() -> None:
    torch.manual_seed(0)
    net = PixelCNN((1, 3, 3), 1, (5, 5), "silu").double()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.normal_()
    fn = Autoregressive(Bernoulli(9), net)(torch.randn(9, dtype=torch.float64))
    assert fn.log_prob(every([0.0, 1.0], 9)).exp().sum().item() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("name", [*REAL, "continuous bernoulli"])
def test_densities_integrate_to_one(name: str) -> None:
    fn = density(REAL[name]() if name in REAL else ContinuousBernoulli(2), [1, 0])
    # the second given the first, on a grid for each; the first from a long one
    low, high = (-60.0, 60.0) if name in REAL else (0.0, 1.0)
    line = torch.linspace(low, high, 200_001, dtype=torch.float64)
    step = (high - low) / (len(line) - 1)
    for known in (0.2, 0.9):
        x = torch.stack([line, torch.full_like(line, known)], -1)  # feature 1 comes first
        parts = by_feature(fn, x)
        assert (torch.trapezoid(parts[:, 0].exp(), dx=step)).item() == pytest.approx(1, abs=1e-5)
        assert parts[:, 1].std().item() < 1e-12  # nothing of feature 0 is read
    first = by_feature(fn, torch.stack([torch.zeros_like(line), line], -1))[:, 1]
    assert torch.trapezoid(first.exp(), dx=step).item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("order", [None, [3, 1, 0, 2]])
def test_draws_are_distributed_as_log_prob_says(order: list[int] | None) -> None:
    fn, count = density(Bernoulli(4), order), 20_000
    x = every([0.0, 1.0], 4)
    p = fn.log_prob(x).exp()
    torch.manual_seed(3)
    draws = fn.expand([count]).sample()
    assert draws.dtype is torch.float64
    index = (draws @ torch.tensor([8.0, 4.0, 2.0, 1.0], dtype=torch.float64)).long()
    found = torch.bincount(index, minlength=16) / count
    chi = (count * (found - p).square() / p).sum().item()
    assert chi < 15 + 5 * math.sqrt(30)  # chi square with 15 degrees of freedom: five deviations
    assert (found - p).abs().max().item() < 5 * (0.25 / count) ** 0.5


@pytest.mark.parametrize("name", [*LEVELS, *REAL, "continuous bernoulli"])
def test_draws_have_the_density_s_mean_log_prob(name: str) -> None:
    """E[log q - log p] = -KL is 0 for q = p, so the entropies by part and whole agree with another head's draws."""
    head = LEVELS[name][0](4) if name in LEVELS else REAL[name]() if name in REAL else ContinuousBernoulli(2)
    fn = density(head)
    torch.manual_seed(4)
    x = fn.sample((4_000,))
    assert fn.support.check(x).all()
    fresh = fn.conditionals(x).sample()  # of each feature, given the same ones before it
    difference = by_feature(fn, x) - fn.conditionals(x).base_dist.log_prob(fresh)
    error = difference.std(0) / 4_000**0.5
    assert (difference.mean(0).abs() <= 4.5 * error + 1e-9).all()


def test_parts_of_a_head_are_the_head() -> None:
    """What draws one feature has the density of that feature."""
    heads = [make(3) for make, _, _ in LEVELS.values()] + [ContinuousBernoulli(3), Normal(3), Normal(3, "learned")]
    heads += [Normal(3, "fixed", value=0.3), Normal(3, "per_feature"), Normal(3).in_units(torch.tensor([1.0, 2, 3]))]
    heads += [Normal(3, "fixed").in_units(torch.tensor([1.0, 2.0, 3.0]))]
    for head in heads:
        with torch.no_grad():
            for parameter in head.parameters():
                parameter.normal_()
        parameters = torch.randn(5, head.size)
        whole = head(parameters)
        x = whole.sample()
        kinds = parameters.unflatten(-1, (-1, 3))
        for i in range(3):
            one = head.part([i])(kinds[..., i])
            torch.testing.assert_close(one.log_prob(x[:, i : i + 1]), whole.base_dist.log_prob(x)[:, i])
        two = head.part([2, 0])(kinds[..., [2, 0]].flatten(-2))
        torch.testing.assert_close(two.log_prob(x[:, [2, 0]]), whole.base_dist.log_prob(x)[:, [2, 0]].sum(-1))


def test_what_is_given_stays_and_the_rest_has_its_exact_distribution() -> None:
    order = [2, 0, 3, 1]
    fn, count = density(Bernoulli(4), order), 20_000
    x = torch.tensor([1.0, 0.0, 1.0, 0.0], dtype=torch.float64)  # features 2 and 0 are given
    torch.manual_seed(5)
    drawn = fn.expand([count]).complete(x.expand(count, 4), 2)
    assert (drawn[:, [2, 0]] == x[[2, 0]]).all()
    assert torch.equal(x, torch.tensor([1.0, 0.0, 1.0, 0.0], dtype=torch.float64))
    every_rest = every([0.0, 1.0], 2)
    whole = x.expand(4, 4).clone()
    whole[:, [3, 1]] = every_rest
    p = torch.softmax(fn.log_prob(whole), 0)
    found = torch.bincount((drawn[:, [3, 1]] @ torch.tensor([2.0, 1.0], dtype=torch.float64)).long(), minlength=4)
    assert ((found / count - p).abs() < 4.5 * (p * (1 - p) / count).sqrt()).all()


def test_in_units_the_density_is_that_of_the_data() -> None:
    fn = density(Normal(2), None, 3)
    loc, scale = torch.tensor([1.0, -2.0]).double(), torch.tensor([3.0, 0.5]).double()
    moved = Rescaled(fn, loc, scale)
    torch.manual_seed(0)
    x = moved.sample()
    torch.testing.assert_close(moved.log_prob(x), fn.log_prob((x - loc) / scale) - scale.log().sum())
    torch.testing.assert_close(by_feature(moved, x).sum(-1), moved.log_prob(x))
    torch.manual_seed(0)
    again = moved.complete(x, 1)
    assert torch.allclose(again[:, 0], x[:, 0])
    assert not torch.allclose(again[:, 1], x[:, 1])


def test_context_adds_to_what_the_features_say() -> None:
    fn = density(Bernoulli(4), None, 2, 3)
    x = (torch.rand(3, 4) < 0.5).double()
    assert fn.batch_shape == (2, 3)
    expected = dist.Bernoulli(logits=fn.parameters + fn.net(x)).to_event(1).log_prob(x)
    torch.testing.assert_close(fn.log_prob(x), expected)
    assert fn.sample((5,)).shape == (5, 2, 3, 4)


def test_without_weights_it_is_the_independent_density() -> None:
    head = Bernoulli(5)
    net = MaskedMLP(torch.arange(5), 1, (4,))
    with torch.no_grad():
        net.last.weight.zero_()
    mean = torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9])
    fn = Density(Autoregressive(head, net), mean)()
    x = every([0.0, 1.0], 5).float()
    torch.testing.assert_close(fn.log_prob(x), dist.Bernoulli(mean).to_event(1).log_prob(x))


def test_the_chain_rule_in_every_order() -> None:
    """Cloud .5; sprinkler .1 given cloud and .5 without; rain .8 and .2: log p at (1, 0, 1)."""

    class Chain(nn.Module):
        """The conditional of each of three features in any order, by summing the table."""

        def __init__(self, order: tuple[int, ...]) -> None:
            super().__init__()
            self.order = torch.tensor(order)
            self.inputs = self.outputs = 3
            self.passes = 1

        def forward(self, x: Tensor) -> Tensor:
            logits = torch.zeros_like(x)
            for place, feature in enumerate(self.order.tolist()):
                known = self.order[:place].tolist()
                one, all_ = 0.0, 0.0
                for case in product((0, 1), repeat=3):
                    if all(case[k] == int(x[k]) for k in known):
                        all_ += TABLE[case]
                        one += TABLE[case] * case[feature]
                logits[feature] = math.log(one / (all_ - one))
            return logits

    TABLE = {}
    for cloud, sprinkler, rain in product((0, 1), repeat=3):
        s, r = (0.1, 0.8) if cloud else (0.5, 0.2)
        TABLE[cloud, sprinkler, rain] = 0.5 * (s if sprinkler else 1 - s) * (r if rain else 1 - r)
    x = torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64)
    for order in [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)]:
        fn = Autoregressive(Bernoulli(3), Chain(order))(torch.zeros(3, dtype=torch.float64))
        assert fn.log_prob(x).item() == pytest.approx(-1.021651247532, abs=1e-12)


def test_what_has_no_autoregressive_form_is_refused() -> None:
    head = FullCovariance(3)
    with pytest.raises(ValueError, match="FullCovariance has no autoregressive form"):
        Autoregressive(head, MaskedMLP(torch.arange(3), head.size // 3))


def test_a_net_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="makes 3 numbers of 3, and the head Normal of 3 features needs 6"):
        Autoregressive(Normal(3), MaskedMLP(torch.arange(3), 1))


def test_it_says_what_a_draw_costs_and_that_there_is_no_mean() -> None:
    fn = density(Bernoulli(4))
    assert (fn.passes, fn.has_rsample) == (1, False)
    with pytest.raises(NotImplementedError):
        fn.mean  # noqa: B018
    assert PixelCNN((1, 28, 28)).passes == 8 * 15  # 784 steps of 8 x 15 of 784 pixels
