"""What one asks of a pair: codes, decoded codes, new data; whatever form data come in; and what is refused."""

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import pyro_vae as pv
from pyro_vae.evidence import log_evidence
from pyro_vae.program import PairError
from pyro_vae.training import Training

N = 12


@pytest.fixture(scope="module")
def digits():
    return pv.load_data("digits")


@pytest.fixture(scope="module")
def fitted(digits):
    torch.manual_seed(0)
    pair = pv.pairs.latent(digits.spec, latent=3, hidden=[16], covariance="full")
    return pv.fit(pair, digits, epochs=1, compile="off")


def built(name, data, **options):
    torch.manual_seed(0)
    return pv.pairs.PAIRS[name](data.spec, **options).train(False)


def test_codes_are_the_guides_and_decoding_is_the_models(fitted, digits, unchanged_random_state):
    pair, x = fitted.pair, digits.batch("test")["x"]
    z = pair.encode(x)
    with torch.no_grad():
        assert torch.equal(z, pair.guide.encoder(x).mean)
        assert torch.equal(pair.decode(z), pair.model.decoder(z).mean)
    assert not z.requires_grad
    assert torch.equal(pair.reconstruct(x), pair.decode(z))
    assert torch.equal(fitted.encode(), z)
    assert torch.equal(fitted.encode(digits), z)


def test_draws_follow_the_seed_and_the_distribution(fitted, digits):
    x = digits.batch("test", 1)["x"].expand(4000, -1)
    z = fitted.encode(x, draw=True, seed=1)
    assert torch.equal(z, fitted.encode(x, draw=True, seed=1))
    assert not torch.equal(z, fitted.encode(x, draw=True, seed=2))
    q = fitted.pair.guide.encoder(x[:1])
    sigma = q.variance[0].sqrt() / 4000**0.5
    assert ((z.mean(0) - q.mean[0]).abs() < 5 * sigma).all()
    p = fitted.pair.model.decoder(z[:1])
    drawn = fitted.decode(z[:1].expand(4000, -1), draw=True)
    assert ((drawn.mean(0) - p.mean[0]).abs() < 5 * p.variance[0].sqrt() / 4000**0.5).all()
    again = fitted.reconstruct(x, draw=True)
    assert again.std(0).min() > 0.5 * p.variance[0].sqrt().min()


def test_data_stand_for_their_description(digits):
    torch.manual_seed(0)
    by_data = pv.pairs.latent(digits, latent=2, hidden=[4])
    assert by_data.recipe == {"name": "latent", "options": {"latent": 2, "hidden": [4]}}
    assert by_data.shapes == digits.spec.fields
    with pytest.raises(PairError, match="spec must be a Spec; got 'digits'"):
        pv.pairs.latent("digits")


def test_classes_that_there_are_not_are_refused_in_a_sentence(digits):
    pair = built("conditional", digits, latent=2, hidden=[8])
    known = pv.Fitted(pair, digits, [], 0, 0, 0.0, compiled=False, run=None, training=Training())
    for y, wrong in ((10, 10), ([0, -1], -1), (torch.tensor([3, 99]), 99)):
        with pytest.raises(
            PairError, match=f"y holds {wrong}, and the classes that the pair was trained on are 0 to 9"
        ):
            known.sample(2, y=y)
    with pytest.raises(PairError, match="sample fails on these values: index"):
        pair.sample(2, y=99)
    with pytest.raises(PairError, match="reconstruct fails on these values"):
        pair.reconstruct(digits.batch("test", 2)["x"], y=[1, 99])


def test_new_data_have_the_models_density(digits):
    pair = built("linear", digits, latent=2)
    marginal = pair.model.marginal()
    log_p = marginal.log_prob(pair.sample(5000, seed=3))
    assert abs(log_p.mean() + marginal.entropy()).item() < 5 * log_p.std().item() / 5000**0.5
    assert pair.sample(5000, mean=True).var(0).sum() < pair.sample(5000).var(0).sum()


