"""What is told of training: callbacks and observers of any class; neither changes it."""

import pytest
import torch

import pyro_vae as pv
from pyro_vae.training import SettingsError


@pytest.fixture(scope="module")
def data():
    return pv.load_data({"x": torch.randn(60, 3, generator=torch.Generator().manual_seed(0))})


def small(data):
    torch.manual_seed(0)
    return pv.pairs.latent(data.spec, latent=2, hidden=[4])


def test_callbacks_see_each_epoch_and_change_nothing(data):
    seen = []

    def callback(row, pair):
        seen.append((row["epoch"], pair.training, pair.sample(2).shape, torch.rand(3)))
        row.clear()

    watched = pv.fit(small(data), data, epochs=3, compile="off", callbacks=[callback])
    alone = pv.fit(small(data), data, epochs=3, compile="off")
    assert [one[:3] for one in seen] == [(epoch, False, (2, 3)) for epoch in (1, 2, 3)]
    assert watched.history == alone.history
    assert watched.encode().equal(alone.encode())


class Own:
    """No subclass of anything."""

    def __init__(self):
        self.told = []

    def start(self, epochs, steps, epoch):
        self.told.append(("start", epochs, steps))

    def step(self, epoch, position, loss):
        self.told.append("step")

    def epoch(self, row):
        self.told.append(("epoch", row["epoch"]))

    def note(self, text):
        pass

    def stop(self):
        self.told.append("stop")


def test_an_observer_needs_no_base_class(data):
    own = Own()
    pv.fit(small(data), data, epochs=1, batch_size=24, compile="off", progress=own)
    assert own.told == [("start", 1, 2), "step", "step", ("epoch", 1), "stop"]
    assert own.figure == "ELBO"


def test_what_is_no_observer_is_refused(data):
    with pytest.raises(SettingsError, match="object with the methods of Observer, and lacks start"):
        pv.fit(small(data), data, epochs=1, progress="bar")
