import pyro
import pytest
import torch
from pyro.infer import Trace_ELBO
from torch import nn

from pyro_vae.conditionals import (
    Bernoulli,
    Categorical,
    Conditional,
    ContinuousBernoulli,
    DiscretizedLogistic,
    DiscretizedLogisticMixture,
    Flow,
    FlowPrior,
    FullCovariance,
    LowRank,
    MixturePrior,
    Normal,
    NormalPrior,
    StandardNormal,
    VampPrior,
    join,
)
from pyro_vae.conditionals import conditional as conditionals
from pyro_vae.guides.latent import LatentGuide
from pyro_vae.models.latent import LatentModel
from pyro_vae.nets import MLP, ConvDecoder, ConvEncoder


def test_join():
    z, y = torch.randn(7, 5, 2), torch.randn(5, 3)
    joined = join(z, y)
    assert joined.shape == (7, 5, 5)
    torch.testing.assert_close(joined[3, 2], torch.cat([z[3, 2], y[2]]))
    assert join(z) is z
    assert join(torch.randn(4, 1, 2), torch.randn(3, 2), torch.randn(1)).shape == (4, 3, 5)
    with pytest.raises(TypeError, match="needs at least one context: for a distribution of nothing use a prior"):
        join()
    with pytest.raises(ValueError, match=r"contexts of shapes \(4, 2\) and \(5, 3\) cannot be joined"):
        join(torch.zeros(4, 2), torch.zeros(5, 3))


def test_net_and_head_must_fit():
    with pytest.raises(ValueError, match="the net MLP gives 10 numbers per datum and the head Normal needs 20"):
        Conditional(MLP(3, 10), Normal(10))
    with pytest.raises(ValueError, match=r"build the net with outputs=head\.size"):
        Conditional(nn.Linear(3, 10), Normal(10))(torch.zeros(3))


@pytest.mark.parametrize(
    "make",
    [
        Bernoulli,
        Normal,
        ContinuousBernoulli,
        DiscretizedLogistic,
        lambda n: Categorical(n, 5, 1.0),
        DiscretizedLogisticMixture,
    ],
)
@pytest.mark.parametrize("convolutional", [False, True])
def test_a_decoder_starts_near_the_data(make, convolutional):
    torch.manual_seed(0)
    head = make(32)
    net = ConvDecoder(3, (2, 4, 4), head.size, (8,)) if convolutional else MLP(3, head.size)
    mean, std = torch.linspace(0.05, 0.95, 32), torch.full((32,), 0.2)
    decoder = Conditional(net, head)
    assert decoder.start_at(mean, std, shrink=0.1) is decoder
    p = decoder(torch.randn(500, 3))
    assert (p.mean.mean(0) - mean).abs().max() < 0.15
    assert p.mean.std(0).max() > 0  # still listens to z


def test_an_encoder_starts_narrow():
    for head in (Normal(3), LowRank(3), FullCovariance(3)):
        encoder = Conditional(ConvEncoder((1, 4, 4), head.size, (4,)), head)
        q = encoder.start_at(torch.zeros(3), torch.full((3,), 0.1))(torch.rand(20, 16))
        assert (q.stddev.log().mean() - torch.tensor(0.1).log()).abs() < 0.5


def batch_for(head, size=6):
    torch.manual_seed(0)
    if isinstance(head, Categorical):
        return torch.randint(head.levels, (size, head.features)).float()
    if isinstance(head, Bernoulli):
        return torch.randint(2, (size, head.features)).float()
    if isinstance(head, DiscretizedLogistic):
        return torch.randint(head.levels, (size, head.features)) / (head.levels - 1)
    return torch.rand(size, head.features)


