"""Evidence and ELBO of sites that model or guide enumerates, against sums written by hand (REFERENCES section 1)."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import TraceEnum_ELBO
from torch import Tensor
from truths import rand

import pyro_vae as pv

WEIGHTS = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
CENTRES = rand(3, 2, seed=3) * 2


def mixture(x):
    with pyro.plate("data", len(x)):
        c = pyro.sample("c", dist.Categorical(WEIGHTS), infer={"enumerate": "parallel"})
        pyro.sample("x", dist.Normal(CENTRES[c], 0.8).to_event(1), obs=x)


def mixture_evidence(x: Tensor) -> Tensor:
    each = dist.Normal(CENTRES, 0.8).to_event(1).log_prob(x[:, None])
    return (each + WEIGHTS.log()).logsumexp(-1)


def no_guide(x):
    pass


def responsibilities(x: Tensor) -> Tensor:
    each = dist.Normal(CENTRES, 0.8).to_event(1).log_prob(x[:, None])
    return (each + WEIGHTS.log()).softmax(-1)


def exact_mixture_guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("c", dist.Categorical(responsibilities(x)), infer={"enumerate": "parallel"})


def uniform_mixture_guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("c", dist.Categorical(torch.ones(3).double() / 3), infer={"enumerate": "parallel"})


def drawn_mixture_guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("c", dist.Categorical(0.9 * responsibilities(x) + 0.1 / 3))


@pytest.mark.parametrize("guide", [no_guide, exact_mixture_guide, uniform_mixture_guide])
def test_a_mixture_enumerated_in_model_or_guide_is_exact(guide):
    """Whatever the guide says of an enumerated site, log p(x) sums over it."""
    x = rand(7, 2, seed=4)
    evidence = pv.log_evidence(pv.Pair(mixture, guide, TraceEnum_ELBO()), {"x": x}, num_samples=3)
    assert torch.allclose(evidence.estimate, mixture_evidence(x), atol=1e-10)
    assert evidence.proposal == "exact"
    assert (evidence.stderr == 0).all()
    assert (evidence.ess == 3).all()
    assert (evidence.khat == -math.inf).all()
    assert evidence.khat_share == 0


def test_the_elbo_of_an_enumerating_guide_is_the_elbo_of_pyro():
    x = {"x": rand(7, 2, seed=4)}
    exact = mixture_evidence(x["x"]).mean().item()
    for guide, gap in ((exact_mixture_guide, 0.0), (uniform_mixture_guide, None)):
        pair = pv.Pair(mixture, guide, TraceEnum_ELBO(max_plate_nesting=1))
        table = pv.elbo(pair, x)
        assert table.elbo == pytest.approx(-pair.objective.loss(pair.bound_model, pair.bound_guide, x) / 7, abs=1e-9)
        assert set(table.sites) == {"c", "x"}
        if gap is not None:
            assert table.elbo == pytest.approx(exact, abs=1e-9)
        else:
            r = responsibilities(x["x"])
            gap = (torch.log(1 / 3 / r) / 3).sum(-1).mean().item()  # KL(uniform || posterior)
            assert exact - table.elbo == pytest.approx(gap, abs=1e-9)


def test_sites_that_only_the_model_enumerates_become_one_term():
    x = rand(7, 2, seed=4)
    table = pv.elbo(pv.Pair(mixture, no_guide, TraceEnum_ELBO()), {"x": x})
    assert table.sites == {"c,x": pytest.approx(mixture_evidence(x).mean().item())}
    assert (table.kl, table.reconstruction) == (0.0, table.elbo)


def test_a_mixture_drawn_by_its_guide_agrees_within_its_error():
    x = rand(40, 2, seed=5)
    evidence = pv.log_evidence(pv.Pair(mixture, drawn_mixture_guide), {"x": x}, num_samples=2000)
    score = (evidence.estimate - mixture_evidence(x)) / evidence.stderr
    assert evidence.proposal == "guide"
    assert score.abs().max() < 4
    assert 0.5 < score.std() < 1.5


def test_inner_plates_of_enumerated_sites_multiply():
    """A topic a word: p(words) = prod over words of sum over topics, in a plate inside the data's, beside a continuous site."""
    topics = torch.softmax(rand(3, 5, seed=6), -1)  # word probabilities of three topics

    def model(x):  # x: (batch, 4) words
        with pyro.plate("data", len(x)):
            share = pyro.sample("share", dist.Dirichlet(torch.ones(3).double()))
            with pyro.plate("words", x.shape[1], dim=-2):
                t = pyro.sample("t", dist.Categorical(share), infer={"enumerate": "parallel"})
                pyro.sample("x", dist.Categorical(topics[t]), obs=x.T)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("share", dist.Dirichlet(torch.ones(3).double()))

    x = torch.tensor([[0, 1, 2, 2], [4, 4, 4, 4], [3, 0, 0, 1]])
    pair = pv.Pair(model, guide, TraceEnum_ELBO())
    log_w = pv.log_weights(pair, {"x": x}, 2000)
    assert log_w.shape == (2000, 3)
    share = dist.Dirichlet(torch.ones(3).double()).sample((400_000,))
    likelihood = (share @ topics)[:, x].prod(-1)  # (draws, data)
    exact, error = likelihood.mean(0).log(), likelihood.std(0) / likelihood.mean(0) / math.sqrt(400_000)
    evidence = pv.log_evidence(pair, {"x": x}, num_samples=20_000)
    assert ((evidence.estimate - exact).abs() < 4 * (evidence.stderr + error)).all()
    table = pv.elbo(pair, {"x": x}, num_samples=500)
    assert set(table.sites) == {"share", "t,x"}


