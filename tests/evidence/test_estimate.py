"""Evidence and ELBO against closed forms (REFERENCES section 1: items 1, 3, 4, 9, 10), for every kind of latent variable."""

import math

import pyro
import pyro.distributions as dist
import pyro.poutine as poutine
import pytest
import torch
from pyro.infer import Trace_ELBO
from torch import Tensor, nn
from truths import grid_evidence, neural, rand

import pyro_vae as pv
from pyro_vae.conditionals import MLP, Conditional, Flow
from pyro_vae.evidence.psis import tail_size
from pyro_vae.guides.latent import LatentGuide
from pyro_vae.guides.linear import LinearGuide
from pyro_vae.models.linear import LinearModel
from pyro_vae.posterior import active_units, posterior_means
from pyro_vae.program import particles, plate_nesting


def linear(latent: int = 3, features: int = 6) -> LinearModel:
    model = LinearModel(latent, features).double()
    with torch.no_grad():
        model.weight.copy_(rand(features, latent, seed=1))
        model.loc.copy_(rand(features, seed=2))
    return model


def wide(model: LinearModel, factor: float = 1.3):
    """A guide around the posterior that is wider: finite variance of the weights."""

    def guide(x):
        with pyro.plate("data", len(x)):
            exact = model.posterior(x)
            pyro.sample("z", dist.MultivariateNormal(exact.loc, scale_tril=factor * exact.scale_tril))

    return guide


# --- linear-Gaussian: closed form -------------------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [1.3, 0.85])
def test_the_estimate_is_within_its_stated_error(factor):
    model = linear()
    x = model.marginal().sample((60,))
    evidence = pv.log_evidence(pv.Pair(model, wide(model, factor)), {"x": x}, num_samples=2000, proposal="guide")
    score = (evidence.estimate - model.marginal().log_prob(x)) / evidence.stderr
    assert score.abs().max() < 4
    assert 0.6 < score.std() < 1.5
    assert abs(score.mean()) < 4 / math.sqrt(60)
    assert (evidence.elbo < evidence.estimate).all()
    closed = 3 * (0.5 * factor**2 - 0.5 - math.log(factor))  # KL of a Gaussian wider by a factor
    assert (evidence.estimate - evidence.elbo).mean().item() == pytest.approx(closed, abs=0.02)


def test_the_pareto_shape_tells_a_good_guide_from_a_narrow_one():
    """k-hat of a Gaussian guide narrower by f than a Gaussian posterior: 1 - f^2 (REFERENCES item 8)."""
    model = linear(1)
    x = model.marginal().sample((40,))
    shapes = {
        factor: pv.log_evidence(pv.Pair(model, wide(model, factor)), {"x": x}, num_samples=5000, proposal="guide")
        .khat.median()
        .item()
        for factor in (0.4, 0.7, 1.0, 1.3)
    }
    assert shapes[1.0] < 0.1 or math.isinf(shapes[1.0])
    assert shapes[1.3] < 0.3
    assert shapes[0.7] == pytest.approx(1 - 0.49, abs=0.15)
    assert shapes[0.4] == pytest.approx(1 - 0.16, abs=0.2)


@pytest.mark.parametrize("rho", [pytest.param(0.5, marks=pytest.mark.slow), 0.7])
def test_the_pareto_shape_of_the_best_factorised_guide_is_the_correlation(rho):
    """k-hat = rho (REFERENCES item 8), with a standard deviation of (1 + k) / sqrt(tail)."""
    precision = torch.tensor([[1.0, -rho], [-rho, 1.0]]).double() / (1 - rho**2)
    tril = torch.linalg.cholesky(precision.inverse())

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.MultivariateNormal(torch.zeros(2).double(), scale_tril=tril))
            loc = 0 * z  # x says nothing of z: the posterior is the prior
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            scale = precision.diagonal().rsqrt()
            pyro.sample("z", dist.Normal(torch.zeros(2).double(), scale).to_event(1))

    x = {"x": torch.zeros(8, 2).double()}
    khat = pv.log_evidence(pv.Pair(model, guide), x, num_samples=100_000, proposal="guide").khat
    assert ((khat - rho).abs() < 4 * (1 + rho) / math.sqrt(tail_size(100_000))).all()
    assert khat.mean().item() == pytest.approx(rho, abs=0.1)


