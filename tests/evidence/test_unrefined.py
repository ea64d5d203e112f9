"""Proposals that cannot be refined: the guide's own draws then, a refusal, or nothing to draw at all."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoNormal
from torch import Tensor
from truths import rand

import pyro_vae as pv


def normal_model(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


def normal_evidence(x: Tensor) -> Tensor:
    return dist.Normal(torch.tensor(0.0).double(), math.sqrt(2)).log_prob(x).sum(-1)


def test_auxiliary_sites_are_drawn_by_the_guide_which_is_said():
    x = rand(20, 2, seed=7)

    def guide(x):
        with pyro.plate("data", len(x)):
            raw = pyro.sample("raw", dist.Normal(x / 2, 0.8).to_event(1), infer={"is_auxiliary": True})
            pyro.sample("z", dist.Delta(raw, event_dim=1))

    found = pv.log_evidence(pv.Pair(normal_model, guide), {"x": x}, num_samples=2000)
    assert found.proposal == "guide"
    assert ((found.estimate - normal_evidence(x)) / found.stderr).abs().max() < 4


def test_a_guide_whose_density_cannot_be_repeated_is_used_as_it_is():
    """What it samples depends on noise that no site holds."""
    x = rand(20, 2, seed=7)

    def guide(x):
        with pyro.plate("data", len(x)):
            loc = x / 2 + 0.1 * torch.randn(2).double()
            pyro.sample("z", dist.Normal(loc, 0.8).to_event(1))

    assert pv.log_evidence(pv.Pair(normal_model, guide), {"x": x}, num_samples=50).proposal == "guide"


def test_an_angle_is_not_integrated_over_the_whole_line():
    """Its support is said to be the real line, on which its density has no end."""

    def model(x):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.VonMises(torch.tensor(0.5).double(), torch.tensor(1.0).double()))
            pyro.sample("x", dist.Normal(a.cos(), 0.5), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("a", dist.VonMises(torch.zeros(len(x)).double(), torch.tensor(0.2).double()))

    x = rand(20, seed=16)
    line = torch.linspace(-math.pi, math.pi, 4001, dtype=torch.float64)[:-1, None]
    prior = dist.VonMises(torch.tensor(0.5).double(), torch.tensor(1.0).double()).log_prob(line)
    exact = (prior + dist.Normal(line.cos(), 0.5).log_prob(x)).logsumexp(0) + math.log(2 * math.pi / 4000)
    found = pv.log_evidence(pv.Pair(model, guide), {"x": x}, num_samples=1000)
    assert found.proposal == "guide"
    assert ((found.estimate - exact) / found.stderr).abs().max() < 4


@pytest.mark.parametrize("how", ["program", "distribution", "obs_mask"])
def test_masked_latents_are_not_integrated_over_the_whole_line(how):
    """Where z does not count its density is 1 everywhere, and only q, which is masked alike, draws it so that it stays 1."""
    x = rand(30, seed=17)
    counts = torch.arange(30) % 3 > 0

    def masked(fn, seen):
        return fn.mask(seen) if how == "distribution" else fn

    def model(x, counts):
        one = torch.ones(len(x)).double()
        with pyro.plate("data", len(x)):
            if how == "obs_mask":
                pyro.sample("x", dist.Normal(0 * one, math.sqrt(2)), obs=x, obs_mask=counts)
                return
            with pyro.poutine.mask(mask=counts if how == "program" else torch.tensor(True)):
                z = pyro.sample("z", masked(dist.Normal(0 * one, 1.0), counts))
                pyro.sample("x", masked(dist.Normal(z, 1.0), counts), obs=x)

    def guide(x, counts):
        name, seen = ("x_unobserved", ~counts) if how == "obs_mask" else ("z", counts)
        with pyro.plate("data", len(x)), pyro.poutine.mask(mask=seen if how != "distribution" else torch.tensor(True)):
            pyro.sample(name, masked(dist.Normal(x / 2, 1.2), seen))

    found = pv.log_evidence(pv.Pair(model, guide), {"x": x, "counts": counts}, num_samples=1000)
    exact = dist.Normal(torch.tensor(0.0).double(), math.sqrt(2)).log_prob(x) * counts
    assert ((found.estimate - exact).abs() < 4 * found.stderr + 1e-9).all()
    assert found.stderr.max() < 0.1


def test_a_support_that_a_latent_moves_leaves_the_guide_as_it_is():
    def latents(x):
        top = pyro.sample("top", dist.Uniform(torch.full((len(x),), 0.5).double(), 2.0))
        return pyro.sample("z", dist.Uniform(torch.tensor(0.0).double(), top))

    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(latents(x), 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            latents(x)

    x = rand(20, seed=18)
    unit = (torch.arange(300).double() + 0.5) / 300
    z = (0.5 + 1.5 * unit)[:, None] * unit
    exact = dist.Normal(z.flatten()[:, None], 1.0).log_prob(x).logsumexp(0) - 2 * math.log(300)
    found = pv.log_evidence(pv.Pair(model, guide), {"x": x}, num_samples=1000)
    assert found.proposal == "guide"
    assert ((found.estimate - exact) / found.stderr).abs().max() < 4


def test_a_factor_of_the_guide_is_no_density():
    x = rand(20, 2, seed=7)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.factor("teaching", torch.full((len(x),), 3.0).double(), has_rsample=True)
            pyro.sample("z", dist.Normal(x / 2, 0.8).to_event(1))

    found = pv.log_evidence(pv.Pair(normal_model, guide), {"x": x}, num_samples=1000)
    assert found.proposal == "refined"
    assert ((found.estimate - normal_evidence(x)) / found.stderr).abs().max() < 4


def test_a_point_is_refused_unless_its_prior_is_a_mass_function():
    def point(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Delta(x / 2, event_dim=1))

    with pytest.raises(
        pv.PairError, match=r"'z' of guide .*point is a point, so its draws have no density to weight; "
    ):
        pv.log_evidence(pv.Pair(normal_model, point), {"x": rand(3, 2)}, num_samples=10)

    def coin(x):
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", dist.Bernoulli(torch.tensor(0.25).double()))
            pyro.sample("x", dist.Normal(c, 1.0), obs=x)

    def heads(x):
        with pyro.plate("data", len(x)):
            pyro.sample("c", dist.Delta(torch.ones(len(x)).double()))

    x = rand(4, seed=8)
    found = pv.log_evidence(pv.Pair(coin, heads), {"x": x}, num_samples=30)
    assert found.proposal == "guide"
    assert torch.allclose(found.estimate, dist.Normal(1.0, 1.0).log_prob(x) + math.log(0.25), atol=1e-6)
    assert found.khat_share == 1  # a bound, and no more


def test_pyros_autoguides_hand_on_points_and_are_none():
    x = rand(20, 2, seed=9)
    guide = AutoNormal(normal_model)
    guide(x)
    found = pv.log_evidence(pv.Pair(normal_model, guide), {"x": x}, num_samples=100)
    assert found.proposal == "guide"


def test_without_latents_one_pass_is_exact():
    ran = []

    def model(x):
        ran.append(len(x))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(torch.tensor(1.0).double(), 2.0), obs=x)

    def nothing(x):
        pass

    x = rand(5, seed=10)
    found = pv.log_evidence(pv.Pair(model, nothing), {"x": x}, num_samples=10_000)
    assert torch.allclose(found.estimate, dist.Normal(1.0, 2.0).log_prob(x).double(), atol=1e-6)
    assert found.proposal == "exact"
    assert (found.stderr == 0).all()
    assert (found.ess == 10_000).all()
    assert torch.equal(found.elbo, found.estimate)
    assert len(ran) < 10


def test_a_latent_site_that_the_guide_lacks_is_named():
    def nothing(x):
        pass

    with pytest.raises(pv.PairError, match=r"guide .*nothing does not sample latent site 'z'"):
        pv.log_evidence(pv.Pair(normal_model, nothing), {"x": rand(3, 2)}, num_samples=10)
