"""The linter: every mistake that Pyro lets pass, and what is said about it."""

from contextlib import nullcontext

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import TraceEnum_ELBO, config_enumerate
from pyro.nn import PyroModule, PyroParam
from torch import nn

import pyro_vae as pv
from pyro_vae.guides.linear import LinearGuide
from pyro_vae.models.linear import LinearModel

B, D, Z = 12, 5, 2


def batch(**fields):
    torch.manual_seed(0)
    return {"x": torch.randn(B, D), "y": torch.arange(B) % 3, **fields}


class Model(PyroModule):
    """A sound linear model; the mistakes below override one method each."""

    latent = Z

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(self.latent, D)

    def prior(self, x):
        return dist.Normal(torch.zeros(self.latent), 1.0).to_event(1)

    def likelihood(self, z):
        return dist.Normal(self.net(z), 1.0).to_event(1)

    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", self.prior(x))
            return pyro.sample("x", self.likelihood(z), obs=x)


class Guide(PyroModule):
    site = "z"

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(D, 2 * Z)

    def posterior(self, x):
        loc, scale = self.net(x).chunk(2, -1)
        return dist.Normal(loc, scale.exp()).to_event(1)

    def forward(self, x):
        with pyro.plate("data", len(x)):
            return pyro.sample(self.site, self.posterior(x))


def sound():
    model, both = LinearModel(Z, D), Both()
    return [
        (Model(), Guide(), batch()),
        (model, LinearGuide(model), batch()),
        (with_param, guide_with_param, batch()),
        (both.model, both.guide, batch()),
        (enumerated, no_latents, batch()),
    ]


def with_param(x):
    weight = pyro.param("weight", lambda: torch.randn(Z, D))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(Z), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z @ weight, 1.0).to_event(1), obs=x)


def guide_with_param(x):
    loc = pyro.param("loc", torch.zeros(Z))
    scale = pyro.param("scale", torch.ones(Z), constraint=dist.constraints.positive)
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(loc, scale).to_event(1))


class Both(nn.Module):
    """Bound methods of one module, as Pyro's own VAE example has them."""

    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = nn.Linear(D, Z), nn.Linear(Z, D)

    def model(self, x):
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", dist.Normal(torch.zeros(Z), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(z), 1.0).to_event(1), obs=x)

    def guide(self, x):
        pyro.module("encoder", self.encoder)
        with pyro.plate("data", x.shape[0]):
            pyro.sample("z", dist.Normal(self.encoder(x), 1.0).to_event(1))


@config_enumerate
def enumerated(x):
    loc = pyro.param("loc", lambda: torch.randn(3, D))
    with pyro.plate("data", len(x)):
        k = pyro.sample("k", dist.Categorical(torch.ones(3) / 3))
        pyro.sample("x", dist.Normal(loc[k], 1.0).to_event(1), obs=x)


def no_latents(x):
    pass


@pytest.mark.parametrize("row", range(5))
def test_a_sound_pair_passes_and_is_left_as_it_was(row):
    model, guide, data = sound()[row]
    objective = TraceEnum_ELBO(max_plate_nesting=1) if model is enumerated else None
    before = {n: p.clone() for n, p in pv.Pair(model, guide).named_parameters().items()}
    state = torch.get_rng_state()
    pv.check_pair(model, guide, data, objective=objective)
    assert torch.equal(torch.get_rng_state(), state)
    for name, value in pv.Pair(model, guide).named_parameters().items():
        assert torch.equal(value, before[name])
        assert value.grad is None


# --- mistakes: a class of the sound pair with one thing wrong ---------------------------------------------------


class Misspelled(Guide):
    site = "zz"