def test_a_conditioned_model_has_the_evidence_of_the_datum_given_its_condition():
    """z | c ~ Normal(c, 1), x | z, c ~ Normal(2 z - c, 0.5): x | c ~ Normal(c, sqrt(4 + 0.25))."""
    c, x = rand(20, seed=20), rand(20, seed=21)

    def model(x, c):
        with pyro.plate("data", len(c)):
            z = pyro.sample("z", dist.Normal(c, 1.0))
            pyro.sample("x", dist.Normal(2 * z - c, 0.5), obs=x)

    def guide(factor):
        def run(x, c):
            with pyro.plate("data", len(c)):
                precision = 1 + 4 / 0.25
                loc = (c + 2 * (x + c) / 0.25) / precision
                pyro.sample("z", dist.Normal(loc, factor * precision**-0.5))

        return run

    exact = dist.Normal(c, math.sqrt(4.25)).log_prob(x)
    posterior = pv.log_evidence(pv.Pair(model, guide(1.0)), {"x": x, "c": c}, num_samples=5, proposal="guide")
    assert torch.allclose(posterior.estimate, exact, atol=1e-10)
    other = pv.log_evidence(pv.Pair(model, guide(1.3)), {"x": x, "c": c}, num_samples=2000)
    assert ((other.estimate - exact).abs() < 4.5 * other.stderr).all()


def hierarchical(x):
    with pyro.plate("data", len(x)):
        z2 = pyro.sample("z2", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))
        z1 = pyro.sample("z1", dist.Normal(z2 @ TOP, 0.6).to_event(1))
        pyro.sample("x", dist.Normal(z1 @ BOTTOM, 0.5).to_event(1), obs=x)


TOP, BOTTOM = rand(2, 3, seed=10), rand(3, 5, seed=11)


def gaussian_given(loc_of, covariance: Tensor, a: Tensor, noise: float):
    """Posterior of u ~ N(loc_of, covariance) after v ~ N(u a, noise^2): returns v -> (loc, covariance)."""
    precision = covariance.inverse() + a @ a.T / noise**2
    after = precision.inverse()
    return lambda v: ((loc_of @ covariance.inverse() + v @ a.T / noise**2) @ after, after)


def hierarchical_guide(*, dependent: bool):
    """q(z2 | x) q(z1 | x, z2), exact; or with z1 independent of z2."""
    marginal = 0.36 * torch.eye(3).double()
    noise = BOTTOM.T @ marginal @ BOTTOM + 0.25 * torch.eye(5).double()  # of x given z2

    def guide(x):
        with pyro.plate("data", len(x)):
            through = TOP @ BOTTOM
            after = (torch.eye(2).double() + through @ noise.inverse() @ through.T).inverse()
            z2 = pyro.sample("z2", dist.MultivariateNormal(x @ noise.inverse() @ through.T @ after, after))
            centre = z2 @ TOP if dependent else (x @ noise.inverse() @ through.T @ after) @ TOP
            loc, covariance = gaussian_given(centre, marginal, BOTTOM, 0.5)(x)
            pyro.sample("z1", dist.MultivariateNormal(loc, covariance))

    return guide


