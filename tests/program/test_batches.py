"""What figures take as data, and the sentence for what they do not take."""

import re

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import pyro_vae as pv
from pyro_vae import posterior

D, Z = 4, 2
X = torch.randn(10, D, generator=torch.Generator().manual_seed(0))
NET, ENC = nn.Linear(Z, D), nn.Linear(D, Z)


def model(x):
    pyro.module("net", NET)
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(Z), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(NET(z), 1.0).to_event(1), obs=x)


def guide(x):
    pyro.module("enc", ENC)
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(ENC(x), 1.0).to_event(1))


FIGURES = {
    "log_evidence": lambda pair, data: pv.log_evidence(pair, data, num_samples=4, compile="off"),
    "elbo": lambda pair, data: pv.elbo(pair, data),
    "to_datatree": lambda pair, data: pv.to_datatree(pair, data, num_samples=2),
}

REFUSED = {
    "number": (lambda: 3, TypeError, "this is a int; pass {'x': ...}"),
    "numpy": (lambda: {"x": X.numpy()}, TypeError, "the field 'x' is a numpy.ndarray and programs take tensors"),
    "list": (lambda: {"x": X.tolist()}, TypeError, "the field 'x' is a list and programs take tensors"),
    "no data": (lambda: {"x": X[:0]}, ValueError, "there are no data"),
    "float64": (lambda: {"x": X.double()}, pv.PairError, "'x' is float64, and guide needs float32. Convert the data"),
    "int64": (lambda: {"x": X.long()}, pv.PairError, "'x' is int64, and guide needs float32. Convert the data"),
    "other field": (lambda: {"y": X}, pv.PairError, "needs the field 'x', and the data have 'y'"),
    "other width": (lambda: {"x": X[:, :2]}, pv.PairError, "guide fails on the batch"),
}


@pytest.mark.parametrize("figure", FIGURES)
@pytest.mark.parametrize("kind", REFUSED)
def test_data_of_another_kind_are_refused_in_a_sentence(figure, kind):
    make, error, message = REFUSED[kind]
    with pytest.raises(error) as caught:
        FIGURES[figure](pv.Pair(model, guide), make())
    assert message in str(caught.value)


ASKED = {
    **FIGURES,
    "check_pair": pv.check_pair,
    "reconstruct": posterior.reconstruct,
    "module": lambda pair, data: pair.module()(data),
}


@pytest.mark.parametrize("asked", ASKED)
def test_a_batch_on_another_device_than_the_pair_is_told_where_both_are(asked):
    pair = pv.pairs.latent(pv.load_data({"x_train": X, "x_test": X}).spec, latent=Z, hidden=[4]).to("meta")
    with pytest.raises(pv.PairError) as caught:
        ASKED[asked](pair, {"x": X})
    assert re.search(
        r"x is on cpu and the parameters of \S+ are on meta[;.] [Mm]ove one of them: pair\.to\('cpu'\), or x\.to\('meta'\)",
        str(caught.value),
    )
    assert "\n" not in str(caught.value)


def test_another_failure_is_not_blamed_on_the_device():
    pair = pv.Pair(model, guide)
    pv.elbo(pair, X)
    with pytest.raises(pv.PairError, match="guide fails on the batch"):
        pv.elbo(pair, X[:, :2])


@pytest.mark.parametrize("figure", ["log_evidence", "elbo"])
def test_loaders_of_tuples_and_no_batches_are_refused(figure):
    pair = pv.Pair(model, guide)
    with pytest.raises(TypeError, match="this is a list; let the loader yield dictionaries"):
        FIGURES[figure](pair, DataLoader(TensorDataset(X), 5))
    with pytest.raises(ValueError, match="there are no data"):
        FIGURES[figure](pair, [])


def test_batches_of_dictionaries_count_as_one():
    pair = pv.Pair(model, guide)
    whole = pv.log_evidence(pair, {"x": X}, num_samples=8, compile="off").mean
    assert pv.log_evidence(pair, [{"x": X[:3]}, {"x": X[3:]}], num_samples=8, compile="off").mean == pytest.approx(
        whole
    )


@pytest.mark.parametrize("figure", FIGURES)
def test_data_or_x_alone_are_taken(figure):
    pair, data = pv.Pair(model, guide), pv.load_data({"x": X})
    expected = repr(FIGURES[figure](pair, data.batch("test")))
    assert repr(FIGURES[figure](pair, data)) == expected
    assert repr(FIGURES[figure](pair, data.batch("test")["x"])) == expected


def test_what_training_returned_brings_its_data():
    pair, data = pv.Pair(model, guide), pv.load_data({"x": X})
    fitted = pv.fit(pair, data, epochs=1, compile="off")
    assert pv.elbo(fitted) == pv.elbo(pair, data.batch("test"))
    assert pv.elbo(fitted, X) == pv.elbo(pair, {"x": X}) != pv.elbo(fitted)
    assert pv.log_evidence(fitted, num_samples=4).estimate.equal(pv.log_evidence(pair, data, num_samples=4).estimate)
    for arguments in ((fitted,), (fitted, X), (pair, data), (model, guide, X), (model, guide, {"x": X})):
        pv.check_pair(*arguments)
    with pytest.raises(pv.PairError, match="guide fails on the batch"):
        pv.check_pair(pair, X[:, :2])
    for figure in (pv.elbo, pv.log_evidence, pv.check_pair, pv.diagnose):
        with pytest.raises(TypeError, match="there are no data; pass some"):
            figure(pair)
    with pytest.raises(TypeError, match="a pair is a Pair or what fit or load returned, and this is a dict"):
        pv.elbo({"x": X})


def test_what_is_shown_is_a_line():
    data = pv.load_data({"x": X})
    fitted = pv.fit(pv.Pair(model, guide), data, epochs=1, compile="off")
    assert re.fullmatch(r"Pair\(model, guide, Trace_ELBO, 22 parameters\)", repr(fitted.pair))
    assert re.fullmatch(
        r"Fitted\(pair on arrays: 1 epoch in \d+ s, kept epoch 1, validation ELBO -\d+\.\d\d\)", repr(fitted)
    )
    shown = repr(pv.log_evidence(fitted, num_samples=8))
    assert re.fullmatch(r"Evidence\(1 datum: >= -\d+\.\d nats per datum, too few draws for k-hat\)", shown)
    shown = repr(pv.log_evidence(fitted, num_samples=500))
    assert re.fullmatch(r"Evidence\(1 datum: -\d+\.\d\d ± \d+\.\d\d nats per datum, k-hat > 0.7 for 0 %\)", shown)
    assert repr(data.spec).startswith("Spec(arrays: 8 / 1 / 1 ")
    assert list(fitted.to_pandas().columns) == list(fitted.history[0])
