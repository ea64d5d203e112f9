"""The loop: it learns, it resumes to the bit, it stops when asked, and it never trains on a number that is none."""

import math
import os
import signal
import threading

import pyro
import pyro.distributions as dist
import pytest
import torch
import yaml
from pyro.infer import TraceEnum_ELBO, config_enumerate
from tables import some
from torch import nn
from zoo import ROWS

import pyro_vae as pv
from pyro_vae.evidence import evaluate, maximum_likelihood
from pyro_vae.program import require_sound
from pyro_vae.runs import Run, checkpoint
from pyro_vae.svi import SVI
from pyro_vae.training.interruption import Interrupted
from pyro_vae.training.nonfinite import NonFinite
from pyro_vae.training.programs import weighted_programs
from pyro_vae.training.progress import Progress
from pyro_vae.training.settings import Training


@pytest.fixture(scope="module")
def digits() -> pv.Data:
    return pv.load_data("digits")


def small(data, **options):
    torch.manual_seed(0)
    return pv.pairs.PAIRS["latent"](data.spec, **{"latent": 4, "hidden": [32], **options})


def state(pair):
    return {name: tensor.clone() for name, tensor in pair.state_dict().items()}


def equal(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def test_fit_learns_and_keeps_the_best(digits, unchanged_random_state):
    torch.manual_seed(20)
    pair = small(digits)
    torch.manual_seed(20)
    fitted = pv.fit(pair, digits, epochs=8, compile="off")
    elbos = [row["elbo"] for row in fitted.history]
    assert elbos[-1] > elbos[0] + 5
    assert fitted.epochs == 8
    assert fitted.steps == 8 * digits.num_batches(128)
    best = pv.elbo(fitted.pair, digits.batches("valid", 1000), seed=0).elbo
    assert best == pytest.approx(max(elbos), abs=1e-5)
    assert not fitted.pair.training


@pytest.mark.slow
def test_the_linear_pair_reaches_its_closed_form(digits):
    """From random weights to maximum likelihood by SVI with the exact guide."""
    pair = pv.pairs.PAIRS["linear"](digits.spec, latent=5)
    fitted = pv.fit(pair, digits, epochs=150, lr=0.02, compile="off", precision="64")
    x = digits.batch("train")["x"].double()
    reached = fitted.pair.model.marginal().log_prob(x).mean().item()
    assert reached > maximum_likelihood(x, 5).log_likelihood - 0.35
    assert reached < maximum_likelihood(x, 5).log_likelihood


def test_the_same_seed_gives_the_same_bits_and_another_other_ones(digits):
    runs = [state(pv.fit(small(digits), digits, epochs=1, seed=seed, compile="off").pair) for seed in (3, 3, 4)]
    assert equal(runs[0], runs[1])
    assert not equal(runs[0], runs[2])


SETTINGS = [
    {},
    {"beta": 2.0, "warm_up": 2.0, "free_bits": 0.1, "clip": 1.0},
    {"optimizer": "adamw", "schedule": "one-cycle", "precision": "64"},
    {"optimizer": "adamax", "schedule": "cosine", "precision": "bf16-mixed"},
    {"optimizer": "sgd", "schedule": "constant", "lr": 1e-4},
]


@pytest.mark.slow
@pytest.mark.parametrize("settings", SETTINGS, ids=lambda s: ",".join(s) or "default")
def test_stopped_anywhere_and_resumed_it_ends_with_the_same_bits(digits, tmp_path, settings):
    data = pv.load_data("digits", binarize="dynamic")
    settings = {"epochs": 3, "compile": "off", **settings}
    whole = pv.fit(small(data), data, run=tmp_path / "whole", **settings)
    for stop_at in (1, 11, 17):
        folder = tmp_path / f"stopped-{stop_at}"
        with pytest.raises(Interrupted) as stop:
            pv.fit(small(data), data, run=folder, progress=StopAt(stop_at), **settings)
        assert stop.value.signum == signal.SIGTERM
        resumed = pv.fit(small(data), data, run=folder, resume=True, **settings)
        assert equal(state(resumed.pair), state(whole.pair))
        assert resumed.history == whole.history
        last, other = (checkpoint.load(f / "last.ckpt") for f in (folder, tmp_path / "whole"))
        assert equal(last["parameters"], other["parameters"])
        assert (folder / "history.csv").read_bytes() == (tmp_path / "whole" / "history.csv").read_bytes()


def test_k_epochs_and_k_more_are_2k(digits, tmp_path):
    whole = pv.fit(small(digits), digits, run=tmp_path / "whole", epochs=2, compile="off")
    pv.fit(small(digits), digits, run=tmp_path / "half", epochs=1, compile="off")
    more = pv.fit(small(digits), digits, run=tmp_path / "half", resume=True, epochs=2, compile="off")
    assert equal(state(more.pair), state(whole.pair))
    assert more.history == whole.history


@pytest.mark.slow
@pytest.mark.parametrize("stop", [1, 2, 3])
def test_resuming_gives_the_same_bits_while_auto_changes_over(tmp_path, digits, stop, monkeypatch):
    monkeypatch.setattr(
        "pyro_vae.compiled.inductor.compile_graph", lambda graph, inputs: graph
    )  # compiling takes seconds
    steps = digits.num_batches(128)
    monkeypatch.setattr("pyro_vae.svi.forecast.RECORDS_AT", steps + 3)
    monkeypatch.setattr("pyro_vae.svi.forecast.COMPILES_AT", 2 * steps + 3)
    whole = pv.fit(small(digits), digits, epochs=4)
    assert whole.compiled
    pv.fit(small(digits), digits, run=tmp_path / "half", epochs=stop)
    more = pv.fit(small(digits), digits, run=tmp_path / "half", resume=True, epochs=4)
    assert more.compiled
    assert more.history == whole.history
    assert equal(state(more.pair), state(whole.pair))


@pytest.mark.exhaustive
@pytest.mark.parametrize("row", ROWS)
def test_a_checked_pair_records_its_very_first_step(row):
    """So does a resumed run: were its first step eager, it would not be the uninterrupted run's."""
    pair, batch = ROWS[row].build(), ROWS[row].batch()
    require_sound(pair, batch)
    weight = torch.tensor(1.0, dtype=torch.float64)
    programs = weighted_programs(pair, Training(warm_up=2.0), 100, weight, torch.device("cpu"))
    optimizer = torch.optim.Adam(pair.named_parameters().values())
    svi = SVI(*programs, optimizer, pair.objective, compile="recorded")
    with pyro.validation_enabled(False):
        svi.update(batch)
    assert svi.engine == "recorded", svi.why_not


@pytest.mark.parametrize(
    ("mode", "tolerance", "epochs"),
    some([("recorded", 0, 2), ("recorded", 0, 12), ("on", 1e-8, 12)], 3),
    ids=["recorded", "recorded, past the audit at call 100", "on"],
)
def test_the_loss_curve_of_a_compiled_run_is_that_of_an_eager_one(digits, mode, tolerance, epochs):
    curves = []
    for compile in ("off", mode):
        fitted = pv.fit(small(digits), digits, epochs=epochs, lr=0.01, compile=compile, precision="64")
        assert fitted.compiled == (compile != "off")
        curves.append([row[key] for row in fitted.history for key in ("loss", "elbo", "kl")])
    assert curves[1] == pytest.approx(curves[0], rel=tolerance, abs=0)


class StopAt(Progress):
    """Sends this process SIGTERM after a number of steps."""

    def __init__(self, step):
        self.left = step

    def start(self, epochs, steps, epoch):
        pass

    def step(self, epoch, position, loss):
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGTERM)

    def epoch(self, row):
        pass

    def stop(self):
        pass


