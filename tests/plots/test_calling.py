"""Pictures take a pair and its data, or what training returned."""

import inspect

import pytest
import torch

import pyro_vae as pv
from pyro_vae.plots import OF_HISTORY, PICTURES


@pytest.fixture(scope="module")
def fitted():
    digits = pv.load_data("digits")
    torch.manual_seed(0)
    return pv.fit(pv.pairs.latent(digits.spec, latent=2, hidden=[8]), digits, epochs=2, compile="off")


def test_what_training_returned_is_enough(fitted):
    for draw in (pv.plots.samples, pv.plots.manifold, pv.plots.scatter, pv.plots.traversal, pv.plots.reconstructions):
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
