"""Masks beside enumeration: what is not seen adds nothing, however many values an unseen site has. Truth by brute force."""

import itertools
from contextlib import nullcontext

import pyro
import pyro.distributions as dist
import pyro.poutine as poutine
import pytest
import torch
from pyro.infer import TraceEnum_ELBO
from tables import only
from truths import rand

import pyro_vae as pv

START = torch.tensor([0.6, 0.4], dtype=torch.float64)
MOVE = torch.tensor([[0.7, 0.3], [0.4, 0.6]], dtype=torch.float64)
EMIT = torch.tensor([[0.1, 0.4, 0.5], [0.6, 0.3, 0.1]], dtype=torch.float64)
WEIGHTS = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
CENTRES = torch.tensor([-1.0, 0.5, 2.0], dtype=torch.float64)
ENUMERATED = {"enumerate": "parallel"}


def nothing(x):
    pass


def hmm(x, mask):
    z = None
    with pyro.plate("data", len(x)):
        for t in pyro.markov(range(x.shape[-1])):
            with poutine.mask(mask=mask[:, t]):
                z = pyro.sample(f"z{t}", dist.Categorical(START if z is None else MOVE[z]), infer=ENUMERATED)
                pyro.sample(f"x{t}", dist.Categorical(EMIT[z]), obs=x[:, t])


def test_a_hidden_markov_model_of_two_lengths():
    x = torch.tensor([[0, 1, 2] * 4, [0, 1, 2] + [0] * 9])
    mask = torch.arange(12) < torch.tensor([[12], [3]])
    pair = pv.Pair(hmm, nothing)
    batch = {"x": x, "mask": mask}
    truth = []
    for length, row in zip((12, 3), x, strict=True):
        forward = START * EMIT[:, row[0]]
        for symbol in row[1:length]:
            forward = (forward @ MOVE) * EMIT[:, symbol]
        truth.append(forward.sum().log().item())
    assert truth == pytest.approx([-13.859080, -3.392872], abs=1e-6)
    assert pv.log_weights(pair, batch, 1)[0].tolist() == pytest.approx(truth, abs=1e-12)
    assert pv.log_weights(pair, batch, 4)[3].tolist() == pytest.approx(truth, abs=1e-12)
    assert pv.elbo(pair, batch).elbo == pytest.approx(sum(truth) / 2, abs=1e-12)


X = rand(4, 3, seed=5)
SEEN = torch.tensor([[1, 1, 1], [1, 0, 1], [0, 0, 1], [0, 0, 0]]).bool()


def masked(how, fn):
    """The site's distribution and the handler around it, for one way of masking it."""
    seen = SEEN.T  # (inner, data)
    return (fn.mask(seen), nullcontext()) if how == "dist" else (fn, poutine.mask(mask=seen) if how else nullcontext())


def mixture(how_k, how_x, k_in_guide, scale=1.0, exact=True):
    """A mixture in a plate inside the data's, its index enumerated by guide or model."""

    def index(fn):
        fn, handler = masked(how_k, fn)
        with handler:
            return pyro.sample("k", fn, infer=ENUMERATED)

    def model(x):
        with pyro.plate("data", len(x), dim=-1), pyro.plate("steps", 3, dim=-2), poutine.scale(scale=scale):
            k = index(dist.Categorical(WEIGHTS))
            fn, handler = masked(how_x, dist.Normal(CENTRES[k], 0.7))
            with handler:
                pyro.sample("x", fn, obs=x.T)

    def guide(x):
        if k_in_guide:
            with pyro.plate("data", len(x), dim=-1), pyro.plate("steps", 3, dim=-2):
                index(dist.Categorical(logits=each(x.T) if exact else torch.zeros(3).double()))

    return pv.Pair(model, guide, TraceEnum_ELBO(max_plate_nesting=2))


def each(x):
    return dist.Normal(CENTRES, 0.7).log_prob(x[..., None]) + WEIGHTS.log()


