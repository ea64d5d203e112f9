"""A non-finite loss or gradient never reaches a parameter, is traced to its site, and leaves its batch."""

import math
import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule
from torch import nn

import pyro_vae as pv
from pyro_vae.runs import checkpoint
from pyro_vae.training import NonFinite, Silent

POISON = 9.0  # a value of x that makes the programs below fail


class Model(PyroModule):
    """Fails where x holds POISON: in the log-probability of x, in its gradient only, or in the draw of z."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        self.decode = nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 4))
        self.register_buffer("poisoned", torch.zeros(()))  # which bad batches alone move

    def forward(self, x):
        bad = (x == POISON).any(-1, keepdim=True).to(x.dtype)
        if self.training:
            self.poisoned += bad.sum()
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2, dtype=x.dtype), 1.0).to_event(1))
            loc = self.decode(z)
            if self.kind == "likelihood":
                loc = loc + bad * torch.log(1 - bad)
            if self.kind == "gradient":  # sqrt is 0 and its slope infinite
                loc = loc + (loc - loc.detach() + 1 - bad).abs().sqrt() - (1 - bad)
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)


class Guide(PyroModule):
    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        self.encode = nn.Linear(4, 4)

    def forward(self, x):
        bad = (x == POISON).any(-1, keepdim=True).to(x.dtype)
        loc, log_scale = self.encode(x / 10).chunk(2, -1)
        if self.kind == "draw":
            loc = torch.where(bad > 0, math.nan, loc)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


def poisoned(rows=(150,)):
    torch.manual_seed(0)
    x = torch.randn(300, 4)
    x[list(rows), 0] = POISON
    return pv.load_data({"x": x}, valid=40, test=40)


@pytest.fixture(scope="module")
def data():
    return poisoned()


def pair_of(kind):
    torch.manual_seed(0)
    return pv.Pair(Model(kind), Guide(kind))


class Notes(Silent):
    def __init__(self):
        self.notes = []

    def note(self, text):
        self.notes.append(text)


KINDS = {
    "likelihood": (
        "x",
        r"the loss is (nan|-?inf) at step \d+ .*: at site 'x' its log-probability is -inf \(1 of 20\), at datum \d+ of the batch, since the loc of its Normal holds -inf",
    ),
    "gradient": (
        None,
        r"the gradient is not finite at step \d+ .*: the gradient of model\.decode\.\S+ .*holds (nan|inf|-inf)",
    ),
    "draw": (
        "z",
        r"the loss is nan at step \d+ .*: at site 'z' its draw holds nan \(2 of .* since the loc of its Normal",
    ),
}


@pytest.mark.parametrize("compile", ["off", pytest.param("recorded", marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", KINDS)
def test_it_stops_names_the_site_and_keeps_the_batch(data, tmp_path, tally, kind, compile):
    if not (data.batch("train")["x"] == POISON).any():
        pytest.fail("the poison must lie in the training split")
    pair = pair_of(kind)
    site, said = KINDS[kind]
    with pytest.raises(NonFinite, match=said) as stop:
        pv.fit(pair, data, run=tmp_path / "run", epochs=3, batch_size=20, compile=compile)
    assert stop.value.site == site
    assert all(t.isfinite().all() for t in pair.state_dict().values()), "it reached the parameters"
    kept = torch.load(tmp_path / "run" / "bad_batch.pt", weights_only=True)
    assert checkpoint.load(tmp_path / "run" / "bad_batch.pt")["step"] == kept["step"] == stop.value.step
    assert kept["site"] == site
    assert (kept["batch"]["x"] == POISON).any()
    assert "bad_batch.pt" in str(stop.value)
    assert "--on-nonfinite skip" in str(stop.value)
    again = pair_of(kind)  # the file alone repeats the failure
    again.load_state_dict(kept["parameters"])
    torch.set_rng_state(kept["random"][0])
    with pyro.validation_enabled(False), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pyro's: "Encountered NaN: loss"
        loss = again.objective.differentiable_loss(again.bound_model, again.bound_guide, kept["batch"])
    torch.autograd.backward(loss)
    bad = [p for p in again.named_parameters().values() if p.grad is not None and not p.grad.isfinite().all()]
    assert bad or not loss.isfinite()
    tally(f"non-finite {kind}", 1)


@pytest.mark.parametrize("kind", KINDS)
def test_skip_passes_over_the_batch_alone(data, tmp_path, tally, kind):
    notes = Notes()
    fitted = pv.fit(pair_of(kind), data, run=tmp_path / "run", epochs=3, batch_size=20, compile="off",
                    on_nonfinite="skip", progress=notes)  # fmt: skip
    bad = [note for note in notes.notes if "batch skipped" in note]
    assert 1 <= len(bad) <= 3, "once an epoch, but for what an epoch leaves over"
    assert all(math.isfinite(value) for row in fitted.history for value in row.values())
    assert all(t.isfinite().all() for t in fitted.pair.state_dict().values())
    assert fitted.steps == 3 * data.num_batches(20)
    buffers = fitted.pair.named_buffers()
    assert buffers["model.decode.1.num_batches_tracked"] == fitted.steps - len(bad)
    assert buffers["model.poisoned"] == 0
    tally(f"non-finite {kind}, skipped", len(bad))


def test_skip_does_not_go_on_for_ever(tmp_path):
    data = poisoned(range(300))
    clean = {"x": torch.randn(16, 4)}
    data.batch = lambda *_, **__: clean  # the check before training and the validation see other data
    with pytest.raises(NonFinite, match=r"after 10 batches in a row were skipped"):
        pv.fit(pair_of("likelihood"), data, epochs=3, batch_size=20, compile="off", on_nonfinite="skip")


def test_rollback_goes_back_and_halves_the_learning_rate(tmp_path, tally):
    """A learning rate that throws the loss out of range: going back at lower and lower ones finds one that holds."""
    data = pv.load_data("digits")
    torch.manual_seed(0)
    pair = pv.pairs.PAIRS["latent"](data.spec, latent=4, hidden=[32], likelihood="normal")
    notes, settings = Notes(), {"epochs": 3, "compile": "off", "optimizer": "sgd", "schedule": "constant"}
    with pytest.raises(NonFinite):
        pv.fit(pair, data, lr=20.0, **settings)
    torch.manual_seed(0)
    pair = pv.pairs.PAIRS["latent"](data.spec, latent=4, hidden=[32], likelihood="normal")
    fitted = pv.fit(pair, data, lr=20.0, on_nonfinite="rollback", progress=notes, **settings)
    assert notes.notes
    assert all("at half the learning rate" in note for note in notes.notes)
    assert fitted.history[-1]["lr"] == 20.0 * 0.5 ** len(notes.notes)
    assert math.isfinite(fitted.history[-1]["elbo"])
    tally("non-finite loss, rolled back", len(notes.notes))


def test_rollback_gives_up_where_the_data_are_to_blame(data):
    with pytest.raises(NonFinite, match="after going back 10 times"):
        pv.fit(pair_of("likelihood"), data, epochs=1, batch_size=100, compile="off", on_nonfinite="rollback")


def test_a_validation_split_that_is_infinite_is_said_and_never_the_best(data):
    clean, notes = poisoned(()), Notes()
    clean._splits = {**clean._splits, "valid": data._splits["train"]}
    fitted = pv.fit(pair_of("likelihood"), clean, epochs=2, batch_size=20, compile="off", progress=notes)
    (said,) = notes.notes  # once, not after every epoch
    assert said.startswith("after epoch 1 ELBO = -inf on the valid split: the model gives datum ")
    assert said.endswith(" of it probability 0; such an epoch cannot be the best")
    assert fitted.epochs == 2