class Auxiliary(Guide):
    def forward(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", self.posterior(x))
            pyro.sample("extra", dist.Normal(torch.zeros(B), 1.0))


class Observes(Guide):
    def forward(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", self.posterior(x), obs=torch.zeros(len(x), Z))


class SamplesData(Guide):
    def forward(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", self.posterior(x))
            pyro.sample("x", dist.Normal(x, 1.0).to_event(1))


class WrongEvent(Guide):
    def forward(self, x):
        loc, scale = self.net(x).chunk(2, -1)
        with pyro.plate("data", len(x), dim=-1), pyro.plate("latent", Z, dim=-2):
            pyro.sample("z", dist.Normal(loc.T, scale.T.exp()))


class NoEventGuide(Guide):
    def forward(self, x):
        loc, scale = self.net(x).chunk(2, -1)
        pyro.sample("z", dist.Normal(loc, scale.exp()))


class NoEvent(Model):
    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", self.prior(x))
        pyro.sample("x", dist.Normal(self.net(z), 1.0), obs=x)


class WrongSize(Guide):
    def posterior(self, x):
        return dist.Normal(x[:, :3], self.net(x)[:, :1].exp()).to_event(1)


class OtherPlate(Guide):
    def forward(self, x):
        with pyro.plate("batch", len(x)):
            pyro.sample("z", self.posterior(x))


class NoPlate(Model):
    def forward(self, x):
        with pyro.plate("items", len(x)):
            z = pyro.sample("z", self.prior(x))
            return pyro.sample("x", self.likelihood(z), obs=x)


class NoPlateGuide(Guide):
    def forward(self, x):
        with pyro.plate("items", len(x)):
            return pyro.sample("z", self.posterior(x))


class FixedPlate(Model):
    def forward(self, x):
        with pyro.plate("data", 100, subsample=torch.arange(len(x) - 2)):
            z = pyro.sample("z", self.prior(x))
            return pyro.sample("x", self.likelihood(z), obs=x[:-2])


class FixedPlateGuide(Guide):
    def forward(self, x):
        with pyro.plate("data", 100, subsample=torch.arange(len(x) - 2)):
            return pyro.sample("z", self.posterior(x[:-2]))


class InnerData(Model):
    def forward(self, x):
        with pyro.plate("data", len(x), dim=-2):
            z = pyro.sample("z", dist.Normal(torch.zeros(Z), 1.0).to_event(1))
            return pyro.sample("x", self.likelihood(z), obs=x[:, None])


class InnerDataGuide(Guide):
    def forward(self, x):
        with pyro.plate("data", len(x), dim=-2):
            return pyro.sample("z", self.posterior(x[:, None]))


class Bernoulli(Model):
    def likelihood(self, z):
        return dist.Bernoulli(logits=self.net(z)).to_event(1)


class PositivePrior(Model):
    def prior(self, x):
        return dist.Gamma(torch.ones(Z), 1.0).to_event(1)


class Peeks(Model):
    def prior(self, x):
        return dist.Normal(x[:, :Z], 1.0).to_event(1)


class PeeksInDecoder(Model):
    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", self.prior(x))
            return pyro.sample("x", dist.Normal(self.net(z) + 0.1 * x, 1.0).to_event(1), obs=x)


class Silent(Model):
    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", self.prior(x))
            return pyro.sample("x", self.likelihood(z))


class Unused(Model):
    def __init__(self):
        super().__init__()
        self.spare = nn.Linear(2, 2)


class Hidden(Model):
    def __init__(self):
        super().__init__()
        self.weights = [torch.randn(Z, D, requires_grad=True)]

    def likelihood(self, z):
        return dist.Normal(self.net(z) + z @ self.weights[0], 1.0).to_event(1)


class Detached(Guide):
    def posterior(self, x):
        loc, scale = self.net(x).detach().chunk(2, -1)
        return dist.Normal(loc, scale.exp()).to_event(1)


class ZeroScale(Guide):
    def posterior(self, x):
        loc, scale = self.net(x).chunk(2, -1)
        return dist.Normal(loc, 0 * scale).to_event(1)


class NanScale(Model):
    def likelihood(self, z):
        return dist.Normal(self.net(z), torch.tensor(float("nan"))).to_event(1)


class WrongWidth(Guide):
    def posterior(self, x):
        return super().posterior(x[:, :3])


class NeedsLabel(Model):
    def forward(self, x, label):
        return super().forward(x)


class WrongFeatures(Model):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(Z, 1)


class ForgetsLatent(Guide):
    def forward(self, x):
        return self.net(x)


class TwoLatents(Model):
    def forward(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("w", dist.Normal(0.0, 1.0))
            z = pyro.sample("z", self.prior(x))
            return pyro.sample("x", self.likelihood(z), obs=x)


class DiscreteLatent(Model):
    def prior(self, x):
        return dist.Bernoulli(torch.full((Z,), 0.5)).to_event(1)


MISTAKES = [
    # model, guide, fields, site, said
    (
        Model,
        Misspelled,
        {},
        "z",
        ["Misspelled does not sample latent site 'z' of Model (it samples 'zz')", "same name in both"],
    ),
    (
        TwoLatents,
        Guide,
        {},
        "w",
        ["does not sample latent site 'w'", "(it samples 'z')", "Add a sample statement for 'w'"],
    ),
    (Model, ForgetsLatent, {}, "z", ["does not sample latent site 'z'", "it samples nothing"]),
    (Model, Auxiliary, {}, "extra", ["samples 'extra', which Model does not have", "is_auxiliary"]),
    (Model, Observes, {}, "z", ["guide Observes observes site 'z'", "remove obs="]),
    (Model, SamplesData, {}, "x", ["samples 'x', which Model observes", "Remove it from the guide"]),
    (Model, WrongEvent, {}, "z", ["lies in the plates ['data', 'latent'] of the guide and ['data'] of the model"]),
    (Model, NoEventGuide, {}, "z", ["site 'z' of NoEventGuide has batch shape (12, 2)", "explain 0 dims"]),
    (NoEvent, Guide, {}, "x", ["site 'x' of NoEvent has batch shape (12, 5)", "explain 0 dims", ".to_event(1)"]),
    (Model, WrongSize, {}, "z", ["size (3,) in WrongSize and (2,) in Model"]),
    (Model, OtherPlate, {}, "z", ["['batch'] of the guide and ['data'] of the model"]),
    (NoPlate, NoPlateGuide, {}, "", ["no site of NoPlate lies in a plate 'data'", "data_plate='items'"]),
    (FixedPlate, FixedPlateGuide, {}, "", ["plate 'data' has size 10 and the batch 12 data", "len(x)"]),
    (InnerData, InnerDataGuide, {}, "", ["plate 'data' is at dim -2"]),
    (Bernoulli, Guide, {}, "x", ["outside the support of its likelihood Bernoulli", "--likelihood normal"]),
    (Bernoulli, Guide, {"x": torch.rand(B, D)}, "x", ["values from", "likelihood Bernoulli", "--binarize dynamic"]),
    (Model, Guide, {"x": torch.full((B, D), float("nan"))}, "x", ["60 of 60 values of the field 'x' are not finite"]),
    (PositivePrior, Guide, {}, "z", ["draws values from", "outside the support of its prior Gamma"]),
    (Peeks, Guide, {}, "z", ["model Peeks peeks: its draw at site 'z' changes when only x changes", "obs="]),
    (PeeksInDecoder, Guide, {}, "x", ["peeks: its draw at site 'x' changes"]),
    (Silent, Guide, {}, "x", ["does not sample latent site 'x'"]),
    (Unused, Guide, {}, "model.spare.weight", ["no gradient reaches the parameter 'model.spare.weight' (2, 2)"]),
    (
        Hidden,
        Guide,
        {},
        "x",
        ["trainable tensor (2, 5) that neither model nor guide registers", "Make it an nn.Parameter"],
    ),
    (Model, Detached, {}, "guide.net.weight", ["no gradient reaches the parameter 'guide.net.weight'"]),
    (Model, ZeroScale, {}, "z", ["log-probability of site 'z' of ZeroScale is nan", "scale away from 0"]),
    (NanScale, Guide, {}, "x", ["log-probability of site 'x' of NanScale is nan for 12 of 12"]),
    (Model, WrongWidth, {}, "", ["WrongWidth fails on the batch (x (12, 5))"]),
    (NeedsLabel, Guide, {}, "label", ["needs the field 'label' and the data have 'x', 'y'"]),
    (WrongFeatures, Guide, {}, "x", ["observes values of shape (12, 5)", "event shape (1,)"]),
    (DiscreteLatent, Guide, {}, "z", ["outside the support of its prior Bernoulli"]),
]


@pytest.mark.parametrize(
    ("model", "guide", "fields", "site", "said"), MISTAKES, ids=lambda v: getattr(v, "__name__", "")
)
def test_a_mistake_is_named_with_its_site_and_remedy(model, guide, fields, site, said):
    pair = pv.Pair(model(), guide())
    problems = pv.find_problems(pair, batch(**fields))
    assert problems
    assert problems[0].site == site, problems
    for words in said:
        assert words in str(problems[0])
    with pytest.raises(pv.PairError) as caught:
        pv.check_pair(pair.model, pair.guide, batch(**fields))
    assert str(caught.value) == "\n".join(map(str, problems))


def test_the_nets_of_model_and_guide_may_have_one_name():
    """In Pyro's one store ``self.net`` of the guide would overwrite the model's, which would never train."""
    assert {"model.net.weight", "guide.net.weight"} < pv.Pair(Model(), Guide()).named_parameters().keys()
    assert pv.find_problems(pv.Pair(Model(), Guide()), batch()) == []


def test_a_second_instance_has_parameters_of_its_own():
    first, second = pv.Pair(with_param, guide_with_param), pv.Pair(with_param, guide_with_param)
    assert pv.find_problems(first, batch()) == pv.find_problems(second, batch()) == []
    mine, theirs = first.named_parameters(), second.named_parameters()
    assert mine.keys() == theirs.keys() == {"param.weight", "param.loc", "param.scale"}
    assert not {id(p) for p in mine.values()} & {id(p) for p in theirs.values()}


def test_a_constrained_parameter_is_reached():
    class Scaled(Model):
        def __init__(self):
            super().__init__()
            self.scale = PyroParam(torch.tensor(1.0), constraint=dist.constraints.positive)

        def likelihood(self, z):
            return dist.Normal(self.net(z), self.scale).to_event(1)

    pair = pv.Pair(Scaled(), Guide())
    assert pv.find_problems(pair, batch()) == []
    assert "model.scale_unconstrained" in pair.named_parameters()


def test_another_plate_name_is_an_argument():
    assert pv.find_problems(pv.Pair(NoPlate(), NoPlateGuide(), data_plate="items"), batch()) == []


def test_what_the_model_draws_by_itself_is_drawn_without_gradients():
    """Sixteen images of 784 pixels, drawn pixel by pixel by a flow, kept over 20 GB."""
    kept = []

    class Prior(dist.Normal):
        def rsample(self, *args, **kwargs):
            kept.append(torch.is_grad_enabled())
            return super().rsample(*args, **kwargs)

    class Costly(Model):
        def prior(self, x):
            return Prior(torch.zeros(self.latent), 1.0).expand([len(x), self.latent]).to_event(1)

    assert pv.find_problems(pv.Pair(Costly(), Guide()), batch()) == []
    assert kept
    assert not any(kept)


@pytest.mark.parametrize("enabled", [True, False])
def test_a_program_takes_gradients_where_it_enables_them(enabled):
    class Refined(Guide):
        def posterior(self, x):
            loc, scale = self.net(x).chunk(2, -1)
            with torch.enable_grad() if enabled else nullcontext():
                by_itself = self.net(x)[:, :Z]
                step = torch.autograd.grad(by_itself.square().sum(), by_itself)[0]
            return dist.Normal(loc - 0.01 * step, scale.exp()).to_event(1)

    problems = pv.find_problems(pv.Pair(Model(), Refined()), batch())
    assert [problem.change for problem in problems] == (
        [] if enabled else ["Take them within `with torch.enable_grad():`"]
    )
