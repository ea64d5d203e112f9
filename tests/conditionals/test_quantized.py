"""Vector quantization: closed forms, gradients at fixed codes, the codebook's state."""

import copy
import math
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import TraceEnum_ELBO, config_enumerate
from sklearn.datasets import load_digits
from torch import Tensor, nn

import pyro_vae as pv
from pyro_vae.conditionals import CodebookPrior, Quantize
from pyro_vae.distributions import Codebook, distances, nearest
from pyro_vae.guides.latent import LatentGuide
from pyro_vae.models.latent import LatentModel
from pyro_vae.nets import MaskedLabels
from pyro_vae.posterior import at_temperature


class Around(nn.Module):
    """N(z, sd^2)."""

    def __init__(self, sd: float) -> None:
        super().__init__()
        self.sd = nn.Parameter(torch.tensor(sd, dtype=torch.float64))

    def forward(self, z: Tensor) -> Any:
        return dist.Normal(z, self.sd).to_event(1)


def codebook(vectors: Tensor, places: int = 1, **options: Any) -> CodebookPrior:
    prior = CodebookPrior(len(vectors), places, vectors.shape[1], **options).double()
    prior.base.copy_(vectors)
    return prior


def pair_of(vectors: Tensor, sd: float, net: nn.Module | None = None, **options: Any) -> pv.Pair:
    """Return a pair at one place whose marginal is a mixture of Gaussians of equal weights."""
    prior = codebook(vectors, learned=False, codebook="gradient")
    guide = LatentGuide(Quantize(net or nn.Identity(), prior, **options))
    return pv.Pair(LatentModel(prior, Around(sd)), guide).train(False)


def mixture(x: Tensor, vectors: Tensor, sd: float) -> Tensor:
    each = dist.Normal(vectors, sd).to_event(1).log_prob(x.unsqueeze(1))
    return each.logsumexp(1) - math.log(len(vectors))


TOY = torch.tensor([[-1.0], [0.0], [2.0]], dtype=torch.float64)


def test_the_bound_of_the_nearest_code_and_log_p_of_a_toy() -> None:
    x = torch.tensor([[0.4]], dtype=torch.float64)
    pair = pair_of(TOY, 0.5)
    assert mixture(x, TOY, 0.5).item() == pytest.approx(-1.609467604388, abs=1e-11)
    assert pv.elbo(pair, {"x": x}).elbo == pytest.approx(-1.644403641313, abs=1e-11)


def test_summing_over_the_codes_of_a_toy_gives_log_p() -> None:
    x = torch.tensor([[0.4]], dtype=torch.float64)
    pair = pair_of(TOY, 0.5, temperature=2 * 0.5**2)  # at which the softmax is the posterior
    summed = pv.Pair(pair.model, config_enumerate(pair.guide), TraceEnum_ELBO())
    assert pv.elbo(summed, {"x": x}).elbo == pytest.approx(-1.609467604388, abs=1e-11)


def test_one_place_is_a_mixture_of_gaussians() -> None:
    """At the means and the variance that EM finds for scikit-learn's digits."""
    x = torch.tensor(load_digits().data / 16)
    means, variance = fitted(x)
    pair = pair_of(means, variance**0.5)
    assert variance == pytest.approx(0.03967464, abs=5e-9)
    assert mixture(x, means, variance**0.5).mean().item() == pytest.approx(10.167433, abs=5e-7)
    assert pv.elbo(pair, {"x": x}).elbo == pytest.approx(10.159471, abs=5e-7)


def fitted(x: Tensor) -> tuple[Tensor, float]:
    """Return the means and the common variance of a mixture after 100 rounds of EM, weights learned."""
    means, variance, weights = x[:10].clone(), 0.07, x.new_full((10,), 0.1)
    for _ in range(100):
        far = (x.square().sum(1, keepdim=True) - 2 * x @ means.T + means.square().sum(1)) / 2
        r = torch.softmax(weights.log() - far / variance, -1)
        weights, means = r.mean(0), r.T @ x / r.sum(0).unsqueeze(-1)
        far = x.square().sum(1, keepdim=True) - 2 * x @ means.T + means.square().sum(1)
        variance = ((r * far).sum() / x.numel()).item()
    return means, variance


