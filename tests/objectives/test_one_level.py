"""Diffusion in closed form: bounds of Gaussian data, exact chains, and one level against all."""

import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch.distributions import kl_divergence
from zoo import ROWS, spec

from pyro_vae import Pair, PairError, elbo, log_weights, pairs
from pyro_vae.conditionals import (
    AtLevel,
    BinaryDecoder,
    BinaryDenoiser,
    GaussianDecoder,
    GaussianDenoiser,
    Noise,
    Noising,
    Reverse,
    StandardNormal,
    cosine_snr,
    even_snr,
    linear_snr,
    logistic_snr,
)
from pyro_vae.guides.diffusion import NoisingGuide
from pyro_vae.models.diffusion import DiffusionModel
from pyro_vae.objectives import OneLevel
from pyro_vae.program import PerDatum, Wrapped, chain_of, require_sound

SIZE = 3


@pytest.fixture(autouse=True)
def double() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


class Silent(torch.nn.Module):
    """The net that knows nothing beyond each feature's own distribution."""

    def forward(self, z: Tensor, time: Tensor) -> Tensor:
        return torch.zeros_like(z)


def gaussian(log_snr: Tensor, variance: float, spread: str, net: torch.nn.Module | None = None) -> Pair:
    """Return the chain of data N(0, variance), with the optimal linear denoiser."""
    noise, zero, one = Noise(log_snr), torch.zeros(SIZE), torch.ones(SIZE)
    std = math.sqrt(variance) * one
    step = Reverse(GaussianDenoiser(net or Silent(), noise, zero, std), noise, spread)
    decoder = GaussianDecoder(noise, zero, std, zero, one, spread)
    top = len(log_snr)
    model = DiffusionModel(
        StandardNormal(SIZE).double(), [AtLevel(step, level) for level in range(top, 1, -1)], decoder, step
    )
    noising = [Noising(noise, level) for level in range(1, top + 1)]
    return Pair(model, NoisingGuide(noising, noise, torch.nn.Identity()), OneLevel())


def expected_loss(pair: Pair, variance: float) -> float:
    """Return -ELBO per feature in expectation over N(0, variance): linear means make each term a
    quadratic of x and z, so that a two-point rule for each is exact.
    """
    model, guide = pair.model, pair.guide
    top, deviation = len(guide.levels), math.sqrt(variance)
    x = torch.tensor([-1.0, 1.0]).reshape(2, 1, 1).expand(2, 2, SIZE) * deviation
    noise = torch.tensor([-1.0, 1.0]).reshape(1, 2, 1)

    def at(level: int) -> Tensor:
        q = guide.jump(x, level).base_dist
        return q.loc + q.scale * noise

    total = kl_divergence(guide.jump(x, top), model.prior()).mean() - model.decoder(at(1)).log_prob(x).mean()
    for level in range(2, top + 1):
        total = total + kl_divergence(guide.back(at(level), x, level), model.step(at(level), level)).mean()
    return float(total) / SIZE


def entropy(variance: float) -> float:
    return 0.5 * math.log(2 * math.pi * math.e * variance)


@pytest.mark.parametrize(
    ("variance", "schedule", "closed"),
    [
        (0.25, linear_snr, (0.808534, 0.782299, 0.747831)),
        (0.25, cosine_snr, (0.782672, 0.755366, 0.737877)),
        (4.0, linear_snr, (2.195597, 2.164236, 2.130405)),
        (4.0, cosine_snr, (2.176692, 2.143612, 2.124481)),
    ],
)
def test_ddpm_reaches_its_closed_bounds(variance: float, schedule, closed: tuple[float, ...]) -> None:
    for steps, value in zip((10, 20, 50), closed, strict=True):
        assert expected_loss(gaussian(schedule(steps), variance, "forward"), variance) == pytest.approx(value, abs=6e-7)


def test_the_gap_falls_as_one_over_the_number_of_steps() -> None:
    gaps = [expected_loss(gaussian(linear_snr(n), 0.25, "forward"), 0.25) - entropy(0.25) for n in (50, 100, 1000)]
    assert gaps == pytest.approx([0.0220, 0.0110, 0.00109], rel=6e-3)


def test_the_posteriors_variance_alone_costs_more() -> None:
    """At the lowest levels, even with a thousand steps: .456 nats, DDPM's decoder being the same."""
    pair = gaussian(linear_snr(1000), 0.25, "posterior")
    pair.model.decoder.spread = "forward"
    assert expected_loss(pair, 0.25) - entropy(0.25) == pytest.approx(0.456, abs=6e-4)


