"""Labels that are not known: -1, NaN, or a flag of any type."""

import numpy as np
import pytest
import torch

from pyro_vae import fit, load_data, pairs
from pyro_vae.data import DataError, DataNote
from pyro_vae.training import SettingsError

X = np.random.default_rng(0).random((60, 4))
Y = np.arange(60) % 3
KNOWN = np.arange(60) % 2 == 0


def labels(data) -> tuple[torch.Tensor, torch.Tensor]:
    every = [data.batch(split) for split in ("train", "valid", "test")]
    return torch.cat([batch["y"] for batch in every]), torch.cat([batch["labelled"] for batch in every])


@pytest.mark.parametrize("unknown", [np.where(KNOWN, Y, -1), np.where(KNOWN, Y, np.nan)])
def test_unknown_classes_are_marked(unknown):
    with pytest.warns(DataNote, match="y is unknown for 30 of 60 data, which count as unlabelled"):
        data = load_data({"x": X, "y": unknown})
    y, labelled = labels(data)
    assert data.spec.classes == 3
    assert (labelled.dtype, y.dtype, labelled.sum().item()) == (torch.bool, torch.int64, 30)
    assert (y[~labelled] == 0).all()
    assert sorted(y[labelled].tolist()) == sorted(Y[KNOWN].tolist())


def test_attributes_may_be_minus_one():
    data = load_data({"x": X, "y": np.where(KNOWN, Y, -1.0)})
    assert (data.spec.classes, data.spec.fields) == (None, {"x": (4,), "y": (1,)})


@pytest.mark.parametrize("kind", [bool, int, float, np.uint8])
def test_a_flag_may_be_of_any_type(kind):
    data = load_data({"x": X, "y": Y, "labelled": KNOWN.astype(kind)})
    assert labels(data)[1].dtype == torch.bool
    assert labels(data)[1].sum() == 30


def test_flags_and_unknown_classes_add_up():
    with pytest.warns(DataNote):
        data = load_data({"x": X, "y": np.where(np.arange(60) < 20, -1, Y), "labelled": KNOWN.astype(int)})
    assert labels(data)[1].sum() == 20


def test_what_says_nothing_is_refused():
    with pytest.raises(DataError, match=r"labelled holds other values than 0 and 1"):
        load_data({"x": X, "y": Y, "labelled": np.arange(60)})
    with pytest.raises(DataError, match=r"y is unknown .* for all data: leave y out"):
        load_data({"x": X, "y": np.full(60, -1)})
    with pytest.raises(DataError, match=r"the class -2: number the classes from 0"):
        load_data({"x": X, "y": Y - 2})


def test_only_pairs_that_read_the_flag_train_on_them():
    with pytest.warns(DataNote):
        data = load_data({"x": X, "y": np.where(KNOWN, Y, -1)})
    with pytest.raises(SettingsError, match="y, which is unknown for some data, and not labelled"):
        fit(pairs.conditional(data.spec, latent=2, hidden=[8]), data, epochs=1)
    pair = pairs.semi_supervised(data.spec, latent=2, hidden=[8])
    assert fit(pair, data, epochs=1, batch_size=16).steps > 0
