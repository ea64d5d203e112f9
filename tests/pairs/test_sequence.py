"""One z for a whole sequence: probabilities that sum to one, draws step by step, padding, and what is refused."""

import itertools
from typing import Any

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import pyro_vae as pv
from pyro_vae import pairs
from pyro_vae.conditionals import Strokes
from pyro_vae.data import Spec, load_data
from pyro_vae.distributions import Stroke
from pyro_vae.program import PairError, log_weights
from tests.zoo import spec

STEPS, FEATURES = 3, 2


def described(support: str = "binary", steps: int = STEPS, features: int = FEATURES, **change: Any) -> Spec:
    return spec(support=support, features=steps * features, sequence=(steps, features), mask=(steps,), **change)


def small(about: Spec | None = None, seed: int = 0, **options: Any) -> pv.Pair:
    torch.manual_seed(seed)
    pair = pairs.sequence(about or described(), latent=1, hidden=6, **options)
    for module in pair.modules().values():
        module.double()
    return pair.train(False)


def every(steps: int = STEPS, features: int = FEATURES) -> Tensor:
    return torch.tensor(list(itertools.product([0.0, 1.0], repeat=steps * features)), dtype=torch.float64)


def lengths(*of: int, steps: int = STEPS) -> Tensor:
    return torch.arange(steps) < torch.tensor(of)[:, None]


def test_probabilities_of_all_sequences_of_a_length_sum_to_one() -> None:
    pair, x = small(), every()
    for length in (3, 2, 1):
        there = lengths(length).expand(len(x), STEPS)
        decoder = pair.model.decoder(torch.tensor([[1.7]]).double().expand(len(x), 1), there)
        with torch.no_grad():
            log_p = decoder.log_prob(x)
        padded = x.unflatten(-1, (STEPS, FEATURES))[:, length:].flatten(1).any(1)  # counted once, with zeros there
        assert log_p[~padded].exp().sum().item() == pytest.approx(1, abs=1e-12)


def test_evidence_is_the_integral_over_z_and_sums_to_one() -> None:
    """Gauss-Hermite quadrature of p(x | z) p(z) at every x; importance sampling agrees at three of them."""
    pair, x = small(), every()
    points, weights = (torch.tensor(each) for each in np.polynomial.hermite_e.hermegauss(60))
    there = lengths(STEPS).expand(len(x), STEPS)
    with torch.no_grad():
        given = pair.model.decoder(points[:, None, None].expand(-1, len(x), 1), there).log_prob(x)
        log_p = (given + (weights / weights.sum()).log()[:, None]).logsumexp(0)
    assert log_p.exp().sum().item() == pytest.approx(1, abs=1e-10)
    few = {"x": x[[0, 21, 63]], "mask": there[:3]}
    found = pv.log_evidence(pair, few, num_samples=4000)
    assert ((found.estimate - log_p[[0, 21, 63]]).abs() < 5 * found.stderr + 1e-6).all()


def test_draws_follow_the_density_step_by_step() -> None:
    pair, x = small(), every()
    torch.manual_seed(1)
    decoder = pair.model.decoder(torch.full((20_000, 1), -0.8).double(), lengths(2).expand(20_000, STEPS))
    drawn = decoder.sample()
    code = (drawn * 2.0 ** torch.arange(STEPS * FEATURES)).sum(1).long()
    known = (x * 2.0 ** torch.arange(STEPS * FEATURES)).sum(1).long()
    assert not drawn[:, 2 * FEATURES :].any()
    with torch.no_grad():
        p = torch.zeros(64).double()
        one = pair.model.decoder(torch.full((64, 1), -0.8).double(), lengths(2).expand(64, STEPS))
        p[known] = torch.where(x[:, 4:].any(1), 0.0, one.log_prob(x).exp())
    share = torch.bincount(code, minlength=64) / 20_000
    assert ((share - p).abs() < 5 * (p * (1 - p) / 20_000).sqrt() + 1e-12).all()


