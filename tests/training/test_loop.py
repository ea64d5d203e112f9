"""The loop takes many steps in one call: the same steps, the same checkpoints, the same refusals as one by one."""

import math
import os
import signal

import pyro
import pytest
import torch
from pyro.nn import PyroModule
from tables import only
from torch import nn

import pyro_vae as pv
from pyro_vae.program import Declaration, Figure, declared, find_problems
from pyro_vae.svi import SVI
from pyro_vae.svi.replay import StepGraph
from pyro_vae.training.feed import ALIGNMENT, Feed
from pyro_vae.training.interruption import Interrupted
from pyro_vae.training.nonfinite import NonFinite
from pyro_vae.training.progress import Progress, Silent
from pyro_vae.training.settings import SettingsError


@pytest.fixture(scope="module")
def digits() -> pv.Data:
    return pv.load_data("digits", binarize="dynamic")


def small(data):
    torch.manual_seed(0)
    return pv.pairs.PAIRS["latent"](data.spec, latent=3, hidden=[8])


def equal(one, two):
    one, two = one.state_dict(), two.state_dict()
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


@pytest.fixture(autouse=True)
def no_clock(monkeypatch):
    """A slow machine must not end blocks early: tests count on their lengths."""
    monkeypatch.setattr("pyro_vae.training.loop.MAX_SECONDS", 1e9)


@pytest.fixture
def blocks(monkeypatch):
    """How many steps each call of `SVI.steps` took."""
    taken, steps = [], SVI.steps

    def counted(self, *args, **kwargs):
        losses = steps(self, *args, **kwargs)
        taken.append(len(losses))
        return losses

    monkeypatch.setattr(SVI, "steps", counted)
    return taken


@pytest.fixture
def one_by_one(monkeypatch):
    def apply():
        monkeypatch.setattr(SVI, "settled", False)

    return apply


SETTINGS = {
    "default": {},
    "schedules": {"beta": 2.0, "warm_up": 1.5, "schedule": "one-cycle", "clip": 1.0, "optimizer": "adamw"},
    "sgd": {"optimizer": "sgd", "lr": 1e-4, "schedule": "cosine", "free_bits": 0.1},
}


@pytest.mark.parametrize("settings", only(SETTINGS, ["schedules"]))
def test_blocks_are_the_same_steps_as_one_by_one(digits, settings, uncompiled, blocks, one_by_one):
    settings = {"epochs": 2, "compile": "on", **SETTINGS[settings]}
    many = pv.fit(small(digits), digits, **settings)
    assert sum(blocks) == many.steps - 1, "all but the first, which is compiled"
    assert max(blocks) > 5
    one_by_one()
    single = pv.fit(small(digits), digits, **settings)
    assert sum(blocks) == many.steps - 1
    assert many.history == single.history
    assert equal(many.pair, single.pair)


def test_progress_sees_every_step_of_a_block(digits, uncompiled):
    seen = []

    class Watch(Silent):
        def step(self, epoch, position, loss):
            seen.append((epoch, position, loss))

    fitted = pv.fit(small(digits), digits, epochs=2, compile="on", progress=Watch())
    assert [place[:2] for place in seen] == [(e, i + 1) for e in range(2) for i in range(fitted.steps // 2)]
    losses = [loss for epoch, _, loss in seen if epoch == 1]
    assert fitted.history[1]["loss"] == sum(losses) / len(losses)


@pytest.mark.slow
@pytest.mark.parametrize("save_every", [1e9, 0.0], ids=["seldom", "every step"])
@pytest.mark.parametrize("at", [2, 7, 16])
def test_a_signal_inside_a_block_stops_after_its_step_and_resumes_to_the_bit(
    digits, tmp_path, monkeypatch, uncompiled, at, save_every
):
    whole = pv.fit(small(digits), digits, epochs=2, compile="on")
    run_on, calls = StepGraph.run_on, [0]

    def interrupting(self, slices, prepare, until):
        def counted():
            calls[0] += 1
            if calls[0] == at:
                signal.raise_signal(signal.SIGINT)
            prepare()

        return run_on(self, slices, counted, until)

    with monkeypatch.context() as patch:
        patch.setattr(StepGraph, "run_on", interrupting)
        with pytest.raises(Interrupted):
            pv.fit(small(digits), digits, epochs=2, compile="on", run=tmp_path / "run", save_every=1e9)
    assert calls[0] == at, "it took another step after the signal"
    resumed = pv.fit(
        small(digits), digits, epochs=2, compile="on", run=tmp_path / "run", resume=True, save_every=save_every
    )
    assert resumed.history == whole.history
    assert equal(resumed.pair, whole.pair)


# --- a batch that is not finite --------------------------------------------------------------------------------------

POISON = 9.0


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.decode = nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 4))

    def forward(self, x):
        pyro.module("decode", self.decode)
        bad = (x == POISON).any(-1, keepdim=True).to(x.dtype)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", pyro.distributions.Normal(torch.zeros(2, dtype=x.dtype), 1.0).to_event(1))
            loc = self.decode(z) + bad * torch.log(1 - bad)
            pyro.sample("x", pyro.distributions.Normal(loc, 1.0).to_event(1), obs=x)


