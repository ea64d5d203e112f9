"""The gaps between the ELBO and log p(x), against the closed forms of Gaussians and a neural pair summed over a grid."""

import math
from typing import NamedTuple

import pyro
import pyro.distributions as dist
import pytest
import torch
from truths import damaged, data, grid_evidence, linear, neural, rand

import pyro_vae as pv
from pyro_vae.diagnostics import BUDGETS, checks
from pyro_vae.diagnostics.guide_checks import _cure
from pyro_vae.diagnostics.inference_gaps import gaps, refit_guide
from pyro_vae.diagnostics.subject import Subject
from pyro_vae.guides.linear import LinearGuide
from pyro_vae.models.linear import LinearModel


@pytest.fixture
def model() -> LinearModel:
    return linear()


def test_an_exact_guide_has_no_gaps_and_a_narrow_one_only_an_amortization_gap(model):
    batch = data(model, 20)
    exact = gaps(damaged(model, "none"), batch, steps=5, num_samples=200)
    assert abs(exact.approximation) < 0.02
    assert abs(exact.amortization) < 0.02
    narrow = gaps(damaged(model, "scale"), batch, steps=150, num_samples=1000)
    closed = 2 * (0.5 * 0.49 - 0.5 - math.log(0.7))  # KL of a Gaussian of 0.7 times the scale
    assert narrow.amortization == pytest.approx(closed, abs=0.05)
    assert narrow.approximation < 0.05


@pytest.mark.slow
def test_a_diagonal_guide_has_the_approximation_gap_of_theory(model):
    batch = data(model, 20)

    def guide(x):
        with pyro.plate("data", len(x)):
            exact = model.posterior(x)
            pyro.sample("z", dist.Normal(exact.loc.detach(), exact.variance.sqrt().detach()).to_event(1))

    result = gaps(pv.Pair(model, guide), batch, steps=200, num_samples=2000)
    precision = model.posterior(batch["x"]).precision_matrix.detach()[0]
    closed = 0.5 * (precision.diagonal().log().sum() - torch.logdet(precision)).item()
    assert result.approximation == pytest.approx(closed, abs=0.05)
    assert result.amortization > 0.1  # the marginal scale is wider than the best mean-field one


@pytest.mark.slow
def test_the_gaps_of_a_neural_pair_add_up_to_what_the_grid_says():
    pair, batch = neural(), {"x": (rand(30, 8, seed=13) > 0).double()}
    result = gaps(pair, batch, steps=150, num_samples=1000)
    exact = grid_evidence(pair, batch["x"])
    assert (result.log_evidence - exact).mean().item() == pytest.approx(0.0, abs=0.01)
    loose = (exact - pv.log_evidence(pair, batch, num_samples=1000, seed=1).elbo).mean().item()
    assert result.approximation + result.amortization == pytest.approx(loose, abs=0.03)
    assert (result.best_elbo <= exact + 0.03).all()
    assert result.amortization > 5 * result.approximation > 0  # the encoder is bad, and a Gaussian nearly right


@pytest.mark.slow
@pytest.mark.parametrize("how", ["shift", "correlation", "collapse"])
def test_the_amortization_gap_of_a_damaged_guide_is_its_kl_from_the_posterior(model, how):
    """Every damage here leaves the family, Gaussians of any covariance: refinement finds the posterior again."""
    batch = data(model, 20)
    pair = damaged(model, how)
    result = gaps(pair, batch, steps=250, num_samples=1000)
    exact = model.posterior(batch["x"])
    with torch.no_grad(), pyro.poutine.trace() as traced:
        pair.bound_guide(batch)
    closed = torch.distributions.kl_divergence(traced.trace.nodes["z"]["fn"], exact).mean().item()
    assert result.amortization == pytest.approx(closed, abs=0.05 * max(1.0, closed))
    assert abs(result.approximation) < 0.05


