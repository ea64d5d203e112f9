"""An update that overflows never reaches a checkpoint, a best epoch or the next step."""

import math

import pytest
import torch

import pyro_vae as pv
from pyro_vae.runs import RunNote, checkpoint
from pyro_vae.training import NonFinite, Silent
from pyro_vae.training.trainer import Trainer
from pyro_vae.training.validation import Figures

STEP = 21  # in the second block of the second epoch


@pytest.fixture(scope="module")
def data() -> pv.Data:
    torch.manual_seed(1)
    return pv.load_data({"x": torch.randn(300, 4)}, valid=40, test=40)


@pytest.fixture(autouse=True)
def no_clock(monkeypatch):
    monkeypatch.setattr("pyro_vae.training.loop.MAX_SECONDS", 1e9)


@pytest.fixture
def surge(monkeypatch):
    """Let the learning rate be of another world at one step, so that its update alone overflows."""
    rates = Trainer.rates

    def surging(self, step, rollbacks):
        return [math.inf if step == STEP and not rollbacks else rate for rate in rates(self, step, rollbacks)]

    monkeypatch.setattr(Trainer, "rates", surging)


class Notes(Silent):
    def __init__(self):
        self.notes = []

    def note(self, text):
        self.notes.append(text)


def small(data):
    torch.manual_seed(0)
    return pv.pairs.latent(data.spec, latent=2, hidden=[8])


def fit(data, notes=None, **options):
    options = {"epochs": 3, "batch_size": 16, "save_every": 0.0, "lr": 1e-2, **options}
    return pv.fit(small(data), data, progress=notes or Silent(), **options)


def finite(state):
    return all(tensor.isfinite().all() for tensor in state.values())


@pytest.mark.parametrize(
    ("optimizer", "compile"), [("adam", "off"), ("adam", "recorded"), ("adamax", "off"), ("sgd", "off")]
)
def test_it_stops_before_it_names_the_parameter_and_keeps_what_was(data, surge, tmp_path, optimizer, compile):
    pair = small(data)
    with pytest.raises(
        NonFinite, match=rf"the update is not finite at step {STEP} .*after it, parameter \S+ holds"
    ) as caught:
        pv.fit(
            pair, data, epochs=3, batch_size=16, lr=1e-2, save_every=0.0, run=tmp_path / "run",
            optimizer=optimizer, compile=compile,
        )  # fmt: skip
    assert caught.value.step == STEP
    last = checkpoint.load(tmp_path / "run" / "last.ckpt")
    assert last["step"] == STEP
    assert finite(last["parameters"])
    assert all(torch.equal(pair.state_dict()[name], value) for name, value in last["parameters"].items())
    assert finite(checkpoint.load(tmp_path / "run" / "best.ckpt")["parameters"])
    bad = checkpoint.load(tmp_path / "run" / "bad_batch.pt")
    assert finite(bad["parameters"])
    assert "holds" in bad["reason"]


def test_blocks_and_single_steps_stop_with_the_same_bits(data, surge, monkeypatch):
    reached = []
    for settled in (True, False):
        pair = small(data)
        if not settled:
            monkeypatch.setattr("pyro_vae.svi.SVI.settled", False)
        with pytest.raises(NonFinite):
            pv.fit(pair, data, epochs=3, batch_size=16, lr=1e-2, compile="recorded")
        reached.append({name: value.clone() for name, value in pair.state_dict().items()})
    assert all(torch.equal(reached[0][name], reached[1][name]) for name in reached[0])


@pytest.mark.parametrize("compile", ["off", "recorded"])
def test_skip_leaves_that_update_out_alone(data, surge, compile):
    notes = Notes()
    fitted = fit(data, notes, on_nonfinite="skip", compile=compile)
    assert sum("batch skipped" in note and f"at step {STEP} " in note for note in notes.notes) == 1
    assert len(notes.notes) == 1
    assert fitted.steps == 3 * data.num_batches(16)
    assert finite(fitted.pair.state_dict())


@pytest.mark.slow
def test_rollback_goes_back_to_the_epochs_beginning(data, surge, tmp_path):
    notes = Notes()
    fitted = fit(data, notes, on_nonfinite="rollback", run=tmp_path / "run")
    assert ["going back" in note for note in notes.notes] == [True]
    assert checkpoint.load(tmp_path / "run" / "last.ckpt")["rollbacks"] == 1
    assert finite(fitted.pair.state_dict())


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adam", "adamax", "sgd"])
@pytest.mark.parametrize(("precision", "lr"), [("32", 1e308), ("32", 1e38), ("64", 1e308), ("bf16-mixed", 1e308)])
def test_a_learning_rate_at_the_end_of_the_numbers(data, tmp_path, optimizer, precision, lr):
    pair = small(data)
    with pytest.raises(NonFinite):
        pv.fit(pair, data, epochs=2, lr=lr, run=tmp_path / "run", optimizer=optimizer, precision=precision)
    assert finite(pair.state_dict())
    assert not (tmp_path / "run" / "best.ckpt").exists()


def test_a_mask_of_infinities_is_no_overflow(data):
    pair = small(data)
    pair.model.register_buffer("mask", torch.full((3,), -math.inf))
    assert fitted_epochs(pair, data) == 1


def fitted_epochs(pair, data):
    return pv.fit(pair, data, epochs=1, compile="off").epochs


def test_large_parameters_whose_sum_overflows_are_finite(data):
    pair = small(data)
    pair.model.register_buffer("large", torch.full((3,), 3e38))
    assert fitted_epochs(pair, data) == 1


def test_running_averages_that_overflow_count_too(data):
    """A net may divide by what it has overflown: the loss stays finite, the average does not."""

    class Averaging(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("average", torch.zeros(()))

        def forward(self, x):
            if self.training:
                self.average += 1e37
            return x

    pair = small(data)
    pair.model.averaging = Averaging()
    pair.model.register_forward_pre_hook(lambda module, args: module.averaging(None))
    with pytest.raises(NonFinite, match=r"averaging\.average holds inf"):
        pv.fit(pair, data, epochs=5, batch_size=16, compile="off")
    assert finite(pair.state_dict())


def test_no_epoch_whose_elbo_is_none_is_the_best(tmp_path, data, monkeypatch):
    monkeypatch.setattr(
        "pyro_vae.training.validation.Validation.measure",
        lambda self: Figures(math.nan, 0.0, 0.0),
    )
    fitted = fit(data, run=tmp_path / "run", epochs=2)
    assert not (tmp_path / "run" / "best.ckpt").exists()
    with pytest.warns(RunNote, match="no epoch of .* has a finite figure"):
        found = fitted.run.load_best()
    assert found["epoch"] == 2
    assert all(torch.equal(found["parameters"][name], value) for name, value in fitted.pair.state_dict().items())