def test_training_runs_outside_the_main_thread(digits):
    found = []
    thread = threading.Thread(target=lambda: found.append(pv.fit(small(digits), digits, epochs=1, compile="off")))
    thread.start()
    thread.join()
    assert found[0].epochs == 1


def test_patience_stops_when_the_validation_elbo_stays(digits):
    fitted = pv.fit(small(digits), digits, epochs=50, lr=1e-12, patience=3, compile="off")
    assert fitted.epochs < 50
    elbos = [row["elbo"] for row in fitted.history]
    assert elbos.index(max(elbos)) == len(elbos) - 1 - 3


def test_a_loss_that_is_no_number_stops_before_it_reaches_the_parameters(digits):
    pair = small(digits)
    seen = []

    class Watch(StopAt):
        def step(self, epoch, position, loss):
            seen.append(state(pair))

    with pytest.raises(NonFinite, match=r"the loss is -?(inf|nan) at step"):
        pv.fit(pair, digits, epochs=50, lr=1e30, progress=Watch(0), compile="off")
    assert all(t.isfinite().all() for t in pair.state_dict().values() if t.is_floating_point()) or not equal(
        state(pair), seen[0]
    )


@pytest.mark.slow
def test_beta_0_is_the_autoencoders_limit_and_its_figures_are_at_beta_1(digits):
    plain = pv.fit(small(digits), digits, epochs=40, compile="off")
    free = pv.fit(small(digits), digits, epochs=40, beta=0.0, compile="off")
    assert free.history[-1]["kl"] > plain.history[-1]["kl"] + 3
    assert free.history[-1]["reconstruction"] > plain.history[-1]["reconstruction"]
    row = free.history[-1]
    assert row["elbo"] == pytest.approx(row["reconstruction"] - row["kl"], abs=1e-6)