def test_two_levels_are_exact_when_the_guide_is_and_have_their_gap_when_it_drops_a_dependence():
    x = rand(30, 5, seed=12)
    covariance = BOTTOM.T @ (TOP.T @ TOP + 0.36 * torch.eye(3).double()) @ BOTTOM + 0.25 * torch.eye(5).double()
    exact = dist.MultivariateNormal(torch.zeros(5).double(), covariance).log_prob(x)
    pair = pv.Pair(hierarchical, hierarchical_guide(dependent=True))
    assert torch.allclose(pv.log_weights(pair, {"x": x}, 3), exact.expand(3, 30), atol=1e-9)
    loose = pv.Pair(hierarchical, hierarchical_guide(dependent=False))
    table = pv.elbo(loose, {"x": x}, num_samples=2000)
    # KL(q(z1 | x) || p(z1 | x, z2)) averaged over q(z2 | x): same covariance C, means that differ by (z2 - E z2) M
    noise = BOTTOM.T @ (0.36 * torch.eye(3).double()) @ BOTTOM + 0.25 * torch.eye(5).double()
    through = TOP @ BOTTOM
    after = (torch.eye(2).double() + through @ noise.inverse() @ through.T).inverse()
    c = (torch.eye(3).double() / 0.36 + BOTTOM @ BOTTOM.T / 0.25).inverse()
    m = TOP / 0.36 @ c
    gap = 0.5 * torch.trace(after @ m @ c.inverse() @ m.T).item()
    assert exact.mean().item() - table.elbo == pytest.approx(gap, rel=0.03)
    evidence = pv.log_evidence(loose, {"x": x}, num_samples=4000)
    assert ((evidence.estimate - exact).abs() < 4.5 * evidence.stderr).all()


# --- a neural pair: exact on a grid -------------------------------------------------------------------------------------


def test_a_neural_pair_agrees_with_the_grid_within_its_error():
    pair = neural()
    x = (rand(50, 8, seed=13) > 0).double()
    exact = grid_evidence(pair, x)
    evidence = pv.log_evidence(pair, {"x": x}, num_samples=5000)
    score = (evidence.estimate - exact) / evidence.stderr
    assert score.abs().max() < 4
    assert abs(score.mean()) < 0.6
    assert (evidence.khat < 0.7).all()


# --- identities -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_batches_and_chunks_make_no_difference():
    """Not to the last bit that arithmetic allows, given the seed, for the batches; within the error for the chunks."""
    pair, x = neural(), (rand(150, 8, seed=14) > 0).double()
    whole = pv.log_evidence(pair, {"x": x}, num_samples=300)
    for size in (7, 64, 150):
        batches = ({"x": x[i : i + size]} for i in range(0, 150, size))
        part = pv.log_evidence(pair, batches, num_samples=300)
        for ours, theirs in zip(part[:5], whole[:5], strict=True):
            assert torch.allclose(ours, theirs, atol=1e-9)
        again = ({"x": x[i : i + size]} for i in range(0, 150, size))
        assert pv.elbo(pair, again).elbo == pytest.approx(pv.elbo(pair, {"x": x}).elbo, abs=1e-12)
    for rows, count in ((64, 8), (1000, 150), (100_000, 150)):
        chunked = pv.log_evidence(pair, {"x": x[:count]}, num_samples=300, rows=rows)
        score = (chunked.estimate - whole.estimate[:count]) / (chunked.stderr**2 + whole.stderr[:count] ** 2).sqrt()
        assert score.abs().max() < 4.5


@pytest.mark.slow
def test_memory_is_bounded_by_the_rows_asked_for_and_progress_counts_the_data():
    sizes = []

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))
            sizes.append(z.shape[:-1].numel())
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2, 0.8).to_event(1))

    done = []
    x = {"x": rand(150, 2)}
    pv.log_evidence(pv.Pair(model, guide), x, num_samples=1000, rows=512, compile="off", progress=done.append)
    assert max(sizes) <= 512
    assert len(done) > 10
    assert sum(done) == 150


def test_posterior_means_do_not_depend_on_batches():
    pair, x = neural(), (rand(150, 8, seed=14) > 0).double()
    whole = posterior_means(pair, {"x": x})["z"]
    for size in (7, 150):
        parts = posterior_means(pair, ({"x": x[i : i + size]} for i in range(0, 150, size)))["z"]
        assert torch.allclose(parts, whole, atol=1e-12)


