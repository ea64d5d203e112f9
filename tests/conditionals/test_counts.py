"""Counts: probabilities against scipy's, to float32's rounding; how heads begin; which data take them."""

import numpy as np
import pytest
import torch
from scipy import stats

import pyro_vae as pv
from pyro_vae import distributions
from pyro_vae.conditionals import NegativeBinomial, Normal, Poisson, ZeroInflated
from pyro_vae.program import PairError

X = torch.tensor([0, 1, 2, 3, 7, 8, 9, 50, 1000, 10_000, 100_000.0], dtype=torch.float64)
MEANS = [1e-4, 0.01, 0.5, 1.0, 3.0, 100.0, 1e4, 1e5]


def close(found, known, tolerance):
    """Compare log-probabilities by their own size, where they are large."""
    known = torch.as_tensor(known)
    assert ((found.double() - known).abs() / (1 + known.abs())).max() < tolerance


@pytest.mark.parametrize("mean", MEANS)
def test_log_probabilities_are_scipys_in_single_precision_too(mean):
    for dtype, tolerance in ((torch.float64, 2e-8), (torch.float32, 2e-6)):
        p = distributions.Poisson(torch.tensor(mean, dtype=dtype))
        close(p.log_prob(X.to(dtype)), stats.poisson.logpmf(X.numpy(), mean), tolerance)
        for concentration in (1e-4, 0.01, 0.5, 1.0, 7.0, 8.5, 100.0, 1e4, 1e7):
            q = distributions.NegativeBinomial(
                torch.tensor(mean, dtype=dtype), torch.tensor(concentration, dtype=dtype)
            )
            known = stats.nbinom.logpmf(X.numpy(), concentration, concentration / (concentration + mean))
            close(q.log_prob(X.to(dtype)), known, tolerance)


def test_probabilities_sum_to_one_and_have_the_moments():
    x = torch.arange(4000.0, dtype=torch.float64)
    for mean, concentration, gate in ((0.3, 0.7, -1.0), (12.0, 3.0, 0.5), (40.0, 2000.0, -30.0)):
        m, c = torch.tensor(mean).double(), torch.tensor(concentration).double()
        zeros = torch.tensor([gate]).double()
        for head, parameters in (
            (Poisson(1), m.log()[None]),
            (NegativeBinomial(1), m.log()[None]),
            (ZeroInflated(Poisson(1)), torch.cat([m.log()[None], zeros])),
            (ZeroInflated(NegativeBinomial(1)), torch.cat([m.log()[None], zeros])),
        ):
            for parameter in head.double().parameters():
                torch.nn.init.constant_(parameter, float(c.log()))
            p = head(parameters)
            probabilities = p.log_prob(x[:, None]).detach().exp()
            assert probabilities.sum() == pytest.approx(1, abs=1e-10)
            first = (probabilities * x).sum()
            torch.testing.assert_close(p.mean[0].detach(), first, rtol=1e-8, atol=0)
            second = (probabilities * (x - first) ** 2).sum()
            torch.testing.assert_close(p.variance[0].detach(), second, rtol=1e-7, atol=0)


def test_many_counts_at_one_concentration_are_a_poisson():
    m, c = torch.tensor([3.0, 700.0]), torch.tensor(1e9)
    x = torch.tensor([5.0, 720.0])
    torch.testing.assert_close(
        distributions.NegativeBinomial(m, c).log_prob(x), distributions.Poisson(m).log_prob(x), rtol=1e-6, atol=1e-6
    )


def test_draws_have_the_mean_and_the_variance():
    torch.manual_seed(0)
    p = distributions.NegativeBinomial(torch.tensor([0.5, 20.0]), torch.tensor([0.4, 5.0]))
    draws = p.expand((3, 2)).sample((40_000,))
    assert draws.shape == (40_000, 3, 2)
    assert ((draws.mean(0) - p.mean).abs() < 5 * p.variance.sqrt() / 200).all()
    error = (draws - p.mean).square().std(0) / 200
    assert ((draws.var(0) - p.variance).abs() < 5 * error).all()


def test_a_negative_binomial_begins_at_the_mean_and_the_variance():
    head = NegativeBinomial(3).double()
    mean, std = torch.tensor([2.0, 50.0, 0.0]).double(), torch.tensor([4.0, 5.0, 0.0]).double()
    with torch.no_grad():
        p = head(head.start(mean, std))
    torch.testing.assert_close(p.mean[:2], mean[:2])
    assert p.variance[0] == pytest.approx(16)
    assert p.variance[1] == pytest.approx(50 + 25)  # a Poisson's is more than the data's: the least that a head adds
    assert p.mean[2] == pytest.approx(1e-3)


def counts(rows=300):
    generator = np.random.default_rng(0)
    kind = generator.integers(0, 2, rows)
    rates = np.array([[1.0, 30.0, 4.0, 0.2], [20.0, 2.0, 4.0, 3.0]])[kind]
    return generator.negative_binomial(2, 2 / (2 + rates))


def test_counts_are_known_whatever_their_type():
    x = counts()
    for given in (x, x.astype(np.float32), x.astype(np.uint16)):
        data = pv.load_data({"x": given})
        assert data.spec.counts
        assert "whole numbers from 0" in data.spec.description
        assert torch.equal(data.batch("train")["x"] % 1, torch.zeros(data.size("train"), 4))
    for other in (x - 1, x + 0.5, (x > 1).astype(int), x.astype(np.uint8)):
        assert not pv.load_data({"x": other}).spec.counts


@pytest.mark.slow
def test_a_pair_of_counts_beats_the_normal_in_log_probability_and_the_poisson():
    data = pv.load_data({"x": counts()})
    found = {}
    for name in ("poisson", "negative-binomial", "zero-inflated-poisson", "zero-inflated-negative-binomial"):
        torch.manual_seed(0)
        pair = pv.pairs.latent(data.spec, latent=1, hidden=[16], likelihood=name)
        fitted = pv.fit(pair, data, epochs=15, batch_size=32, compile="off", precision="32")
        figures = pv.log_evidence(fitted, num_samples=50)
        found[name] = float(figures.mean)
        assert fitted.sample(5).remainder(1).eq(0).all()
    assert found["negative-binomial"] > found["poisson"] + 1
    assert found["zero-inflated-negative-binomial"] > found["poisson"] + 1


def test_auto_says_that_counts_have_likelihoods_of_their_own():
    data = pv.load_data({"x": counts()})
    with pytest.warns(pv.data.DataNote, match="--likelihood negative-binomial or poisson"):
        pair = pv.pairs.latent(data.spec, latent=1, hidden=[4])
    assert "Normal" in repr(pair.model.decoder.head)
    pv.pairs.latent(data.spec, latent=1, hidden=[4], likelihood="normal")  # said: no word


def test_other_data_are_refused():
    real = pv.load_data({"x": np.random.default_rng(0).normal(size=(50, 3))})
    with pytest.raises(PairError, match=r"needs counts 0, 1, 2, ..., and x of arrays has other values"):
        pv.pairs.latent(real.spec, likelihood="poisson")
    levels = pv.load_data({"x": counts().astype(np.uint8)})
    with pytest.raises(PairError, match=r"is scaled to \[0, 1\]; save counts as int64"):
        pv.pairs.latent(levels.spec, likelihood="negative-binomial")
    with pytest.raises(TypeError, match="a head of counts"):
        ZeroInflated(Normal(3))
