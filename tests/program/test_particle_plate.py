"""Programs that count dimensions from the left: every figure is that of runs made one by one, by plain Pyro."""

import warnings

import pyro
import pyro.distributions as dist
import pyro.poutine as poutine
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from truths import rand

import pyro_vae as pv
from pyro_vae.evidence import posterior_means
from pyro_vae.objectives import OBJECTIVES
from pyro_vae.program.particle_plate import stacking
from pyro_vae.program.weights import plate_nesting, run, takes_particles

FEATURES, LATENT, DATA = 4, 3, 5


class Net(nn.Module):
    """A linear map followed by a function of ``(data, features)``."""

    def __init__(self, after, sizes=(LATENT, FEATURES)):
        super().__init__()
        self.map = nn.Linear(*sizes).double()
        with torch.no_grad():
            self.map.weight.copy_(rand(*reversed(sizes), seed=7))
            self.map.bias.copy_(rand(sizes[1], seed=8))
        self.after = after

    def forward(self, z):
        return self.after(self.map(z))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.LSTM(1, FEATURES, batch_first=True).double()

    def forward(self, z):
        return self.net(z.unsqueeze(-1))[0].sum(1)


LEFT = {
    "softmax of dim 1": Net(lambda h: 5 * torch.softmax(h, 1)),
    "normalize": Net(F.normalize),
    "mean of dim 1": Net(lambda h: h - h.mean(1, keepdim=True)),
    "cumsum of dim 1": Net(lambda h: h.cumsum(1)),
    "first column": Net(lambda h: h - h[:, :1]),
    "size of dim 1": Net(lambda h: h * h.shape[1]),
    "size of dim 0": Net(lambda h: h * len(h)),
    "cat": Net(lambda h: torch.cat([h[:, :2], h[:, 2:] ** 2], dim=1)),
    "view": Net(lambda h: h.view(len(h), -1)),
    "flip": Net(lambda h: h.flip(1)),
    "einsum": Net(lambda h: torch.einsum("bi,ij->bj", h, torch.eye(FEATURES).double())),
    "batch norm": nn.Sequential(nn.Linear(LATENT, FEATURES), nn.BatchNorm1d(FEATURES)).double(),
    "recurrent": Recurrent(),
}
RIGHT = {
    "linear": Net(lambda h: h),
    "softmax of dim -1": Net(lambda h: 5 * torch.softmax(h, -1)),
    "flip of dim -1": Net(lambda h: h.flip(-1)),
    "dropout in evaluation": Net(nn.Dropout(0.5)),
}


def pair_of(decoder, encoder=None, objective=None):
    encoder = encoder or Net(lambda h: h, (FEATURES, 2 * LATENT))

    def model(x):
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(LATENT).double(), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(decoder(z), 1.0).to_event(1), obs=x)

    def guide(x):
        pyro.module("encoder", encoder)
        loc, scale = encoder(x).chunk(2, -1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.1 * loc, (0.1 * scale).exp()).to_event(1))

    pair = pv.Pair(model, guide, *([objective] if objective else []))
    pair.train(False)
    return pair


def alone(pair, x, count):
    """Log-weights one by one, by plain Pyro: ``(count, data)``."""
    rows = []
    with torch.no_grad():
        for _ in range(count):
            guide = poutine.trace(pair.guide).get_trace(x)
            model = poutine.trace(poutine.replay(pair.model, trace=guide)).get_trace(x)
            model.compute_log_prob(), guide.compute_log_prob()
            rows.append(sum(model.nodes[n]["log_prob"] for n in ("z", "x")) - guide.nodes["z"]["log_prob"])
    return torch.stack(rows)