@pytest.mark.parametrize("places", [1, 3])
def test_probabilities_add_up_to_one(places: int) -> None:
    torch.manual_seed(0)
    prior = codebook(torch.randn(4, 2, dtype=torch.float64), places)
    with torch.no_grad():
        prior.logits.normal_()
    every = prior().enumerate_support()
    assert every.shape == (4**places, 2 * places)
    assert prior().log_prob(every).exp().sum().item() == pytest.approx(1, abs=1e-12)
    assert prior().support.check(every).all()
    assert not prior().support.check(every + 0.01).any()


def test_values_too_many_to_be_summed_over_are_refused() -> None:
    with pytest.raises(ValueError, match="16 codes at 8 places make more than 65,536 values"):
        CodebookPrior(16, 8, 2)().enumerate_support()


def test_draws_have_the_frequencies_of_their_probabilities() -> None:
    torch.manual_seed(0)
    p = torch.tensor([[0.1, 0.2, 0.7], [0.5, 0.25, 0.25]], dtype=torch.float64)
    fn = Codebook(TOY, dist.Categorical(probs=p).to_event(1))
    codes = fn.codes(fn.sample((20_000,)))
    found = torch.stack([torch.bincount(codes[:, i], minlength=3) for i in range(2)]) / 20_000
    torch.testing.assert_close(found, p, atol=5 * 0.5 / 20_000**0.5, rtol=0, check_dtype=False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_row_of_the_codebook_is_its_own_code_to_the_bit(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    vectors = torch.randn(16, 3, dtype=dtype)
    prior = codebook(vectors, 2).to(dtype)
    prior.base.copy_(vectors)
    z = prior().words(torch.arange(32).reshape(16, 2) % 16)
    assert torch.equal(Quantize(nn.Identity(), prior).train(False)(z).v, z)


def test_codes_do_not_depend_on_the_rest_of_the_batch() -> None:
    torch.manual_seed(0)
    vectors, z = torch.randn(64, 8), torch.randn(300, 4 * 8)
    together = nearest(vectors, z)
    assert torch.equal(together, torch.cat([nearest(vectors, row) for row in z.split(1)]))
    assert torch.equal(together[:7], nearest(vectors, z[:7].expand(3, 7, -1))[1])


def test_half_precision_flips_no_codes() -> None:
    torch.manual_seed(0)
    net, x = nn.Linear(20, 4 * 8), torch.randn(500, 20)
    prior = CodebookPrior(64, 4, 8)
    head = Quantize(net, prior).train(False)
    whole = head(x).v
    with torch.autocast("cpu", torch.bfloat16):
        assert not torch.equal(nearest(prior.vectors, net(x)), nearest(prior.vectors, whole)), "bfloat16 would"
        assert torch.equal(head(x).v, whole)


@pytest.mark.parametrize("kind", ["averages", "gradient"])
def test_the_pull_has_a_gradient_and_no_value(kind: Any) -> None:
    torch.manual_seed(0)
    prior = CodebookPrior(5, 2, 3, codebook=kind).double()
    net = nn.Linear(4, 6).double()
    x = torch.randn(7, 4, dtype=torch.float64)
    point = Quantize(net, prior, pull=3.0, commitment=0.5).train(False)(x)
    assert torch.equal(point.log_prob(point.v), torch.zeros(7, dtype=torch.float64))
    point.log_density.sum().backward()
    with torch.no_grad():
        z = net(x).reshape(-1, 3)
        codes = nearest(prior.vectors, z).squeeze(-1)
        apart = prior.vectors[codes] - z
    assert net.weight.grad is not None
    expected = (-2 * 3 * 0.5 * apart).reshape(7, 6).T @ x
    torch.testing.assert_close(net.weight.grad, expected)
    if kind == "gradient":
        of_codes = torch.zeros(5, 3, dtype=torch.float64).index_add(0, codes, 2 * 3 * apart)
        torch.testing.assert_close(prior.moved.grad, of_codes)


def test_at_fixed_codes_the_decoders_and_priors_gradients_are_the_bounds() -> None:
    torch.manual_seed(0)
    vectors = torch.randn(5, 2, dtype=torch.float64)
    prior = codebook(vectors, 2)
    decoder, net = nn.Linear(4, 3).double(), nn.Linear(3, 4).double()

    def likelihood(z: Tensor) -> Any:
        return dist.Normal(decoder(z), 1.0).to_event(1)

    x = torch.randn(6, 3, dtype=torch.float64)
    holder = nn.Module()
    holder.forward = likelihood  # type: ignore[assignment]
    holder.decoder = decoder
    pair = pv.Pair(LatentModel(prior, holder), LatentGuide(Quantize(net, prior))).train(False)
    pair.objective.differentiable_loss(pair.bound_model, pair.bound_guide, {"x": x}).backward()
    found = decoder.weight.grad, prior.logits.grad
    codes = nearest(vectors, net(x))
    z = vectors[codes].flatten(-2)
    bound = likelihood(z).log_prob(x).sum() + torch.log_softmax(prior.logits, -1)[torch.arange(2), codes].sum()
    expected = torch.autograd.grad(-bound, (decoder.weight, prior.logits))
    torch.testing.assert_close(found, expected)


def test_the_summed_softmax_has_the_exact_gradient_and_becomes_the_nearest_code() -> None:
    torch.manual_seed(0)
    vectors, x = torch.randn(4, 2, dtype=torch.float64), torch.randn(6, 2, dtype=torch.float64)
    for temperature in (1.0, 1e-5):
        pair = pair_of(vectors, 0.7, nn.Linear(2, 2).double(), temperature=temperature)
        head, prior = pair.guide.encoder, pair.model.prior
        summed = pv.Pair(pair.model, config_enumerate(pair.guide), TraceEnum_ELBO())
        wanted = [*head.net.parameters(), prior.moved, pair.model.decoder.sd]
        loss = summed.objective.differentiable_loss(summed.bound_model, summed.bound_guide, {"x": x})
        found = torch.autograd.grad(loss, wanted)
        log_q = torch.log_softmax(-distances(prior.vectors, head.net(x)).squeeze(1) / temperature, -1)
        log_p = dist.Normal(prior.vectors, pair.model.decoder.sd).to_event(1).log_prob(x.unsqueeze(1))
        by_hand = (log_q.exp() * (log_p - math.log(4) - log_q)).sum()
        torch.testing.assert_close(-loss, by_hand)
        torch.testing.assert_close(found, torch.autograd.grad(-by_hand, wanted))
    with at_temperature(pair, 0.0):
        assert pv.elbo(pair, {"x": x}).elbo * 6 == pytest.approx(by_hand.item(), abs=1e-9)


def test_averages_are_those_of_what_was_nearest() -> None:
    torch.manual_seed(0)
    prior = codebook(TOY, 1, restart=10**6)
    head = Quantize(nn.Identity(), prior)
    counts, sums = torch.zeros(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    vectors = TOY.flatten().clone()
    for _ in range(5):
        x = 0.3 * torch.randn(8, 1, dtype=torch.float64) - 0.5  # none near 2
        codes = (x - vectors).square().argmin(-1)
        n = torch.bincount(codes, minlength=3)
        counts = 0.99 * counts + 0.01 * n
        sums = 0.99 * sums + 0.01 * torch.zeros(3, dtype=torch.float64).index_add(0, codes, x.flatten())
        vectors = torch.where(n > 0, sums / counts, vectors)
        value = head(x).v
        torch.testing.assert_close(prior.vectors.flatten(), vectors)
        assert torch.equal(value, prior.vectors[codes]), "the value is the vector after the step"
    assert prior.vectors[2].item() == 2.0
    before = copy.deepcopy(prior.state_dict())
    head.eval()(x)
    assert all(torch.equal(before[name], value) for name, value in prior.state_dict().items()), "eval changes nothing"


@pytest.mark.parametrize("kind", ["averages", "gradient"])
def test_a_code_without_use_for_an_epoch_begins_again_at_an_output(kind: Any) -> None:
    torch.manual_seed(0)
    prior = codebook(torch.tensor([[0.0], [1.0], [50.0]]).double(), 1, codebook=kind, restart=20)
    head = Quantize(nn.Identity(), prior)
    for step in range(3):
        assert prior.vectors[2].item() == 50.0, "not before 20 data"
        x = torch.rand(8, 1, dtype=torch.float64)
        head(x)
        assert prior.idle.tolist()[:2] == [0, 0]
        assert prior.idle[2].item() == (8 * (step + 1) if step < 2 else 0)
    assert prior.vectors[2] in x
    assert nearest(prior.vectors, prior.vectors[2]).item() == 2


def test_the_codebook_starts_at_the_centres_of_clusters() -> None:
    torch.manual_seed(0)
    centres = torch.tensor([[0.0, 0.0], [5.0, 0.0], [0.0, 5.0], [5.0, 5.0]])
    x = (centres[torch.arange(400) % 4] + 0.1 * torch.randn(400, 2)).repeat(1, 2)
    prior = CodebookPrior(4, 2, 2)
    Quantize(nn.Identity(), prior).start_from(x[torch.randperm(400)])
    found = prior.vectors[nearest(prior.vectors, centres).flatten()]
    torch.testing.assert_close(found, centres, atol=0.1, rtol=0)


def test_a_single_code_is_refused() -> None:
    with pytest.raises(ValueError, match="codes must be at least 2, got 1"):
        CodebookPrior(1, 2, 3)
    with pytest.raises(pv.PairError, match="codes must be at least 2, got 1"):
        pv.pairs.quantized(pv.load_data("digits").spec, codes=1)


def test_averages_are_not_trained_at_a_temperature() -> None:
    with pytest.raises(ValueError, match=r"temperature 0\.2 trains no averages"):
        Quantize(nn.Identity(), CodebookPrior(3, 1, 1), temperature=0.2)


def test_a_restart_takes_no_output_that_is_not_finite() -> None:
    prior = codebook(torch.tensor([[0.0], [50.0]]).double(), 1, codebook="gradient", restart=2)
    head = Quantize(nn.Identity(), prior)
    with pyro.validation_enabled(False):  # as in training
        head(torch.full((4, 1), math.nan, dtype=torch.float64))
    assert prior.vectors.flatten().tolist() == [0.0, 50.0]
    head(torch.ones(4, 1, dtype=torch.float64))
    assert prior.vectors.flatten().tolist() == [0.0, 1.0]


def test_a_draw_of_codes_is_weighted_by_its_probability() -> None:
    """log p(x) by importance sampling from the softmax is the mixture's."""
    torch.manual_seed(0)
    x = torch.randn(5, 1, dtype=torch.float64)
    pair = pair_of(TOY, 0.5)
    with at_temperature(pair, 1.0), pyro.validation_enabled(False):
        found = pv.log_evidence(pair, {"x": x}, num_samples=4000)
    error = (found.estimate - mixture(x, TOY, 0.5)).abs()
    assert (error < 5 * found.stderr + 1e-6).all()


def after_each_other(codes: int = 3, places: int = 4) -> CodebookPrior:
    """Return a prior whose codes depend on those before them."""
    torch.manual_seed(0)
    prior = CodebookPrior(codes, places, 2, net=MaskedLabels(places, codes, width=3, hidden=(9,))).double()
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.normal_()
    return prior


def test_codes_one_after_the_other_add_up_to_one_and_are_drawn_as_they_are_judged() -> None:
    prior = after_each_other()
    p = prior().log_prob(prior().enumerate_support()).exp().detach()
    assert p.sum().item() == pytest.approx(1, abs=1e-12)
    codes = prior().codes(prior().sample((20_000,)))
    number = (codes * 3 ** torch.arange(3, -1, -1)).sum(-1)
    found = torch.bincount(number, minlength=81) / 20_000
    assert ((found - p).abs() < 5 * (p / 20_000).sqrt() + 1e-4).all()
    independent = torch.stack([torch.bincount(codes[:, i], minlength=3) / 20_000 for i in range(4)])
    product = torch.stack([independent[i][codes[:, i]] for i in range(4)]).prod(0)
    assert (product - p[number]).abs().mean() > 0.01, "places are not independent"


def test_a_code_is_judged_by_those_before_it_and_what_is_learned_of_its_place() -> None:
    prior = after_each_other()
    codes = torch.tensor([[2, 0, 1, 1]])
    said = prior.net(codes).unflatten(-1, (3, 4))[0].T + prior.logits
    by_hand = torch.log_softmax(said, -1)[torch.arange(4), codes[0]].sum()
    torch.testing.assert_close(prior().log_prob(prior().words(codes))[0], by_hand)


def test_a_net_of_other_codes_is_refused() -> None:
    with pytest.raises(ValueError, match="makes 20 numbers of 4 places, and 3 codes at 4 places need 12"):
        CodebookPrior(3, 4, 2, net=MaskedLabels(4, 5))


@pytest.mark.parametrize("x", [torch.zeros(3, 2), torch.arange(4.0).reshape(2, 2), torch.full((5, 2), math.nan)])
def test_a_codebook_starts_at_few_or_equal_outputs_too(x: Tensor) -> None:
    prior = CodebookPrior(6, 1, 2)
    before = prior.vectors
    prior.start(x)
    known = len(x.unique(dim=0)) if x.isfinite().all() else 0
    assert prior.vectors.isfinite().all()
    assert torch.equal(prior.vectors[known:], before[known:])
    if known:
        torch.testing.assert_close(nearest(prior.vectors, x).unique().numel(), known)
