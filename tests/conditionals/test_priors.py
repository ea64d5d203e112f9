import copy

import pyro
import pytest
import torch
from tables import some
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx

from pyro_vae.conditionals import (
    KINDS,
    Conditional,
    Flow,
    FlowPrior,
    FullCovariance,
    LowRank,
    MixturePrior,
    Normal,
    NormalPrior,
    StandardNormal,
    VampPrior,
)
from pyro_vae.nets import MLP


def encoder(latent: int = 2, head: type = Normal) -> Conditional:
    made = head(latent)
    return Conditional(MLP(6, made.size, (8,)), made)


PRIORS = {
    "standard": lambda: StandardNormal(2),
    "normal": lambda: NormalPrior(2),
    "mixture": lambda: MixturePrior(2, 7),
    "vamp": lambda: VampPrior(encoder().double(), torch.randn(5, 6)),
    "vamp, low rank": lambda: VampPrior(encoder(head=LowRank).double(), torch.randn(5, 6)),
    "vamp, full": lambda: VampPrior(encoder(head=FullCovariance).double(), torch.randn(5, 6)),
    **{f"flow, {kind}": lambda kind=kind: FlowPrior(2, kind, layers=3, hidden=(8,)) for kind in KINDS[1:]},
}


@pytest.fixture(params=PRIORS)
def prior(request):
    """A prior away from its start, float64."""
    torch.manual_seed(0)
    made = PRIORS[request.param]().double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return made


def test_density_integrates_to_one(prior):
    axis = torch.linspace(-12, 12, 241, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis).reshape(241, 241, 2)
    with torch.no_grad():
        total = torch.trapezoid(torch.trapezoid(prior().log_prob(grid).exp(), axis), axis)
    assert abs(total - 1) < 1e-3


def test_draws_follow_the_density(prior):
    """Mean and covariance of draws against those of the density on a grid."""
    axis = torch.linspace(-12, 12, 241, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    torch.manual_seed(1)
    with torch.no_grad():
        weights = torch.softmax(prior().log_prob(grid), 0)
        draws = prior().sample((20_000,))
    mean = weights @ grid
    assert ((draws.mean(0) - mean).abs() < 5 * draws.std(0) / 20_000**0.5 + 1e-3).all()
    second = (weights.unsqueeze(-1) * (grid - mean)).T @ (grid - mean)
    torch.testing.assert_close(torch.cov(draws.T), second, atol=0.1, rtol=0.1)


def test_shapes_and_plates(prior):
    p = prior()
    assert (p.batch_shape, p.event_shape) == ((), (2,))
    for lead in [(), (5,), (3, 5), (3, 1, 5)]:
        wide = p.expand(lead)
        z = wide.sample()
        assert z.shape == (*lead, 2)
        assert wide.log_prob(z).shape == lead
        assert p.support.check(z).all()
    with pyro.plate("data", 5):
        assert pyro.sample("z", prior()).shape == (5, 2)


def test_every_parameter_gets_a_gradient(prior):
    if not list(prior.parameters()):
        assert isinstance(prior, StandardNormal)
        return
    prior().log_prob(torch.randn(30, 2, dtype=torch.float64)).sum().backward()
    assert [name for name, p in prior.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("prior", some(PRIORS, 2), indirect=True)
def test_density_can_be_recorded(prior):
    def score(z):
        return prior().log_prob(z)

    first, second = torch.randn(2, 4, 2, dtype=torch.float64).unbind()
    with pyro.validation_enabled(False), torch.no_grad():
        torch.testing.assert_close(make_fx(score)(first)(second), score(second))


def test_a_flow_prior_follows_its_parameters():
    """Pyro's transform modules keep the last value they saw; scored after a step, it has its old density."""
    prior = FlowPrior(2)
    z = torch.randn(5, 2)
    before = prior().log_prob(z)
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.add_(1.0)
    assert not torch.allclose(prior().log_prob(z), before)


@pytest.mark.parametrize("make", [lambda: NormalPrior(3), lambda: FlowPrior(3), lambda: MixturePrior(3, 2000)])
def test_begins_near_the_standard_normal(make):
    torch.manual_seed(0)
    draws = make()().sample((5000,))
    assert draws.mean(0).abs().max() < 0.15
    assert (draws.std(0) - 1).abs().max() < 0.15


def test_a_vamp_prior_does_not_own_the_encoder():
    guide, prior_inputs = encoder(), torch.randn(5, 6)
    pair = nn.ModuleDict({"prior": VampPrior(guide, prior_inputs), "guide": guide})
    assert {name for name, _ in pair["prior"].named_parameters()} == {"inputs", "logits"}
    everything = list(pair["prior"].parameters()) + list(pair["guide"].parameters())
    assert len(everything) == len({id(p) for p in everything})
    torch.optim.Adam(everything)  # warns when a parameter comes twice
    pair["prior"]().log_prob(torch.randn(4, 2)).sum().backward()
    assert all(p.grad is not None for p in guide.parameters())
    twin = copy.deepcopy(pair)
    assert twin["prior"].encoder is twin["guide"]
    assert twin["prior"].encoder is not guide
    pair.double()
    assert pair["prior"]().log_prob(torch.randn(4, 2, dtype=torch.float64)).dtype == torch.float64
    assert not any("encoder" in name for name in pair["prior"].state_dict())


def test_pseudo_inputs_begin_near_the_data():
    torch.manual_seed(0)
    mean, std = torch.linspace(0, 1, 6), torch.linspace(0.1, 2, 6)
    inputs = VampPrior.around(encoder(), mean, std, components=4000).inputs
    assert ((inputs.mean(0) - mean) / std).abs().max() < 0.1
    assert (inputs.std(0) / std - 1).abs().max() < 0.1


def test_messages():
    with pytest.raises(ValueError, match="components must be at least 1, got 0"):
        MixturePrior(2, 0)
    with pytest.raises(ValueError, match=r"pseudo-inputs have shape \(components, features\), and these have \(6,\)"):
        VampPrior(encoder(), torch.zeros(6))
    flow = Flow(2)
    with pytest.raises(TypeError, match="this encoder gives a flow: use a Normal, LowRank or FullCovariance head"):
        VampPrior(Conditional(MLP(6, flow.size), flow), torch.zeros(3, 6))()
