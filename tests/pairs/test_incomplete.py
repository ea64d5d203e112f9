"""Missing entries count for nothing: log p(x where seen) in closed form, and nothing depends on what stands there."""

import numpy as np
import pytest
import torch

import pyro_vae as pv
from pyro_vae.conditionals import Autoregressive, Conditional, Normal, OfSeen
from pyro_vae.distributions import Rescaled
from pyro_vae.nets import MLP, MaskedMLP

GENERATOR = np.random.default_rng(0)
W = 3 * GENERATOR.normal(size=(2, 6))
X = (GENERATOR.normal(size=(400, 2)) @ W + GENERATOR.normal(size=(400, 6))).astype("f4")
X[GENERATOR.random(X.shape) < 0.3] = np.nan


@pytest.fixture(scope="module")
def data():
    with pytest.warns(match="entries of x are missing"):
        return pv.load_data({"x": X}, missing="mark")


def linear(data):
    torch.manual_seed(0)
    return pv.pairs.incomplete(data.spec, latent=2, hidden=[], covariance="full")


def test_the_evidence_is_that_of_the_seen_entries_alone(data):
    pair, batch = linear(data), data.batch("test", 8)
    found = pv.log_evidence(pair, batch, num_samples=4000)
    head, net = pair.model.decoder.conditional.head, pair.model.decoder.conditional.net
    weight, bias = net.last.weight.detach(), net.last.bias.detach()
    loc, unit = head.units.loc, head.units.scale
    noise = head.head(torch.zeros(6)).variance.detach()
    covariance = (weight @ weight.T + torch.diag(noise)) * unit[:, None] * unit
    mean = loc + unit * bias
    for i, (x, seen) in enumerate(zip(batch["x"], batch["seen"], strict=True)):
        part = torch.distributions.MultivariateNormal(mean[seen], covariance[seen][:, seen])
        assert float(found.estimate[i]) == pytest.approx(float(part.log_prob(x[seen])), abs=0.05)


def test_what_stands_where_nothing_is_seen_changes_nothing(data):
    pair, batch = linear(data), data.batch("test", 5)
    other = {**batch, "x": torch.where(batch["seen"], batch["x"], torch.tensor(1e3))}
    assert torch.equal(pair.encode(batch), pair.encode(other))
    assert pv.elbo(pair, batch).elbo == pv.elbo(pair, other).elbo
    assert not torch.equal(pair.encode(batch), pair.encode({**batch, "seen": torch.ones_like(batch["seen"])}))


@pytest.mark.slow
def test_it_trains_on_nan_and_fills_them_in(data):
    torch.manual_seed(0)
    pair = pv.pairs.incomplete(data.spec, latent=2, hidden=[32], covariance="full")
    fitted = pv.fit(pair, data, epochs=80, batch_size=64, lr=0.01, compile="off")
    raw = torch.tensor(X[:50])
    hidden = torch.isfinite(raw) & (torch.rand(raw.shape, generator=torch.Generator().manual_seed(0)) < 0.2)
    filled = fitted.reconstruct(torch.where(hidden, torch.nan, raw))
    best = torch.tensor(np.stack([expected(x) for x in torch.where(hidden, torch.nan, raw).double().numpy()]))
    error, least, usual = ((m - raw)[hidden].square().mean() for m in (filled, best, data.spec.mean))
    assert least < 0.5 * usual
    assert error < 1.5 * least


def expected(x):
    """The mean of all entries given those seen, under the distribution that drew the data."""
    seen = np.isfinite(x)
    covariance = W.T @ W + np.eye(6)
    return (covariance - np.eye(6))[:, seen] @ np.linalg.solve(covariance[seen][:, seen], x[seen])


def test_levels_and_binary_data_have_missing_entries_too():
    x = (X > 0).astype("f4")
    x[np.isnan(X)] = np.nan
    with pytest.warns(match="entries of x are missing"):
        data = pv.load_data({"x": x}, missing="mark")
    assert data.spec.support == "binary"
    assert pv.check_pair(pv.pairs.incomplete(data.spec, latent=2, hidden=[4]), data.batch("train", 8)) is None


def test_a_rescaled_feature_has_its_own_density():
    base = torch.distributions.Normal(torch.zeros(3), torch.ones(3))
    loc, scale = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2.0, 3.0, 4.0])
    one = Rescaled(base, loc, scale)  # type: ignore[arg-type]
    x = torch.tensor([[0.0, 1.0, 2.0]])
    torch.testing.assert_close(one.log_prob(x), torch.distributions.Normal(loc, scale).log_prob(x))


def test_features_that_depend_on_each_other_are_refused():
    head = Autoregressive(Normal(4), MaskedMLP(torch.arange(4), 2, (5,)))
    decoder = OfSeen(Conditional(MLP(2, head.size, ()), head))
    with pytest.raises(TypeError, match="depend on each other"):
        decoder(torch.zeros(3, 2), torch.ones(3, 4, dtype=torch.bool))