def test_data_in_another_order_give_the_same_figures():
    """With an exact guide to the last digits, for any other within the error."""
    model = linear()
    x = rand(20, 6, seed=15)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    exact = pv.Pair(model, LinearGuide(model))
    ours = pv.log_evidence(exact, {"x": x}, num_samples=10, proposal="guide").estimate[order]
    theirs = pv.log_evidence(exact, {"x": x[order]}, num_samples=10, proposal="guide").estimate
    assert torch.allclose(ours, theirs, atol=1e-10)
    pair = pv.Pair(model, wide(model))
    first, second = (pv.log_evidence(pair, {"x": data}, num_samples=1000) for data in (x, x[order]))
    score = (first.estimate[order] - second.estimate) / (first.stderr[order] ** 2 + second.stderr**2).sqrt()
    assert score.abs().max() < 4


def test_vectorised_particles_equal_a_loop():
    """The same draws give the same weights, whether they are run side by side or one by one."""
    pair, x = neural(), {"x": (rand(5, 8, seed=16) > 0).double()}
    with torch.random.fork_rng():
        plate_nesting(pair, x)
        torch.manual_seed(0)
        together = pv.log_weights(pair, x, 4)
        torch.manual_seed(0)
        z = poutine.trace(particles(pair.bound_guide, 4, 1)).get_trace(x).nodes["z"]["value"]
    for row, log_w in zip(z, together, strict=True):
        for i in range(5):
            datum = {"x": x["x"][i : i + 1]}
            model = poutine.trace(poutine.condition(pair.bound_model, {"z": row[i : i + 1]})).get_trace(datum)
            guide = poutine.trace(poutine.condition(pair.bound_guide, {"z": row[i : i + 1]})).get_trace(datum)
            alone = model.log_prob_sum() - guide.log_prob_sum()
            assert alone.item() == pytest.approx(log_w[i].item(), abs=1e-12)


def test_a_program_that_takes_no_particles_is_looped():
    model = linear()

    def stubborn(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(3).double(), 1.0).to_event(1))
            assert z.shape == (len(x), 3)
            loc = z.view(len(x), 3) @ model.weight.T + model.loc
            pyro.sample("x", dist.Normal(loc, model.log_scale.exp()).to_event(1), obs=x)

    def raising(x):
        try:
            stubborn(x)
        except AssertionError:
            raise RuntimeError("shape") from None

    x = rand(4, 6, seed=17)
    evidence = pv.log_evidence(pv.Pair(raising, LinearGuide(model)), {"x": x}, num_samples=5)
    assert evidence.proposal == "guide"
    assert torch.allclose(evidence.estimate, model.marginal().log_prob(x), atol=1e-10)
    assert pv.log_weights(pv.Pair(raising, LinearGuide(model)), {"x": x}, 3).shape == (3, 4)


def test_the_elbo_is_pyros_and_its_sites_add_up():
    pair, x = neural(), {"x": (rand(40, 8, seed=18) > 0).double()}
    table = pv.elbo(pair, x, num_samples=3000)
    many = Trace_ELBO(num_particles=3000, vectorize_particles=True, max_plate_nesting=1)
    assert table.elbo == pytest.approx(-many.loss(pair.bound_model, pair.bound_guide, x) / 40, abs=0.02)
    assert table.elbo == pytest.approx(sum(table.sites.values()), abs=1e-9)
    assert table.elbo == pytest.approx(table.reconstruction - table.kl, abs=1e-9)
    with torch.no_grad():
        q = pair.guide.encoder(x["x"]).base_dist
    closed = 0.5 * (q.loc**2 + q.scale**2 - 1 - 2 * q.scale.log()).sum(-1).mean().item()
    assert table.kl == pytest.approx(closed, abs=0.02)


def test_masks_count_and_scales_do_not():
    def model(x):
        with pyro.plate("data", len(x)), poutine.scale(scale=7.0), poutine.mask(mask=torch.tensor([True, False])):
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)

    x = torch.tensor([0.3, 0.5]).double()
    log_w = pv.log_weights(pv.Pair(model, lambda x: None), {"x": x})
    assert torch.allclose(log_w[0], torch.tensor([dist.Normal(0.0, 1.0).log_prob(x[0]), 0.0]).double())