@pytest.mark.parametrize("scale", only([1.0, 2.5], [2.5]))
@pytest.mark.parametrize("k_in_guide", [False, True])
@pytest.mark.parametrize("how_x", [None, "handler", "dist"])
@pytest.mark.parametrize("how_k", [None, "handler", "dist"])
def test_a_mixture_in_a_masked_plate(how_k, how_x, k_in_guide, scale):
    pair = mixture(how_k, how_x, k_in_guide, scale)
    counted = SEEN if how_x else torch.ones_like(SEEN)
    truth = (each(X).logsumexp(-1) * counted).sum(-1)
    torch.testing.assert_close(pv.log_weights(pair, {"x": X}, 2)[1], truth, rtol=0, atol=1e-12)
    if bool(how_k) == bool(how_x) or not k_in_guide:  # the guide is exact, so its ELBO is log p(x) for what is seen
        assert pv.elbo(pair, {"x": X}).elbo == pytest.approx(truth.mean().item(), abs=1e-12)


@pytest.mark.parametrize("how_x", [None, "handler"])
@pytest.mark.parametrize("how_k", [None, "handler"])
def test_the_elbo_of_an_enumerated_guide_is_pyros(how_k, how_x):
    pair = mixture(how_k, how_x, True, exact=False)
    plain = -pair.objective.loss(pair.bound_model, pair.bound_guide, {"x": X}) / len(X)
    assert pv.elbo(pair, {"x": X}).elbo == pytest.approx(plain, abs=1e-12)


@pytest.mark.parametrize("hidden", ["a", "b", "both"])
def test_two_enumerated_sites_of_which_one_is_masked(hidden):
    to_b = torch.tensor([[0.2, 0.8], [0.5, 0.5], [0.9, 0.1]], dtype=torch.float64)
    row = torch.tensor([True, False, True, False])

    def model(x):
        with pyro.plate("data", len(x)):
            with poutine.mask(mask=row) if hidden != "b" else nullcontext():
                a = pyro.sample("a", dist.Categorical(WEIGHTS), infer=ENUMERATED)
            with poutine.mask(mask=row) if hidden != "a" else nullcontext():
                b = pyro.sample("b", dist.Categorical(to_b[a]), infer=ENUMERATED)
            pyro.sample("x", dist.Normal(CENTRES[a] + b, 1.0), obs=x)

    x = X[:, 0]
    joint = [
        WEIGHTS[a].log() + to_b[a, b].log() + dist.Normal(CENTRES[a] + b, 1.0).log_prob(x)
        for a, b in itertools.product(range(3), range(2))
    ]
    truth = torch.stack(joint).logsumexp(0)
    torch.testing.assert_close(pv.log_weights(pv.Pair(model, nothing), {"x": x})[0], truth, rtol=0, atol=1e-12)


def test_masked_continuous_latents_beside_a_masked_enumerated_one():
    seen = torch.tensor([True, False, True, False])

    def model(x):
        with pyro.plate("data", len(x)), poutine.mask(mask=seen):
            k = pyro.sample("k", dist.Categorical(WEIGHTS), infer=ENUMERATED)
            z = pyro.sample("z", dist.Normal(CENTRES[k], 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)), poutine.mask(mask=seen):
            pyro.sample("z", dist.Normal(x / 2, 1.0))

    x = X[:, 0]
    truth = (dist.Normal(CENTRES, 2**0.5).log_prob(x[:, None]) + WEIGHTS.log()).logsumexp(-1) * seen
    log_w = pv.log_weights(pv.Pair(model, guide), {"x": x}, 20_000)
    estimate = log_w.logsumexp(0) - torch.tensor(20_000.0).double().log()
    torch.testing.assert_close(estimate, truth, rtol=0, atol=0.05)
    assert (log_w[:, ~seen] == 0).all()


def test_a_site_enumerated_one_by_one_is_drawn_by_the_guide_and_refused_without():
    one_by_one = {"enumerate": "sequential"}

    def model(x):
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Categorical(WEIGHTS), infer=one_by_one)
            pyro.sample("x", dist.Normal(CENTRES[k], 0.7), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("k", dist.Categorical(logits=each(x)), infer=one_by_one)

    x = X[:, 0]
    truth = each(x).logsumexp(-1)
    torch.testing.assert_close(pv.log_weights(pv.Pair(model, guide), {"x": x}, 3), truth.expand(3, 4))
    with pytest.raises(pv.PairError, match="does not sample latent site 'k'"):
        pv.log_weights(pv.Pair(model, nothing), {"x": x})