@pytest.mark.slow
def test_beta_large_collapses(digits):
    fitted = pv.fit(small(digits), digits, epochs=15, beta=1000.0, compile="off")
    assert fitted.history[-1]["kl"] < 0.05


@pytest.mark.slow
def test_free_bits_keep_the_kl_up_where_beta_would_collapse_it(digits):
    low = pv.fit(small(digits), digits, epochs=15, beta=50.0, compile="off").history[-1]["kl"]
    kept = pv.fit(small(digits), digits, epochs=15, beta=50.0, free_bits=100.0, compile="off").history[-1]["kl"]
    assert kept > low + 1


def test_warm_up_begins_at_0_and_ends_at_beta(digits):
    fitted = pv.fit(small(digits), digits, epochs=4, beta=2.0, warm_up=2.0, compile="off")
    assert [round(row["beta"], 2) for row in fitted.history][-2:] == [2.0, 2.0]
    assert 0 < fitted.history[0]["beta"] < 1.1


# --- pairs written by others ---------------------------------------------------------------------------------------


class PyroExample(nn.Module):
    """The shape of Pyro's own VAE example: one module, bound methods, pyro.module, probs."""

    def __init__(self, features):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(features, 16), nn.Softplus(), nn.Linear(16, 6))
        self.decoder = nn.Sequential(nn.Linear(3, 16), nn.Softplus(), nn.Linear(16, features), nn.Sigmoid())

    def model(self, x):
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", x.shape[0]):
            z_loc = torch.zeros(x.shape[0], 3, dtype=x.dtype, device=x.device)
            z = pyro.sample("latent", dist.Normal(z_loc, torch.ones_like(z_loc)).to_event(1))
            loc_img = self.decoder.forward(z)
            pyro.sample("obs", dist.Bernoulli(loc_img, validate_args=False).to_event(1), obs=x)
            return loc_img

    def guide(self, x):
        pyro.module("encoder", self.encoder)
        with pyro.plate("data", x.shape[0]):
            loc, raw = self.encoder.forward(x).chunk(2, -1)
            pyro.sample("latent", dist.Normal(loc, raw.exp()).to_event(1))


def mixture_model(x):
    weights = pyro.param("weights", torch.ones(3) / 3, constraint=dist.constraints.simplex)
    loc = pyro.param("loc", lambda: torch.rand(3, x.shape[1]))
    with pyro.plate("data", x.shape[0]):
        k = pyro.sample("k", dist.Categorical(weights))
        pyro.sample("x", dist.Normal(loc[k], 0.3).to_event(1), obs=x)


def mixture_guide(x):
    pass


def global_model(x):
    mean = pyro.sample("mean", dist.Normal(torch.zeros(x.shape[1]), 1.0).to_event(1))
    with pyro.plate("data", 1437, subsample_size=len(x), subsample=torch.arange(len(x))):
        z = pyro.sample("z", dist.Normal(mean, 0.1).to_event(1))
        pyro.sample("x", dist.Normal(z, 0.3).to_event(1), obs=x)


def global_guide(x):
    loc = pyro.param("mean_loc", torch.zeros(x.shape[1]))
    scale = pyro.param("mean_scale", 0.1 * torch.ones(x.shape[1]), constraint=dist.constraints.positive)
    pyro.sample("mean", dist.Normal(loc, scale).to_event(1))
    slope = pyro.param("slope", torch.tensor(0.1))
    with pyro.plate("data", 1437, subsample_size=len(x), subsample=torch.arange(len(x))):
        pyro.sample("z", dist.Normal(slope * x, 0.1).to_event(1))


