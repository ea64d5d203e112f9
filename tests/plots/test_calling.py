"""Pictures take a pair and its data, or what training returned."""

import inspect

import pyro
import pyro.distributions as dist
import pytest
import torch
from matplotlib.figure import Figure
from torch import nn

import pyro_vae as pv
from pyro_vae.plots import OF_HISTORY, PICTURES
from pyro_vae.posterior import NotDrawable


@pytest.fixture(scope="module")
def fitted():
    digits = pv.load_data("digits")
    torch.manual_seed(0)
    return pv.fit(pv.pairs.latent(digits.spec, latent=2, hidden=[8]), digits, epochs=2, compile="off")


def test_what_training_returned_is_enough(fitted):
    for draw in (pv.plots.samples, pv.plots.scatter):
        assert draw(fitted).get_suptitle() == draw(fitted.pair, fitted.data).get_suptitle()
    few = pv.plots.samples(fitted, count=3).get_size_inches()
    assert (few == pv.plots.samples(fitted.pair, fitted.data, count=3).get_size_inches()).all()
    assert len(pv.plots.curves(fitted).axes) == len(pv.plots.curves(fitted.history).axes)


def test_every_picture_keeps_its_signature_for_completion():
    for name, draw in PICTURES.items():
        names = list(inspect.signature(draw).parameters)
        first = ["history"] if name in OF_HISTORY else ["points"] if name == "rate-distortion" else ["pair", "data"]
        assert names[: len(first)] == first, name
        assert "options" not in names, name


def test_what_is_no_data_is_refused(fitted):
    with pytest.raises(TypeError, match="there are no data"):
        pv.plots.samples(fitted.pair)
    with pytest.raises(TypeError, match="needs data that know what x is, from load_data, and this is a dict"):
        pv.plots.samples(fitted.pair, {"x": torch.zeros(3, 64)})
    with pytest.raises(TypeError, match="a pair is a Pair or what fit or load returned"):
        pv.plots.samples(3)


def test_datatree_and_query_take_it_too(fitted):
    tree = pv.to_datatree(fitted, num_samples=4, prior_samples=0)
    assert tree["observed_data"]["x"].shape[0] == 100
    assert pv.to_datatree(fitted.pair, fitted.data.batch("test", 3)["x"], num_samples=4)["posterior"]["z"].shape[2] == 3
    for asked in (pv.query(fitted, "z[0]>0", num_samples=2000), pv.query(fitted.pair, "z[0]>0", batch=fitted.data)):
        assert asked.probability == pytest.approx(0.5, abs=0.06)


def test_a_picture_of_one_panel_goes_into_the_users_own_axes(fitted):
    figure = Figure(figsize=(9, 4), layout="constrained")
    panels = figure.subplots(1, 5)
    drawn = {
        "scatter": pv.plots.scatter,
        "samples": pv.plots.samples,
        "kl": pv.plots.kl,
        "manifold": lambda fitted, ax: pv.plots.manifold(fitted, side=3, ax=ax),
    }
    for ax, (name, draw) in zip(panels, drawn.items(), strict=False):
        assert draw(fitted, ax=ax) is figure
        assert ax.has_data(), name
        alone = draw(fitted, ax=None)
        assert len(alone.axes) == 1, name
        # the words are those of the figure's own title, broken elsewhere
        assert ax.get_title().split() == alone.get_suptitle().split()
    assert figure.get_suptitle() == ""
    points = [{"beta": b, "kl": b, "reconstruction": -b} for b in (1.0, 2.0)]
    assert pv.plots.rate_distortion(points, ax=panels[4]) is figure
    assert len(figure.axes) == 5
    figure.canvas.draw()  # everything has a place


def test_a_picture_of_several_panels_says_so(fitted):
    ax = Figure().add_subplot()
    for draw in (pv.plots.curves, pv.plots.graph):
        with pytest.raises(NotDrawable, match="several panels here, which one axes cannot hold; draw it without ax"):
            draw(fitted, ax=ax)
    assert not ax.has_data()
    assert len(pv.plots.curves(fitted).axes) == 3  # and the next one has a figure of its own


class Obs(nn.Module):
    """The names of Pyro's own tutorial."""

    def __init__(self, features):
        super().__init__()
        self.net = nn.Linear(2, features)

    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("latent", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("obs", dist.Normal(self.net(z), 1.0).to_event(1), obs=x[:, : self.net.out_features])


class Seer(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(64, 2)

    def forward(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("latent", dist.Normal(self.net(x), 1.0).to_event(1))


def test_x_is_drawn_whatever_its_site_is_called(fitted):
    pair = pv.Pair(Obs(64), Seer())
    for name in ("samples", "reconstructions", "traversal", "interpolation"):
        assert PICTURES[name](pair, fitted.data).axes[0].has_data(), name
    with pytest.raises(NotDrawable, match="the model observes 'obs' and no 'x' to be drawn"):
        pv.plots.samples(pv.Pair(Obs(32), Seer()), fitted.data)