def test_a_step_sees_z_and_what_is_before_it() -> None:
    pair = small(described("real", steps=5))
    x, z = torch.randn(1, 10).double().requires_grad_(), torch.randn(1, 1).double().requires_grad_()
    by_step = pair.model.decoder(z, lengths(5, steps=5)).conditionals(x)
    for t in range(5):
        to_x, to_z = torch.autograd.grad(by_step.mean[0, t].sum(), (x, z), retain_graph=True)
        assert (to_x.reshape(5, FEATURES) != 0).any(1).tolist() == [s < t for s in range(5)]
        assert to_z.abs() > 0


@pytest.mark.parametrize("options", [{}, {"prior": "mixture", "components": 3}, {"likelihood": "normal"}], ids=str)
def test_padding_changes_nothing(options: dict[str, Any]) -> None:
    """Draws of q, log weights and the KL, with one padded step and with four that hold other numbers."""
    pair = small(described("real", steps=5), **options)
    x = torch.randn(4, 4 * FEATURES).double()
    there = lengths(4, 1, 2, 4, steps=8)
    long = torch.cat([x, 9 * torch.ones(4, 4 * FEATURES).double()], 1)
    long = torch.where(there.repeat_interleave(FEATURES, 1), long, 5.0)
    found = []
    for steps in (5, 8):
        torch.manual_seed(3)
        found.append(log_weights(pair, {"x": long[:, : steps * FEATURES], "mask": there[:, :steps]}, 6))
    torch.testing.assert_close(*found, rtol=0, atol=1e-11)
    whole = {"x": x}, {"x": x, "mask": torch.ones(4, 4).bool()}  # no mask: all steps are there
    torch.manual_seed(3)
    first = log_weights(pair, whole[0], 2)
    torch.manual_seed(3)
    torch.testing.assert_close(first, log_weights(pair, whole[1], 2), rtol=0, atol=0)


def test_hidden_steps_are_hidden_in_training_only() -> None:
    pair = small(dropout=0.5)
    pair.model.decoder.predictor.dropout.p = 1.0
    x, there = every()[-1:], lengths(STEPS)
    z = torch.ones(1, 1).double()
    seen = pair.model.decoder(z, there).log_prob(x)
    pair.train(True)
    hidden = [pair.model.decoder(z, there).by_step(each) for each in (x, torch.cat([1 - x[:, :2], x[:, 2:]], 1))]
    torch.testing.assert_close(hidden[0][:, 1:], hidden[1][:, 1:], rtol=0, atol=0)  # nothing before counts
    pair.train(False)
    assert torch.equal(pair.model.decoder(z, there).log_prob(x), seen)


def stroke() -> Stroke:
    torch.manual_seed(0)
    loc, raw = torch.randn(3, 2).double(), torch.randn(3, 2).double()
    corner = torch.tensor([-0.9, 0.0, 0.6]).double()
    return Stroke(torch.randn(3).double(), loc, (0.3 * raw).exp() / 2, corner, torch.tensor(-0.4).double())


def test_a_stroke_is_a_mixture_of_gaussians_and_a_bernoulli() -> None:
    one = stroke()
    off = one.correlation * one.scale.prod(-1)
    cov = torch.diag_embed(one.scale.square()) + off[:, None, None] * torch.tensor([[0.0, 1.0], [1.0, 0.0]]).double()
    mixture = dist.MixtureSameFamily(dist.Categorical(logits=one.logits), dist.MultivariateNormal(one.loc, cov))
    value = torch.tensor([[0.3, -1.2, 1.0], [2.0, 0.1, 0.0]]).double()
    truth = mixture.log_prob(value[:, :2]) + dist.Bernoulli(logits=one.pen).log_prob(value[:, 2])
    torch.testing.assert_close(one.expand([2]).log_prob(value), truth, rtol=0, atol=1e-12)
    torch.manual_seed(1)
    drawn = one.sample((40_000,))
    assert one.support.check(drawn).all()
    assert not one.support.check(torch.tensor([0.1, 0.2, 0.5]))
    error = (drawn.var(0) / 40_000).sqrt()
    assert ((drawn.mean(0) - one.mean).abs() < 5 * error).all()
    torch.testing.assert_close(drawn.var(0), one.variance, rtol=0.05, atol=0)
    torch.testing.assert_close(
        torch.corrcoef(drawn[:, :2].T)[0, 1], torch.corrcoef(mixture.sample((40_000,)).T)[0, 1], rtol=0, atol=0.03
    )