@pytest.mark.slow
def test_data_in_another_order_have_the_same_gaps(model):
    batch = data(model, 10)
    order = torch.arange(9, -1, -1)
    first = gaps(damaged(model, "scale"), batch, steps=100)
    second = gaps(damaged(model, "scale"), {"x": batch["x"][order]}, steps=100)
    assert torch.allclose(first.best_elbo[order], second.best_elbo, atol=0.1)


def test_gaps_leave_the_pair_as_it_was(model):
    pair = pv.Pair(model, LinearGuide(model))
    before = {name: tensor.clone() for name, tensor in pair.state_dict().items()}
    gaps(pair, data(model, 3), steps=3, num_samples=10)
    assert all(torch.equal(before[name], tensor) for name, tensor in pair.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in pair.named_parameters().values())


def test_refitting_helps_a_bad_guide_and_leaves_it_as_it_was(model):
    from pyro_vae.conditionals import MLP, Conditional, FullCovariance
    from pyro_vae.guides.latent import LatentGuide

    head = FullCovariance(2)
    pair = pv.Pair(model, LatentGuide(Conditional(MLP(3, head.size, ()), head).double()))
    before = {name: tensor.clone() for name, tensor in pair.state_dict().items()}
    batches = (data(model, 100) for _ in range(150))
    held = data(model, 200)
    result = refit_guide(pair, batches, held, lr=0.05)
    assert result.gain > 0.3
    # the posterior is in the guide's family, so the best ELBO is log p(x)
    assert result.after.elbo == pytest.approx(model.marginal().log_prob(held["x"]).mean().item(), abs=0.05)
    assert all(torch.equal(before[name], tensor) for name, tensor in pair.state_dict().items())
    with pytest.raises(pv.PairError, match="has no parameters of its own"):
        refit_guide(pv.Pair(model, LinearGuide(model)), [], data(model, 5))


@pytest.mark.parametrize(
    ("dream", "can", "overfits", "said", "not_said"),
    [
        (None, True, True, "train it on data that the model draws too (--dream 1) or on more", "try a larger"),
        (None, True, False, "for longer, on data that the model draws too (--dream 1), or try a larger", "smaller"),
        (1.0, True, True, "train for longer, since the model's draws never run out; else train it on more", "--dream"),
        (1.0, True, False, "train it for longer, or try a larger encoder", "--dream"),
        (None, False, True, "train it on more data, or a smaller one", "--dream"),
        (0.0, False, False, "train it for longer, or try a larger encoder", "--dream"),
    ],
)
def test_the_cure_of_an_encoder_is_the_right_one_and_not_what_was_done(dream, can, overfits, said, not_said):
    pair = pv.pairs.latent(pv.load_data({"x": torch.randn(9, 3)}).spec, latent=2, hidden=[3])
    pair = pair if can else pv.pairs.autoencoder(pv.load_data({"x": torch.randn(9, 3)}).spec, latent=2, hidden=[3])
    found = {"gaps": Fixed(6.5), "gaps_train": Fixed(3.0 if overfits else 6.4), "kl": 18.5}
    batch = {"x": torch.randn(4, 3)}
    advice = _cure(Subject(pair, None, "test", batch, None, BUDGETS["quick"], 0, [], found, dream=dream))
    assert advice.startswith("the encoder is the larger part of it: ")
    assert said in advice
    assert not_said not in advice


def test_a_diagnosis_knows_whether_the_pair_was_trained_with_dreams(monkeypatch):
    seen = []
    monkeypatch.setattr(checks, "CHECKS", {"looks": lambda subject: seen.append(subject.dream) or []})
    data = pv.load_data({"x": torch.randn(40, 3)})
    for dream in (0.0, 1.0):
        pair = pv.pairs.latent(data.spec, latent=2, hidden=[3])
        fitted = pv.fit(pair, data, epochs=1, dream=dream, compile="off")
        pv.diagnose(fitted)
        pv.diagnose(pair, data, dream=dream)
    pv.diagnose(pair, data)
    assert seen == [0.0, 0.0, 1.0, 1.0, None]


class Fixed(NamedTuple):
    """Gaps of one size."""

    amortization: float
    approximation: float = 1.0