@pytest.mark.filterwarnings("ignore:.*counts dimensions from the left")
@pytest.mark.parametrize("data", [1, 2, DATA])
@pytest.mark.parametrize("kind", LEFT)
def test_weights_of_programs_that_count_from_the_left(kind, data):
    pair, x = pair_of(LEFT[kind]), rand(data, FEATURES, seed=1)
    torch.manual_seed(3)
    truth = alone(pair, x, 3)
    torch.manual_seed(3)
    with torch.no_grad():
        found = pv.log_weights(pair, {"x": x}, 3)
    if takes_particles(pair, {"x": x}, 1):  # the draws come in another order; so compare at given ones
        guide, model = run(pair, {"x": x}, 3, 1)
        z = guide.nodes["z"]["value"]
        one_by_one = torch.stack([LEFT[kind](value) for value in z])
        truth, found = one_by_one, model.nodes["x"]["fn"].base_dist.loc
    torch.testing.assert_close(found, truth.expand_as(found), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", RIGHT)
def test_programs_that_count_from_the_right_run_side_by_side(kind):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert takes_particles(pair_of(RIGHT[kind]), {"x": rand(DATA, FEATURES, seed=1)}, 1)


def test_a_warning_names_the_program_once():
    pair, batch = pair_of(LEFT["softmax of dim 1"]), {"x": rand(DATA, FEATURES, seed=1)}
    with pytest.warns(UserWarning, match=r"model gives other values.*dim=-1 in place of dim=1") as told:
        assert not takes_particles(pair, batch, 1)
    assert told[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not takes_particles(pair, batch, 1)


def test_a_guide_that_counts_from_the_left_is_named():
    def model(x):
        with pyro.plate("data", len(x)):
            z1 = pyro.sample("z1", dist.Normal(torch.zeros(LATENT).double(), 1.0).to_event(1))
            z2 = pyro.sample("z2", dist.Normal(z1, 1.0).to_event(1))
            pyro.sample(
                "x", dist.Normal(z2.sum(-1, keepdim=True).expand(*z2.shape[:-1], FEATURES), 1.0).to_event(1), obs=x
            )

    def guide(x):
        with pyro.plate("data", len(x)):
            z1 = pyro.sample("z1", dist.Normal(x[:, :LATENT], 1.0).to_event(1))
            pyro.sample("z2", dist.Normal(z1.cumsum(1), 1.0).to_event(1))

    with pytest.warns(UserWarning, match="guide gives other values"):
        assert not takes_particles(pv.Pair(model, guide), {"x": rand(DATA, FEATURES, seed=1)}, 1)


def test_random_numbers_of_a_programs_own_are_not_blamed_on_its_dimensions():
    noisy = Net(lambda h: h + torch.randn_like(h))
    pair, batch = pair_of(noisy), {"x": rand(DATA, FEATURES, seed=1)}
    found = stacking(lambda n: run(pair, batch, n, 1), 1)
    assert found.own_randomness
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not takes_particles(pair, batch, 1)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*counts dimensions from the left")
def test_figures_of_a_softmax_over_the_features():
    pair, x = pair_of(LEFT["softmax of dim 1"]), rand(DATA, FEATURES, seed=1)
    batch = {"x": x}
    log_w = alone(pair, x, 500)
    evidence = pv.log_evidence(pair, batch, num_samples=500, compile="off")
    truth = log_w.logsumexp(0) - torch.tensor(500.0).double().log()
    assert ((evidence.estimate - truth).abs() < 4 * 2**0.5 * evidence.stderr).all()
    error = (log_w.mean(1).std() / 500**0.5).item()
    assert pv.elbo(pair, batch, num_samples=500).elbo == pytest.approx(log_w.mean().item(), abs=6 * error)
    tree = pv.to_datatree(pair, batch, num_samples=50)
    loc = torch.stack([LEFT["softmax of dim 1"](z) for z in torch.tensor(tree["posterior"]["z"].values[0])])
    expected = dist.Normal(loc, 1.0).to_event(1).log_prob(x)
    torch.testing.assert_close(torch.tensor(tree["log_likelihood"]["x"].values[0]), expected)
    total = tree["posterior_predictive"]["x"].sum("x_dim_0").values
    assert total.mean() == pytest.approx(5, abs=4 * FEATURES**0.5 / total.size**0.5)
    assert plate_nesting(pair, batch) == 1
    assert posterior_means(pair, batch, num_samples=4)["z"].shape == (DATA, LATENT)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*counts dimensions from the left")
@pytest.mark.parametrize("name", [name for name in OBJECTIVES if name not in ("enumeration", "one-level")])
def test_objectives_of_programs_that_count_from_the_left(name):
    """The loss and its gradient are those of the same program written with dim=-1."""
    x = rand(DATA, FEATURES, seed=1)
    found = []
    for dim in (1, -1):
        decoder = Net(lambda h, dim=dim: 5 * torch.softmax(h, dim))
        pair = pair_of(decoder, objective=OBJECTIVES[name](3, DATA))
        torch.manual_seed(1)
        losses, slopes = [], []
        for _ in range(100):
            decoder.zero_grad()
            losses.append(torch.as_tensor(pair.objective.loss_and_grads(pair.model, pair.guide, x)).item())
            slopes.append(decoder.map.weight.grad.clone())
        losses, slopes = torch.tensor(losses).double(), torch.stack(slopes)
        found.append((losses.mean(), losses.std() / 100**0.5, slopes.mean(0), slopes.std(0) / 100**0.5))
    (loss, error, slope, slope_error), (other, other_error, other_slope, other_slope_error) = found
    assert (loss - other).abs() < 4 * (error**2 + other_error**2).sqrt()
    assert ((slope - other_slope).abs() < 5 * (slope_error**2 + other_slope_error**2).sqrt() + 1e-12).all()