@pytest.mark.parametrize("variance", [0.25, 4.0])
def test_with_the_exact_reverse_every_draw_weighs_p_of_x(variance: float) -> None:
    # sigma_T^2 v_T: what is left is KL(q(zT | x) || p(zT)), so data of variance 1 have none
    pair = gaussian(even_snr(20, 6.0, -40.0), variance, "matched")
    x = torch.linspace(-1, 1, 4 * SIZE).reshape(4, SIZE)
    log_w = log_weights(pair, {"x": x}, 5)
    log_p = torch.distributions.Normal(0.0, math.sqrt(variance)).log_prob(x).sum(-1)
    assert (log_w - log_p).abs().max() < 1e-12


def test_a_wrong_denoiser_is_noticed_by_the_weights() -> None:
    pair = gaussian(even_snr(20, 6.0, -40.0), 0.25, "matched")
    pair.model.step.denoiser.variance.mul_(1.01)
    x = torch.linspace(-1, 1, 4 * SIZE).reshape(4, SIZE)
    log_p = torch.distributions.Normal(0.0, 0.5).log_prob(x).sum(-1)
    assert (log_weights(pair, {"x": x}, 5) - log_p).abs().max() > 1e-4


@pytest.mark.parametrize("variance", [1.0, pytest.param(0.25, marks=pytest.mark.slow)])
def test_vdms_identities_of_gaussian_data(variance: float) -> None:
    for steps, gap in ((10, 11.06), (100, 0.597), (1000, 0.0566)):
        # z at gamma -13.3 is the first of steps + 1 levels
        pair = gaussian(even_snr(steps + 1, 13.3, -5.0), variance, "posterior")
        found = expected_loss(pair, variance) - entropy(variance)
        if variance == 1:
            assert found == pytest.approx(gap, rel=2e-3)
        else:
            assert 0 < found < gap


@pytest.mark.slow
def test_the_elbos_table_tells_levels_by_their_divergence() -> None:
    """No level has less than none, and they add up to what the programs' weights do."""
    row = ROWS["diffusion-binary"]
    pair, x = row.build(), row.batch(3)["x"]
    table = elbo(pair, {"x": x.repeat(20_000, 1)})
    weights = log_weights(pair, {"x": x}, 20_000).detach()
    error = math.sqrt(2 * float(weights.mean(-1).var()) / len(weights))  # of either, at most
    assert [name for name, nats in table.sites.items() if nats > 0] == []
    assert list(table.sites) == [*(f"z{level}" for level in range(1, 7)), "x"]
    assert abs(table.elbo - float(weights.mean())) < 4 * error < 0.4
    assert table.reconstruction == table.sites["x"]


@pytest.mark.parametrize("method", ["jump", pytest.param("back", marks=pytest.mark.slow), "step"])
def test_a_chain_that_says_other_than_it_draws_is_refused(method: str, monkeypatch) -> None:
    row = ROWS["diffusion"]
    pair = row.build()
    require_sound(pair, row.batch())
    owner, name = (pair.model.step, "forward") if method == "step" else (pair.guide, method)
    right = getattr(owner, name)

    def wrong(*args):
        fn = right(*args).base_dist
        return type(fn)(fn.loc, 1.1 * fn.scale).to_event(1)

    if method == "step":  # what the programs draw from stays as it was
        wrong_step = torch.nn.Module()
        wrong_step.forward = wrong
        pair.model.step = wrong_step
    else:
        monkeypatch.setattr(owner, name, wrong)
    with pytest.raises(PairError, match=f"the log-densities of {method} and of the programs differ"):
        require_sound(pair, row.batch())


def test_a_term_is_half_the_difference_of_snr_times_the_squared_error() -> None:
    noise = Noise(even_snr(8, 5.0, -4.0))
    z, s, guess = torch.randn(3, 5, SIZE, generator=torch.Generator().manual_seed(0)).unbind()
    for level in range(2, 9):
        found = kl_divergence(noise.back(z, s, level), noise.back(z, guess, level))
        snr = noise.log_snr.exp()
        half = (snr[level - 2] - snr[level - 1]) / 2
        torch.testing.assert_close(found, half * (s - guess).square().sum(-1), rtol=1e-9, atol=0)


def test_a_fair_bit_costs_log_2() -> None:
    """Many small steps with E[s | z] = tanh: prior, steps and reconstruction add up to log 2."""
    steps = 2000
    noise = Noise(even_snr(steps + 1, 3.0, -6.0))
    base = torch.zeros(1)
    step = Reverse(BinaryDenoiser(Silent(), noise, base), noise, "posterior")
    nodes, weights = _normal_grid()
    level = torch.arange(2, steps + 2)

    def drawn(at) -> Tensor:
        return noise.of("alpha", at) + noise.of("sigma", at) * nodes.reshape(-1, 1, 1)  # s = 1, as likely as -1

    z = drawn(level)
    kl = kl_divergence(noise.back(z, torch.ones_like(z), level), step(z, level))
    first = drawn(torch.tensor([1]))
    reconstruction = -(weights @ BinaryDecoder(noise, base)(first).log_prob(torch.ones_like(first))[:, 0])
    prior = float(kl_divergence(noise.jump(torch.ones(1), steps + 1), StandardNormal(1).double()()))
    assert prior == pytest.approx(0.001237843, abs=1e-9)
    assert float(reconstruction) == pytest.approx(0.000011053, abs=1e-8)
    # the sum's error is of first order in a step: (SNR_1 / 2) (9 / steps) at most
    found = prior + float(reconstruction) + float((weights @ kl).sum())
    assert 0 < found - math.log(2) < math.exp(3) / 2 * 9 / steps


