"""Missing entries: NaN in x becomes the field seen where that is asked for."""

import numpy as np
import pytest

import pyro_vae as pv
from pyro_vae.training import SettingsError

X = np.array([[1e4, 0], [1e4 + 2, 1], [np.nan, 1], [1e4 + 1, np.nan]] * 5, np.float32)


def test_nan_becomes_a_mask_and_leaves_the_moments_near_those_of_what_is_seen():
    with pytest.warns(match="10 of 40 entries of x are missing"):
        data = pv.load_data({"x": X}, valid=0, test=0, missing="mark")
    batch = data.batch("train")
    assert (batch["seen"].numpy() == ~np.isnan(X)).all()
    assert (batch["x"].numpy()[~np.isnan(X)] == X[~np.isnan(X)]).all()
    assert data.spec.mean[0].item() == pytest.approx(1e4 + 1)
    assert data.has_missing


def test_nan_is_refused_by_default_and_so_is_nothing_at_all():
    with pytest.raises(pv.DataError, match="--missing mark"):
        pv.load_data({"x": X})
    with pytest.raises(pv.DataError, match="every entry of x is missing"):
        pv.load_data({"x": X * np.nan}, missing="mark")
    with pytest.raises(pv.DataError, match="give one or the other"):
        pv.load_data({"x": X, "seen": X > 0}, missing="mark")


def test_data_without_missing_entries_stay_as_they_are():
    data = pv.load_data({"x": np.nan_to_num(X)}, valid=0, test=0, missing="mark")
    assert "seen" not in data.spec.fields
    assert not data.has_missing


def test_a_pair_that_does_not_read_seen_is_refused():
    data = pv.load_data("sprinkler")
    with pytest.raises(
        SettingsError, match="some entries of x of sprinkler are missing, and the pair does not read seen"
    ):
        pv.fit(pv.pairs.latent(data.spec, hidden=[4]), data, epochs=1)


def test_the_sprinkler_is_that_of_murphy():
    batch = pv.load_data("sprinkler", valid=0, test=0).batch("train")
    x, seen = batch["x"].double(), batch["seen"]
    assert seen.double().mean().item() == pytest.approx(0.7, abs=0.01)
    wet = x[seen[:, 3], 3].mean().item()
    assert wet == pytest.approx(0.6471, abs=0.025)
    dry = seen[:, 1:].all(-1) & (x[:, 1] == 0) & (x[:, 2] == 0)
    assert x[dry, 3].sum() == 0