def test_pyros_own_example_trains_unmodified():
    data = pv.load_data("digits", binarize="dynamic")
    torch.manual_seed(0)
    vae = PyroExample(64)
    fitted = pv.fit(pv.Pair(vae.model, vae.guide), data, epochs=5, compile="off")
    assert fitted.history[-1]["elbo"] > fitted.history[0]["elbo"] + 1
    evidence = pv.log_evidence(fitted.pair, data.batch("test", 50), num_samples=200)
    assert evidence.mean > evidence.elbo.mean().item()
    assert not pyro.get_param_store().keys()


def test_an_enumerated_mixture_trains_unmodified(digits):
    pair = pv.Pair(config_enumerate(mixture_model), mixture_guide, TraceEnum_ELBO(max_plate_nesting=1))
    fitted = pv.fit(pair, digits, epochs=10, lr=0.02, compile="off")
    assert fitted.history[-1]["elbo"] > fitted.history[0]["elbo"] + 1
    store = fitted.pair.bound_model.store["params"]
    x = digits.batch("valid")["x"]
    weights = store["weights"].detach()
    constrained = dist.transforms.transform_to(dist.constraints.simplex)(weights)
    components = dist.Normal(store["loc"].detach(), 0.3).to_event(1)
    exact = torch.logsumexp(constrained.log() + components.log_prob(x[:, None]), -1).mean().item()
    assert max(row["elbo"] for row in fitted.history) == pytest.approx(exact, abs=1e-3)


def test_a_pair_with_global_sites_and_its_own_subsampling_trains(digits):
    history = []

    class Losses(StopAt):
        def step(self, epoch, position, loss):
            history.append(loss)

    pair = pv.Pair(global_model, global_guide)
    with pytest.raises(pv.PairError, match="'mean' lies outside the plate 'data'"):
        pv.elbo(pair, digits.batch("valid", 20))
    fitted = pv.fit(pair, digits, epochs=10, lr=0.02, compile="off", progress=Losses(0))
    assert sum(history[-11:]) < sum(history[:11]) - 11
    figures = evaluate(fitted.pair, digits, num_samples=10)
    assert figures.elbo == pytest.approx(sum(figures.sites.values()))
    assert figures.log_evidence is None


def test_two_pairs_train_side_by_side_without_touching_each_other(digits):
    alone = state(pv.fit(small(digits), digits, epochs=1, compile="off").pair)
    first, second = small(digits), small(digits, latent=7)
    pv.fit(second, digits, epochs=1, compile="off")
    assert equal(state(pv.fit(first, digits, epochs=1, compile="off").pair), alone)
    assert not pyro.get_param_store().keys()


# --- run folders ------------------------------------------------------------------------------------------------------


def test_a_run_folder_rebuilds_the_pair(digits, tmp_path):
    fitted = pv.fit(small(digits), digits, epochs=2, run=tmp_path / "run", compile="off")
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert config["pair"] == {"name": "latent", "options": {"latent": 4, "hidden": [32]}}
    assert config["data"] == {"name": "digits", "options": {}}
    rebuilt = pv.pairs.find("latent")(digits.spec, **config["pair"]["options"])
    rebuilt.load_state_dict(Run.open(tmp_path / "run").load_best()["parameters"])
    assert equal(state(rebuilt), state(fitted.pair))
    assert set(os.listdir(tmp_path / "run")) == {"config.yaml", "last.ckpt", "best.ckpt", "history.csv"}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"lr": -1.0}, "lr must be a finite number above 0"),
        ({"beta": math.nan}, "beta must be a finite number"),
        ({"schedule": "linear"}, "schedule must be one of inverse-time"),
        ({"device": "tpu9"}, "device must be auto, cpu, cuda, mps, or one of several"),
    ],
)
def test_settings_that_cannot_be_are_refused(digits, settings, said):
    with pytest.raises(ValueError, match=said):
        pv.fit(small(digits), digits, **settings)


def test_every_setting_has_a_line_of_documentation():
    for name in Training.names():
        assert f"\n        {name}: " in Training.__doc__ or f"\n    {name}: " in Training.__doc__, name