def _normal_grid() -> tuple[Tensor, Tensor]:
    """Return nodes and weights of expectations under N(0, 1): of smooth functions, to rounding."""
    nodes = torch.linspace(-11, 11, 701)
    weights = (-nodes.square() / 2).exp()
    return nodes, weights / weights.sum()


def test_the_mean_at_one_level_is_the_chains_elbo() -> None:
    torch.manual_seed(0)
    pair = ROWS["diffusion"].build()
    x = ROWS["diffusion"].batch(2)["x"]
    with torch.no_grad():
        chain = log_weights(pair, {"x": x}, 4000)
        one = torch.stack([OneLevel(300).per_level(chain_of(pair.model, pair.guide), x).mean(0) for _ in range(30)])
    error = (chain.var(0) / len(chain) + one.var(0) / len(one)).sqrt()
    assert ((chain.mean(0) - one.mean(0)).abs() < 4 * error).all()
    assert (error < 0.02 * chain.mean(0).abs()).all()


def test_a_log_mean_exp_at_one_level_is_no_bound() -> None:
    """What evaluation must never do: it lies far above what the chain's weights give."""
    torch.manual_seed(0)
    pair, x = ROWS["diffusion"].build(), ROWS["diffusion"].batch(2)["x"]
    with torch.no_grad():
        chain = log_weights(pair, {"x": x}, 50)
        one = OneLevel(50).per_level(chain_of(pair.model, pair.guide), x)
    assert (one.logsumexp(0) > chain.logsumexp(0) + 20).all()


def test_losses_are_in_nats_per_datum_when_the_programs_are_scaled_so() -> None:
    row = ROWS["diffusion"]
    pair, batch = row.build(), row.batch()
    torch.manual_seed(1)
    total = pair.objective.differentiable_loss(pair.bound_model, pair.bound_guide, batch)
    scaled = [Wrapped(program, lambda: PerDatum(1000)) for program in (pair.bound_model, pair.bound_guide)]
    torch.manual_seed(1)
    torch.testing.assert_close(pair.objective.differentiable_loss(*scaled, batch), total / len(batch["x"]))


def test_levels_are_spread_over_the_batch() -> None:
    levels = OneLevel(3)._levels(7, torch.zeros(3, 8, 1))
    assert levels.shape == (3, 8)
    assert torch.bincount(levels.flatten(), minlength=8).tolist() == [0, 0, 4, 4, 4, 4, 4, 4]
    assert all(len(set(column)) == 3 for column in levels.T.tolist())


def test_what_is_no_chain_is_refused_in_a_sentence() -> None:
    row = ROWS["latent"]
    pair = row.pair(row.spec, **row.options, objective="one-level")
    with pytest.raises(PairError, match="the model LatentModel has no 'step', so the pair is no chain"):
        pair.objective.differentiable_loss(pair.bound_model, pair.bound_guide, row.batch())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"noise": "cosine", "first": 3.0}, "first 3.0 is a log signal-to-noise ratio of even or logistic steps"),
        ({"first": -3.0, "last": 2.0}, "falls from first to last, and they are -3 and 2"),
        ({"first": math.inf}, "first"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"noise": "sine"}, "noise"),
        ({"channels": 8}, "channels 8 are those of convolutions"),
    ],
)
def test_bad_options_are_refused(options: dict, said: str) -> None:
    with pytest.raises(PairError, match=said):
        pairs.diffusion(ROWS["diffusion"].spec, **options)


def test_convolutions_are_for_images() -> None:
    with pytest.raises(PairError, match="image"):
        pairs.diffusion(spec(features=9), net="conv")


def test_logistic_levels_are_densest_at_the_centre_and_keep_the_ends() -> None:
    for levels in (1, 2, 3, 50):
        log_snr = logistic_snr(levels, 3.0, -9.0)
        assert log_snr.tolist()[:1] + log_snr.tolist()[1:][-1:] == [3.0, -9.0][:levels]
        assert len(log_snr) == levels
        assert (log_snr.diff() < 0).all()
    steps = -log_snr.diff()
    assert abs(float(log_snr[steps.argmin()])) < 0.3


def test_noise_that_does_not_fall_is_refused() -> None:
    with pytest.raises(ValueError, match="falls from level to level"):
        Noise(torch.tensor([1.0, 1.0]))