class Guide(nn.Module):
    def __init__(self):
        super().__init__()
        self.encode = nn.Linear(4, 4)

    def forward(self, x):
        pyro.module("encode", self.encode)
        loc, log_scale = self.encode(x / 10).chunk(2, -1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", pyro.distributions.Normal(loc, log_scale.exp()).to_event(1))


def poisoned():
    """Data with one bad row, which the first epoch meets well inside a block."""
    torch.manual_seed(0)
    clean = torch.randn(500, 4)
    for row in range(500):
        x = clean.clone()
        x[row, 0] = POISON
        data = pv.load_data({"x": x}, valid=40, test=40)
        met = [i for i, batch in enumerate(data.epoch(0, 20, seed=0)) if (batch["x"] == POISON).any()]
        tried = (data.batch("train", 16)["x"] == POISON).any()  # when the pair is checked
        if met and 5 <= met[0] <= 12 and not tried:
            return data
    raise AssertionError("no row is met there")


def poison_pair():
    torch.manual_seed(3)
    return pv.Pair(Model(), Guide())


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["stop", "skip", "rollback"])
def test_a_batch_that_is_not_finite_inside_a_block_is_found_and_undone(
    policy, uncompiled, blocks, one_by_one, tmp_path
):
    data, results = poisoned(), []
    settings = {"epochs": 2, "batch_size": 20, "compile": "on", "on_nonfinite": policy, "lr": 0.05}

    class Notes(Progress):
        def __init__(self):
            self.notes = []

        def note(self, text):
            self.notes.append(text.split(" (kept")[0])

        def step(self, *_):
            pass

        start = epoch = step

        def stop(self):
            pass

    for many in (True, False):
        if not many:
            one_by_one()
        pair, notes, error, history = poison_pair(), Notes(), None, None
        try:
            history = pv.fit(pair, data, progress=notes, run=tmp_path / f"run-{many}", **settings).history
        except NonFinite as raised:
            error = raised
        kept = torch.load(tmp_path / f"run-{many}" / "bad_batch.pt", weights_only=True)
        results.append((pair, notes.notes, error, history, kept))
    assert max(blocks) > 1
    (pair, notes, error, history, kept), (pair_1, notes_1, error_1, history_1, kept_1) = results
    assert equal(pair, pair_1)
    assert notes == notes_1
    assert history == history_1
    assert (kept["batch"]["x"] == POISON).any()
    assert kept["step"] == kept_1["step"] >= 5
    for name, value in kept_1["parameters"].items():
        assert torch.equal(kept["parameters"][name], value), name
    assert torch.equal(kept["random"][0], kept_1["random"][0])
    if policy == "skip":
        assert error is None
        assert notes
    else:
        assert str(error).split(" (kept")[0] == str(error_1).split(" (kept")[0]
        assert error.step == error_1.step
        assert (error.batch["x"] == POISON).any()


# --- other algorithms ------------------------------------------------------------------------------------------------


class Averages:
    """Trains no VAE: moves its only parameter by half the way to each batch's mean, and counts; without SVI."""

    compiled = False

    def __init__(self, model, guide, optim, objective, *, clip, compile, exchange):
        (self.place,) = optim.param_groups[0]["params"]
        self.momentum, self.finite = torch.zeros(()), torch.tensor(True)

    def update(self, batch):
        gap = batch["x"].mean() - self.place.detach()
        self.finite = gap.isfinite()
        if self.finite:
            self.momentum = 0.5 * self.momentum + 0.1 * gap
            with torch.no_grad():
                self.place += self.momentum
        return gap.square()

    def gradients(self, args, kwargs):
        return (args[0]["x"].mean() - self.place).square().backward()

    def state_dict(self):
        return {"momentum": self.momentum.clone()}

    def load_state_dict(self, state):
        self.momentum = state["momentum"].clone()


class Located(PyroModule):
    def __init__(self):
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(()))

    def forward(self, x):
        with pyro.plate("data", len(x)):
            loc = self.loc.expand(x.shape)
            pyro.sample("x", pyro.distributions.Normal(loc, 1.0).to_event(1), obs=x)


def nothing(x):
    """Draw nothing: the model has no latent sites."""


class StopAfter(Silent):
    def __init__(self, step):
        self.left = step

    def step(self, epoch, position, loss):
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGTERM)


def test_another_algorithm_is_saved_resumed_and_validated_like_svi(tmp_path):
    torch.manual_seed(0)
    data = pv.load_data({"x": torch.randn(300, 4) + 2}, valid=40, test=40)

    def pair():
        return pv.Pair(Located(), nothing, stepper=Averages)

    settings = {"epochs": 4, "batch_size": 20}
    whole = pv.fit(pair(), data, run=tmp_path / "whole", **settings)
    assert whole.history[-1]["elbo"] > whole.history[0]["elbo"]
    assert whole.history[-1]["loss"] < 0.2 < whole.history[0]["loss"]
    with pytest.raises(Interrupted):
        pv.fit(pair(), data, run=tmp_path / "half", progress=StopAfter(17), **settings)
    resumed = pv.fit(pair(), data, run=tmp_path / "half", resume=True, **settings)
    assert equal(resumed.pair, whole.pair)
    assert repr(resumed.history) == repr(whole.history)  # with nan, which equals nothing
    files = [(tmp_path / name / "history.csv").read_bytes() for name in ("whole", "half")]
    assert files[0] == files[1]