@pytest.mark.usefixtures("unchanged_random_state")
def test_evaluation_leaves_modes_parameters_and_random_states_alone():
    pair = neural()
    pair.model.decoder.net.train(True)
    pair.guide.train(False)
    before = {name: tensor.clone() for name, tensor in pair.state_dict().items()}
    x = {"x": torch.zeros(3, 8).double()}
    pv.log_evidence(pair, x, num_samples=10)
    pv.elbo(pair, x)
    posterior_means(pair, x)
    assert pair.model.decoder.net.training
    assert not pair.guide.training
    assert all(torch.equal(before[name], tensor) for name, tensor in pair.state_dict().items())
    assert all(p.grad is None for p in pair.named_parameters().values())


def test_log_weights_can_be_differentiated():
    model = linear()
    pair, x = pv.Pair(model, wide(model)), {"x": rand(4, 6, seed=19)}
    (pv.log_weights(pair, x, 8).logsumexp(0) - math.log(8)).sum().backward()
    assert model.weight.grad is not None
    assert model.weight.grad.abs().sum() > 0


# --- means and active units -------------------------------------------------------------------------------------------


def test_posterior_means_are_exact_where_there_is_a_mean():
    model = linear()
    x = rand(100, 6, seed=20)
    means = posterior_means(pv.Pair(model, LinearGuide(model)), {"x": x})
    assert torch.allclose(means["z"], model.posterior(x).loc, atol=1e-12)
    assert active_units(means) == {"z": 3}


def test_a_collapsed_dimension_is_not_active_even_where_only_draws_give_the_mean():
    """A flow has no mean; too few draws of it would count the posterior's spread as activity."""

    class Prior(nn.Module):
        def forward(self, x):
            base = dist.Normal(torch.zeros(len(x), 2).double(), 1.0).to_event(1)
            shift = torch.cat([x[:, :1], torch.zeros(len(x), 1).double()], 1)
            return dist.TransformedDistribution(base, [dist.transforms.AffineTransform(shift, 1.0, event_dim=1)])

    model = linear(2)
    means = posterior_means(pv.Pair(model, LatentGuide(Prior())), {"x": rand(300, 6, seed=21)})
    assert active_units(means) == {"z": 1}


def test_flows_have_evidence_too():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        head = Flow(2)
        encoder = Conditional(MLP(6, head.size, (8,)), head).double()
    model = linear(2)
    x = model.marginal().sample((10,))
    evidence = pv.log_evidence(pv.Pair(model, LatentGuide(encoder)), {"x": x}, num_samples=2000)
    assert evidence.estimate.isfinite().all()
    assert evidence.elbo.mean() < model.marginal().log_prob(x).mean()


# --- bad input --------------------------------------------------------------------------------------------------------


def test_a_site_outside_the_data_plate_is_named():
    def model(x):
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(mu, 1.0), obs=x)

    def guide(x):
        pyro.sample("mu", dist.Normal(0.0, 1.0))

    with pytest.raises(pv.PairError, match=r"site 'mu' lies outside the plate 'data'.*data_plate="):
        pv.log_evidence(pv.Pair(model, guide), {"x": torch.zeros(3)}, num_samples=10)


def test_too_few_draws_give_no_pareto_shape_and_none_are_refused():
    model = linear()
    pair, x = pv.Pair(model, wide(model)), {"x": rand(3, 6, seed=22)}
    few = pv.log_evidence(pair, x, num_samples=10)
    assert few.khat.isnan().all()
    assert few.khat_share == 1  # what is not known is not to be believed
    with pytest.raises(ValueError, match="num_samples must be at least 1, got 0"):
        pv.log_evidence(pair, x, num_samples=0)
    with pytest.raises(ValueError, match="proposal is 'best'; give 'refined', 'guide' or 'filter'"):
        pv.log_evidence(pair, x, proposal="best")