LIKELIHOODS = {
    "bernoulli": lambda: Bernoulli(16),
    "continuous bernoulli": lambda: ContinuousBernoulli(16),
    "logistic": lambda: DiscretizedLogistic(16, 17),
    "mixture": lambda: DiscretizedLogisticMixture(16, 17, 2),
    "categorical": lambda: Categorical(16, 4),
    "normal": lambda: Normal(16),
    "normal, learned": lambda: Normal(16, "learned"),
}
POSTERIORS = {
    "normal": lambda: Normal(3),
    "low rank": lambda: LowRank(3),
    "full": lambda: FullCovariance(3),
    "planar": lambda: Flow(3, "planar"),
    "autoregressive": lambda: Flow(3, "autoregressive"),
    "coupling": lambda: Flow(3, "coupling"),
    "spline coupling": lambda: Flow(3, "spline_coupling"),
    "spline autoregressive": lambda: Flow(3, "spline_autoregressive"),
}
PRIORS = {
    "standard": lambda encoder: StandardNormal(3),
    "normal": lambda encoder: NormalPrior(3),
    "mixture": lambda encoder: MixturePrior(3),
    "vamp": lambda encoder: VampPrior(encoder, torch.rand(4, 16)),
    "flow": lambda encoder: FlowPrior(3, "autoregressive"),
}
PAIRS = [
    *((name, "normal", "standard") for name in LIKELIHOODS),
    *(("bernoulli", name, "standard") for name in POSTERIORS),
    *(("bernoulli", name, "flow") for name in POSTERIORS),
    *(("bernoulli", "full", name) for name in PRIORS),
]


@pytest.mark.parametrize(("likelihood", "posterior", "prior"), PAIRS)
def test_pairs_have_a_finite_elbo_that_moves_every_parameter(likelihood, posterior, prior):
    torch.manual_seed(0)
    head, code = LIKELIHOODS[likelihood](), POSTERIORS[posterior]()
    encoder = Conditional(ConvEncoder((1, 4, 4), code.size, (4,), hidden=8), code)
    decoder = Conditional(ConvDecoder(3, (1, 4, 4), head.size, (4,), hidden=8), head)
    model, guide = LatentModel(PRIORS[prior](encoder), decoder), LatentGuide(encoder)
    x = batch_for(head)
    with pyro.validation_enabled():
        loss = Trace_ELBO(num_particles=3, vectorize_particles=True, max_plate_nesting=1)(model, guide)(x)
        loss.backward()
    assert loss.isfinite()
    for program in (model, guide):
        missing = [name for name, p in program.named_parameters() if p.grad is None or not p.grad.any()]
        assert missing == []
        assert all(p.grad.isfinite().all() for p in program.parameters())
    with pyro.validation_enabled(), pyro.poutine.uncondition(), torch.no_grad():
        drawn = model(x)
        assert decoder.head(torch.zeros(head.size)).support.check(drawn).all()
        LatentGuide(encoder)(drawn)  # what the model draws, the guide can take


def test_several_contexts():
    head = Normal(4)
    decoder = Conditional(MLP(5, head.size), head)
    z, y = torch.randn(7, 5, 2), torch.eye(3)[torch.tensor([0, 1, 2, 0, 1])]
    p = decoder(z, y)
    assert (p.batch_shape, p.event_shape) == ((7, 5), (4,))
    torch.testing.assert_close(p.mean[3, 2], decoder(z[3, 2], y[2]).mean)


def test_all_names_exist():
    assert [name for name in conditionals.__all__ if not hasattr(conditionals, name)] == []


def test_state_survives_saving(tmp_path):
    for make in [*LIKELIHOODS.values(), *POSTERIORS.values()]:
        torch.manual_seed(0)
        head = make()
        first, second = Conditional(MLP(3, head.size), head), Conditional(MLP(3, head.size), make())
        torch.save(first.state_dict(), tmp_path / "state.pt")
        second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
        x = torch.randn(5, 3)
        draws = []
        for conditional in (first, second):
            torch.manual_seed(1)
            draws.append(conditional(x).sample())
        torch.testing.assert_close(draws[0], draws[1], atol=0, rtol=0)
