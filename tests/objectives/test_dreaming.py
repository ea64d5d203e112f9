"""Dreams: the guide learns from what the model draws, the model does not, and the objective stays what it was."""

import copy
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from linear_pairs import FEATURES, LATENT, pair
from pyro.infer import Trace_ELBO
from pyro.nn import PyroModule

import pyro_vae as pv
from pyro_vae.objectives import Dreaming
from pyro_vae.objectives.dreaming import dreamt_log_prob
from pyro_vae.program import PairError
from pyro_vae.training import SettingsError


@pytest.fixture(autouse=True)
def own_store():
    with pyro.get_param_store().scope():
        yield


def as_pair():
    model, guide, x = pair()
    return pv.Pair(model, guide), {"x": x}


def best_guide(model, guide):
    """Set the guide to the regression of z on x under the model, where E_p log q(z | x) is largest; return that."""
    w, noise = model.weight.detach(), (2 * model.log_scale.detach()).exp()
    gain = w.T @ torch.linalg.inv(w @ w.T + noise * torch.eye(FEATURES).double())
    left = torch.diagonal(torch.eye(LATENT).double() - gain @ w)  # Var(z_j | x)
    with torch.no_grad():
        guide.net.weight.copy_(gain)
        guide.net.bias.copy_(-gain @ model.loc)
        guide.log_spread.copy_(left.log() / 2)
    return float(-0.5 * (math.log(2 * math.pi) + left.log() + 1).sum())


def test_the_value_and_the_gradient_are_those_in_closed_form():
    tested, _ = as_pair()
    largest = best_guide(tested.model, tested.guide)
    count = 40_000
    many = {"x": torch.zeros(count, FEATURES).double()}
    torch.manual_seed(1)
    found = dreamt_log_prob(tested.bound_model, tested.bound_guide, many)
    # the variance of log q is that of LATENT squares of unit normals, halved
    assert float(found.detach()) == pytest.approx(largest, abs=5 * math.sqrt(LATENT / 2 / count))
    slopes = torch.autograd.grad(found, [*tested.guide.parameters()])
    assert max(float(slope.abs().max()) for slope in slopes) < 0.08
    with torch.no_grad():
        tested.guide.net.weight.add_(0.3)
    worse = dreamt_log_prob(tested.bound_model, tested.bound_guide, many)
    assert float(worse.detach()) < largest - 0.05
    slopes = torch.autograd.grad(worse, [*tested.guide.parameters()])
    assert max(float(slope.abs().max()) for slope in slopes) > 0.3


def test_the_model_and_the_figure_are_those_of_the_objective():
    tested, batch = as_pair()
    inner = Trace_ELBO()
    inner.differentiable_loss(
        tested.bound_model, tested.bound_guide, batch
    )  # the first call looks at the plates, with draws
    losses, slopes = [], []
    for objective in (inner, Dreaming(inner, 2.0)):
        torch.manual_seed(0)
        loss = objective.differentiable_loss(tested.bound_model, tested.bound_guide, batch)
        losses.append(loss.item())
        parameters = [*tested.model.parameters(), *tested.guide.parameters()]
        slopes.append(torch.autograd.grad(loss, parameters))
    assert losses[0] == losses[1]
    ours = len([*tested.model.parameters()])
    for one, other in zip(slopes[0][:ours], slopes[1][:ours], strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(slopes[0][ours], slopes[1][ours])


@pytest.mark.slow
@pytest.mark.parametrize("compile", ["off", "recorded"])
def test_training_dreams_and_resumes(tmp_path, compile):
    data = pv.load_data("digits")
    histories = []
    for run in ("whole", "stopped"):
        torch.manual_seed(0)
        made = pv.pairs.conditional(data.spec, latent=2, hidden=[8])
        settings = {"dream": 1.0, "compile": compile, "run": tmp_path / f"{run}"}
        if run == "stopped":
            pv.fit(made, data, epochs=1, **settings)
            histories.append(pv.fit(made, data, epochs=2, resume=True, **settings).history)
        else:
            histories.append(pv.fit(made, data, epochs=2, **settings).history)
    assert histories[0][-1]["elbo"] == histories[1][-1]["elbo"]


def test_dreams_alone_teach_a_guide_what_regression_finds():
    tested, _ = as_pair()
    known = copy.deepcopy(tested.guide)
    best_guide(tested.model, known)
    optimizer = torch.optim.Adam(tested.guide.parameters(), 0.04)
    torch.manual_seed(0)
    for step in range(300):
        optimizer.param_groups[0]["lr"] = 0.04 * (1 - step / 300)
        batch = {"x": torch.zeros(500, FEATURES).double()}
        optimizer.zero_grad()
        (-dreamt_log_prob(tested.bound_model, tested.bound_guide, batch)).backward()
        optimizer.step()
    for learned, best in zip(tested.guide.parameters(), known.parameters(), strict=True):
        torch.testing.assert_close(learned, best, atol=0.02, rtol=0)


def auxiliary(x):
    with pyro.plate("data", len(x)):
        u = pyro.sample("u", dist.Normal(torch.zeros(len(x), LATENT), 1.0).to_event(1), infer={"is_auxiliary": True})
        pyro.sample("z", dist.Normal(u, 1.0).to_event(1))


class Renamed(PyroModule):
    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(LATENT), 1.0).to_event(1))
            pyro.sample("pixels", dist.Normal(z.repeat(1, 2), 1.0).to_event(1), obs=x)


def test_what_cannot_dream_is_refused():
    model, guide, x = pair()
    batch = {"x": x}
    with pytest.raises(PairError, match="the guide's site 'u' is none of the model's"):
        dreamt_log_prob(pv.Pair(model, auxiliary).bound_model, pv.Pair(model, auxiliary).bound_guide, batch)
    renamed = pv.Pair(Renamed(), guide)
    with pytest.raises(PairError, match="its site 'pixels' is no field of the batch"):
        dreamt_log_prob(renamed.bound_model, renamed.bound_guide, batch)
    with pytest.raises(ValueError, match="weight must be at least 0"):
        Dreaming(Trace_ELBO(), -1.0)
    data = pv.load_data("digits")
    with pytest.raises(SettingsError, match="dream must be a finite number"):
        pv.fit(pv.pairs.latent(data.spec, hidden=[4]), data, dream=-1.0)
    with pytest.raises(SettingsError, match="the guide is a point at 'z'"):
        pv.fit(pv.pairs.autoencoder(data.spec, hidden=[4]), data, dream=1.0)
    few = pv.load_data("digits", labels=100)
    with pytest.raises(SettingsError, match="the guide is given y"):
        pv.fit(pv.pairs.semi_supervised(few.spec, hidden=[4]), few, dream=1.0)
    with pytest.raises(SettingsError, match="dreams train a guide"):
        pv.fit(pv.pairs.autoregressive(data.spec, hidden=[4]), data, dream=1.0)