def test_a_head_of_strokes_begins_at_the_data_and_has_a_bound() -> None:
    mean, std = torch.tensor([2.0, -1.0, 0.08]), torch.tensor([3.0, 0.5, 0.27])
    head = Strokes(8, mean[:2], std[:2])
    start = head(head.start(mean, std))
    torch.testing.assert_close(start.mean, mean, rtol=0, atol=1e-5)
    torch.testing.assert_close(start.variance[:2], std[:2].square(), rtol=1e-4, atol=0)
    narrow = torch.cat([torch.zeros(24), torch.full((16,), -1e4), torch.zeros(9)])
    densest = 2 * 0.05 * 0.05 * std[0] * std[1] * torch.pi
    assert head(narrow).log_prob(torch.tensor([2.0, -1.0, 0.0])).exp() <= 0.51 / densest
    with pytest.raises(NotImplementedError, match="one step of a stroke"):
        head.part([0])


def drawings(pen: float = 1.0) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 6, 3))
    x[..., 2] = rng.random((40, 6)) < 0.3
    x[0, 0, 2] = pen
    return {"x": x, "lengths": rng.integers(1, 7, 40)}


def test_strokes_are_found_in_data_and_modelled_as_such() -> None:
    data = load_data(drawings(), valid=0, test=0)
    assert data.spec.strokes
    pair = pairs.sequence(data.spec, latent=2, hidden=8)
    assert isinstance(pair.model.decoder.head, Strokes)
    assert pv.find_problems(pair, data.batch("train")) == []
    assert isinstance(pairs.markov(data.spec, latent=2, hidden=8).model.emission.one.head, Strokes)
    other = load_data(drawings(0.5), valid=0, test=0).spec
    assert not other.strokes
    for about, build, said in (
        (other, pairs.sequence, "with the pen at 0 or 1, and arrays has other features here; use --likelihood auto"),
        (data.spec, pairs.latent, "has whole sequences of them here; use the pair sequence or markov"),
    ):
        with pytest.raises(PairError, match=said):
            build(about, likelihood="strokes")


def test_data_that_are_no_sequences_are_refused() -> None:
    with pytest.raises(PairError, match="this pair is of sequences, and test has none; use chorales, sketches"):
        pairs.sequence(spec())


@pytest.mark.slow
def test_free_bits_wake_a_code_that_gains_nothing() -> None:
    """Two kinds of sequences that one step tells apart: log 2, whether z says it or the first step."""
    x = torch.zeros(200, 8, 1)
    x[:100, ::2] = 1
    x[100:, 1::2] = 1
    data = load_data({"x": x.numpy(), "lengths": np.full(200, 8)}, valid=0, test=0)
    kl = []
    for free in (0.6, 0.0):
        torch.manual_seed(0)
        pair = pairs.sequence(data.spec, latent=1, hidden=8)
        pv.fit(pair, data, epochs=100, batch_size=100, lr=2e-2, free_bits=free, compile="off", progress=False)
        table = pv.elbo(pair, data.batch("train"), num_samples=500)  # a single draw was seen to be off by .009
        assert -0.9 < table.elbo < -0.692  # log 2 = .693
        kl.append(table.kl)
    assert kl[0] > 0.2
    assert kl[1] < 0.1