@pytest.mark.parametrize("form", ["tensor", "double", "array", "image", "codes", "list", "frame", "batch", "fields"])
def test_data_come_in_any_form(fitted, digits, form):
    x = digits.batch("test", N)["x"]
    images = x.reshape(N, 1, 8, 8)
    given = {
        "tensor": x,
        "double": x.double(),
        "array": x.numpy(),
        "image": images.numpy(),
        "codes": (images * 16).round().numpy().astype(np.uint8),
        "list": x.tolist(),
        "frame": pd.DataFrame(x.numpy()),
        "batch": digits.batch("test", N),
        "fields": {"x": pd.DataFrame(x.numpy())},
    }[form]
    assert torch.allclose(fitted.encode(given), fitted.encode(x), atol=1e-6)


def test_figures_are_those_of_the_functions(fitted, digits):
    batch = digits.batch("test", N)
    assert torch.equal(
        fitted.log_evidence(batch["x"], num_samples=20).estimate,
        log_evidence(fitted.pair, batch, num_samples=20).estimate,
    )
    assert fitted.elbo().elbo == pv.elbo(fitted.pair, digits.batch("test")).elbo


def test_classes_are_given_as_numbers(digits):
    pair = built("conditional", digits, latent=2, hidden=[8])
    y = torch.full((N,), 3)
    with torch.no_grad():
        z = torch.randn(N, 2)
        assert torch.equal(pair.decode(z, y=3), pair.model.decoder(z, F.one_hot(y, 10).float()).mean)
    assert torch.equal(pair.sample(N, y=3), pair.sample(N, y=[3] * N))
    assert not torch.equal(pair.sample(N, y=3), pair.sample(N, y=4))
    batch = digits.batch("test", N)
    assert torch.equal(pair.encode(batch["x"], y=batch["y"]), pair.encode(batch))


def test_a_latent_class_is_held(digits):
    data = pv.load_data("digits", labels=100)
    pair = built("semi_supervised", data, latent=2, hidden=[8])
    z = torch.randn(N, 2)
    with torch.no_grad():
        expected = pair.model.decoder(z, F.one_hot(torch.full((N,), 3), 10).float()).mean
    assert torch.equal(pair.decode({"z": z, "y": 3 * torch.ones(N, dtype=torch.long)}), expected)
    assert torch.equal(pair.decode(z, y=3), expected)
    assert torch.equal(pair.sample(N, y=3), pair.sample(N, y=torch.full((N,), 3)))
    assert not torch.equal(pair.sample(N, y=3), pair.sample(N, y=5))
    x = data.batch("test", N)["x"]
    assert not torch.equal(pair.encode(x), pair.encode(x, y=3))  # a class that is told is not inferred


def test_words_of_a_codebook_are_numbers(digits):
    pair = built("quantized", digits, codes=8, hidden=[16])
    x = digits.batch("test", N)["x"]
    codes = pair.encode(x)
    assert codes.dtype == torch.long
    assert torch.allclose(pair.decode(codes), pair.reconstruct(x), atol=1e-6)