def test_a_stepper_without_what_the_loop_needs_is_refused(digits):
    one = small(digits)
    with pytest.raises(TypeError, match="the stepper is a list, which has no finite, compiled, update, gradients, "):
        pv.fit(pv.Pair(one.model, one.guide, stepper=lambda *_, **__: []), digits, epochs=1)


def test_another_algorithm_is_stopped_by_a_batch_that_is_not_finite(tmp_path):
    data = pv.load_data({"x": torch.randn(300, 4)}, valid=40, test=40)
    batches = list(data.epoch(0, 20, seed=0))
    batches[5]["x"][3, 1] = float("nan")
    data.epoch = lambda *_, **__: iter(batches)
    with pytest.raises(NonFinite, match="the loss is nan at step 5"):
        pv.fit(pv.Pair(Located(), nothing, stepper=Averages), data, epochs=1, batch_size=20)


# --- what objectives declare -----------------------------------------------------------------------------------------


def test_an_unnormalised_figure_makes_no_epoch_the_best(digits):
    class Unnormalised(pyro.infer.Trace_ELBO):
        figure = Figure("ELBO up to log Z", "unnormalised")

        def loss_and_grads(self, model, guide, *args, **kwargs):
            loss = self.differentiable_loss(model, guide, *args, **kwargs)
            torch.autograd.backward(-loss)  # away from the optimum, so that each epoch is worse
            return loss.detach()

    def pair():
        one = small(digits)
        return pv.Pair(one.model, one.guide, Unnormalised())

    bad = {"epochs": 3, "lr": 1e-3, "optimizer": "sgd", "compile": "off"}
    last = pair()
    history = pv.fit(last, digits, **bad).history
    assert all(math.isnan(row["elbo"]) for row in history), "it is no ELBO, and not shown as one"
    elbos = [row["figure"] for row in history]
    assert elbos[-1] < max(elbos), "the test needs a last epoch that is not the best"
    final = pv.elbo(last, digits.batches("valid", 1000), seed=0).elbo
    assert final == pytest.approx(elbos[-1], abs=1e-4)
    with pytest.raises(SettingsError, match="leave --patience out"):
        pv.fit(pair(), digits, patience=2, **bad)


def test_what_is_not_declared_is_as_in_pyros_elbos():
    assert declared(pyro.infer.Trace_ELBO()) == Declaration()
    assert declared(lambda model, guide, x: 0.0) == Declaration()

    class Odd(pyro.infer.Trace_ELBO):
        needs = frozenset(["guide", "luck"])

    with pytest.raises(pv.PairError, match="an objective needs luck; it can need guide and density"):
        declared(Odd())


def test_a_guide_need_not_cover_what_the_objective_does_not_ask_of_it(digits):
    class Free(pyro.infer.Trace_ELBO):
        needs = frozenset(["density"])

    one = small(digits)
    batch = digits.batch("train", 16)
    found = [
        [p.problem for p in find_problems(pv.Pair(one.model, nothing, objective), batch)]
        for objective in (pyro.infer.Trace_ELBO(), Free())
    ]
    assert any("does not sample latent site 'z'" in problem for problem in found[0])
    assert not any("does not sample latent site" in problem for problem in found[1])


# --- batches ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_feed_hands_on_every_batch_once_aligned_and_in_order(dtype):
    torch.manual_seed(0)
    batches = [{"x": torch.randn(3, 7), "y": torch.arange(3) + i} for i in range(150)]
    batches += [{"x": torch.randn(2, 7), "y": torch.arange(2)} for _ in range(3)]  # another shape
    found = []
    with Feed(iter(batches), torch.device("cpu"), dtype) as feed:
        while ready := feed.peek():
            count = min(len(ready["x"]), 1 + len(found) % 5)
            for i in range(count):
                assert ready["x"][i].data_ptr() % ALIGNMENT == 0
                assert ready["x"][i].is_contiguous()
                found.append({name: values[i] for name, values in ready.items()})
            feed.advance(count)
    assert len(found) == len(batches)
    for got, given in zip(found, batches, strict=True):
        assert torch.equal(got["x"], given["x"].to(dtype))
        assert torch.equal(got["y"], given["y"])


def test_a_feed_passes_on_what_reading_raises():
    def broken():
        yield {"x": torch.zeros(2, 2)}
        raise OSError("the disk is gone")

    with Feed(broken(), torch.device("cpu"), torch.float32) as feed, pytest.raises(OSError, match="the disk is gone"):
        feed.peek()