def semi_supervised(x):
    with pyro.plate("data", len(x)):
        y = pyro.sample("y", dist.Categorical(WEIGHTS), infer={"enumerate": "parallel"})
        z = pyro.sample("z", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z + CENTRES[y], 0.8).to_event(1), obs=x)


def semi_supervised_guide(x):
    with pyro.plate("data", len(x)):
        y = pyro.sample("y", dist.Categorical(responsibilities(x)), infer={"enumerate": "parallel"})
        pyro.sample("z", dist.Normal((x - CENTRES[y]) / 1.7, 0.7).to_event(1))


def test_a_continuous_site_below_an_enumerated_one_of_the_guide():
    """One z for each value of y: the weights sum over y, the ELBO averages over it as TraceEnum_ELBO does."""
    x = rand(9, 2, seed=7)
    pair = pv.Pair(semi_supervised, semi_supervised_guide, TraceEnum_ELBO(max_plate_nesting=1))
    each = dist.Normal(CENTRES, math.sqrt(1 + 0.8**2)).to_event(1).log_prob(x[:, None])
    exact = (each + WEIGHTS.log()).logsumexp(-1)
    evidence = pv.log_evidence(pair, {"x": x}, num_samples=4000)
    assert ((evidence.estimate - exact).abs() < 4 * evidence.stderr).all()
    table = pv.elbo(pair, {"x": x}, num_samples=4000)
    assert set(table.sites) == {"y", "z", "x"}
    many = TraceEnum_ELBO(num_particles=4000, vectorize_particles=True, max_plate_nesting=1)
    theirs = -many.loss(pair.bound_model, pair.bound_guide, {"x": x}) / 9
    assert table.elbo == pytest.approx(theirs, abs=0.03)
    prior = (responsibilities(x) * (WEIGHTS / responsibilities(x)).log()).sum(-1).mean().item()
    assert table.sites["y"] == pytest.approx(prior, abs=1e-9)


def test_a_guide_that_enumerates_beside_a_model_that_enumerates():
    """c summed out of the model while the guide's y is averaged over: exact when q(y) is exact."""
    links = torch.softmax(rand(3, 2, seed=8), -1)

    def model(x):
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Categorical(WEIGHTS), infer={"enumerate": "parallel"})
            c = pyro.sample("c", dist.Categorical(links[y]), infer={"enumerate": "parallel"})
            pyro.sample("x", dist.Normal(c.double(), 1.0), obs=x)

    def joint(x):  # (data, y): log p(x, y)
        log_x = dist.Normal(torch.tensor([0.0, 1.0]).double(), 1.0).log_prob(x[:, None])  # (data, c)
        return (links.log() + log_x[:, None]).logsumexp(-1) + WEIGHTS.log()

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Categorical(logits=joint(x)), infer={"enumerate": "parallel"})

    x = rand(6, seed=9)
    pair = pv.Pair(model, guide, TraceEnum_ELBO())
    exact = joint(x).logsumexp(-1)
    assert torch.allclose(pv.log_weights(pair, {"x": x}, 2), exact.expand(2, 6), atol=1e-10)
    table = pv.elbo(pair, {"x": x}, num_samples=2)
    assert table.elbo == pytest.approx(exact.mean().item(), abs=1e-9)
    assert set(table.sites) == {"y", "c,x"}