class Labelled(nn.Module):
    """Programs of a label that depends on z, which depends on what all data share."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(2, 3)

    def model(self, x, y):
        pyro.module("net", self.net)
        shared = pyro.sample("shared", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(shared * torch.ones(2), 1.0).to_event(1))
            pyro.sample("y", dist.Normal(z[..., 0], 1.0), obs=y)
            pyro.sample("x", dist.Normal(self.net(z), 0.1).to_event(1), obs=x)

    def guide(self, x, y):
        pyro.sample("shared", dist.Normal(30.0, 0.01))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x[:, :2], 0.1).to_event(1))


def test_a_value_that_depends_on_what_is_drawn_is_refused_and_what_is_shared_is_inferred():
    programs = Labelled()
    pair = pv.Pair(programs.model, programs.guide, shapes={"x": (3,), "y": ()})
    with pytest.raises(PairError, match="y depends on z, so data given y need draws of z given it"):
        pair.sample(4, y=1.0)
    assert pair.sample(200, site="y").mean() > 25  # q(shared) is at 30, p(shared) at 0
    z = torch.randn(4, 2)
    with torch.no_grad():
        assert torch.equal(pair.decode({"z": z}), programs.net(z))
    with pytest.raises(PairError, match=r"observes no 'w'; it observes 'y', 'x'"):
        pair.sample(4, site="w")


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (lambda f: f.pair.encode(), "there are no data"),
        (lambda f: f.encode(np.zeros((3, 5))), "x has shape .3, 5., and digits has 64 features"),
        (lambda f: f.pair.encode(torch.zeros(3, 5)), r"x has shape \(3, 5\), and the pair takes \(data, 64\)"),
        (lambda f: f.pair.encode(np.full((3, 64), 7)), "whole numbers up to 7"),
        (lambda f: f.encode(np.full((3, 64), "a")), "x holds the text 'a'"),
        (lambda f: f.encode(torch.zeros(0, 64)), "there is none"),
        (lambda f: f.encode(torch.zeros(3, 64), z=1), "there is no field 'z'; the programs read 'x'"),
        (lambda f: f.encode(torch.zeros(3, 64), site="w"), "there are no codes at the site 'w'; there are at 'z'"),
        (lambda f: f.decode(torch.zeros(3, 5)), r"z has shape \(3, 5\), and codes are \(data, 3\): z of 3"),
        (lambda f: f.decode({"w": torch.zeros(3, 5)}), "no latent site 'w'; it has 'z'"),
        (lambda f: f.sample(0), "a whole number from 1 on, and it is 0"),
        (lambda f: f.sample(4, w=3), "neither a field nor a site 'w'; it has 'x', 'z'"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(fitted, ask, said):
    with pytest.raises(PairError, match=said):
        ask(fitted)


def test_what_is_given_has_to_be_given(digits):
    pair = built("conditional", digits, latent=2, hidden=[8])
    for ask in (pair.sample, lambda: pair.decode(torch.zeros(3, 2)), lambda: pair.encode(torch.zeros(3, 64))):
        with pytest.raises(PairError, match="the pair is given y; pass y="):
            ask()
    with pytest.raises(PairError, match="fields have 2, 3 data"):
        pair.encode(torch.zeros(3, 64), y=[1, 2])
    structured = built("structured", digits, latent=2, hidden=[8])
    with pytest.raises(PairError, match="sample needs x"):
        structured.sample(3)
    assert structured.sample(3, x=digits.batch("test", 3)["x"]).shape == (3, 48)


def test_grey_values_have_no_binary_density_but_codes():
    data = pv.load_data({"x": (torch.rand(60, 4, generator=torch.Generator().manual_seed(0)) > 0.5).float()})
    torch.manual_seed(0)
    used = pv.fit(pv.pairs.latent(data.spec, latent=2, hidden=[8]), data, epochs=1, compile="off")
    grey = torch.full((3, 4), 0.3)
    assert used.encode(grey).shape == (3, 2)
    with pytest.raises(PairError, match="trained on binary x"):
        used.log_evidence(grey, num_samples=2)


def test_missing_entries_are_marked(digits):
    pair = built("mixture", digits, components=3)
    x = digits.batch("test", N)["x"].numpy().copy()
    x[:, 5] = np.nan
    seen = ~np.isnan(x)
    expected = pair.encode({"x": np.nan_to_num(x), "seen": seen})
    assert torch.equal(pair.encode(x), expected)
    assert torch.isfinite(expected).all()
    assert not torch.equal(pair.encode(np.nan_to_num(x)), expected)


def test_draws_of_several_pieces_differ(fitted):
    x = torch.zeros(4100, 64)
    z = fitted.encode(x, draw=True)
    assert not torch.equal(z[:2000], z[2000:4000])
