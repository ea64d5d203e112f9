"""Latent numbers beside latent vectors: pictures show what they hold and what they do."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pyro_vae as pv
from pyro_vae.plots import NotDrawable
from pyro_vae.posterior import kl_by_dimension, within_support


class Ink(nn.Module):
    """s ~ LogNormal(0, 0.3), x | z, s ~ Normal(s (shade + W z), 0.1)"""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(2, 16)

    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            s = pyro.sample("s", dist.LogNormal(0.0, 0.3))
            pyro.sample("x", dist.Normal(s[..., None] * self.net(z), 0.1).to_event(1), obs=x)


class Reader(nn.Module):
    """s | x ~ LogNormal(log mean x, 0.1), z | x ~ Normal(0, 1)"""

    def forward(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0 * x[:, :2], 1.0).to_event(1))
            pyro.sample("s", dist.LogNormal(x.mean(1).log(), 0.1))


@pytest.fixture(scope="module")
def ink():
    torch.manual_seed(0)
    data = pv.load_data({"x": torch.rand(60, 1, 4, 4) * (0.5 + torch.rand(60, 1, 1, 1))}, valid=10, test=20)
    return pv.Pair(Ink(), Reader()), data


def test_the_kl_of_a_number_is_that_of_its_closed_form(ink):
    pair, data = ink
    batch = data.batch("test")
    loc = batch["x"].mean(1).log().double()
    exact = (torch.log(torch.tensor(0.3 / 0.1)) + (0.01 + loc**2) / (2 * 0.09) - 0.5).mean()
    nats = kl_by_dimension(pair, [batch])
    assert nats["s"].shape == (1,)
    assert nats["s"].item() == pytest.approx(exact.item(), rel=1e-5)
    assert nats["z"].abs().max() < 1e-6
    words = [text for axes in pv.plots.kl(pair, data).axes for text in (axes.get_title(loc="left"), axes.get_xlabel())]
    assert any(text.startswith(f"s: {exact:.2f} nats in all") for text in words)


def test_a_number_moves_within_its_support_and_first_where_it_holds_most(ink):
    pair, data = ink
    figure = pv.plots.traversal(pair, data, steps=5)
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels[0].startswith("s\n")
    assert {label.split("\n")[0] for label in labels[1:]} == {"z[0]", "z[1]"}
    one = {name: field[:1] for name, field in data.batch("test", 1).items()}
    steps = torch.tensor([-3.0, 0.0, 3.0])
    moved = within_support(pair, one, "s", steps, {})
    # of 1,000 draws: the mean of log s is off by 0.3 / sqrt(1000), its deviation by 0.3 / sqrt(2000)
    assert torch.allclose(moved.log(), 0.3 * steps, atol=4 * (0.3 / 1000**0.5 + 3 * 0.3 / 2000**0.5))


def test_a_number_has_a_histogram(ink):
    pair, data = ink
    assert "q(s | x)" in pv.plots.scatter(pair, data, site="s").get_suptitle().replace("\u00a0", " ")
    assert "q(z | x)" in pv.plots.scatter(pair, data).get_suptitle().replace("\u00a0", " ")
    with pytest.raises(NotDrawable, match="there is no latent vector 't'; the model has 'z', 's'"):
        pv.plots.scatter(pair, data, site="t")
