"""The pair boltzmann: what holds for every pair, what its figures are, and what is refused."""

import json
import math

import numpy as np
import pytest
import test_battery as battery
import torch
from zoo import BINARY, Row, spec

import pyro_vae as pv
from pyro_vae import plots
from pyro_vae.cli.commands import main
from pyro_vae.distributions import states_of
from pyro_vae.evidence import evaluate, normalized
from pyro_vae.posterior import encode, generate, kind_of_codes
from pyro_vae.program import PairError
from pyro_vae.report.sections import Drawn
from pyro_vae.training import SettingsError

ROWS = {
    kind: Row(pv.pairs.boltzmann, {"units": 5, "gradient": kind, "gibbs": 2}, BINARY)
    for kind in ("persistent", "divergence")
}


@pytest.fixture(scope="module")
def stripes():
    """Images of which each row is all on or all off, on with probability .3; entropy 4 * .611 nats."""
    on = np.random.default_rng(0).random((600, 4, 1)) < 0.3
    x = np.broadcast_to(on, (600, 4, 4)).reshape(600, 16).astype(np.float32)
    return pv.load_data({"x_train": x[:400], "x_valid": x[400:500], "x_test": x[500:]}, image=(1, 4, 4))


@pytest.fixture(scope="module")
def fitted(stripes):
    """A machine of 20 units, on either side too many for a sum, trained for a while; not to be changed."""
    torch.manual_seed(0)
    pair = pv.pairs.boltzmann(stripes.spec, units=20)
    return pv.fit(pair, stripes, epochs=3, batch_size=100, lr=0.02, compile="off")


@pytest.mark.parametrize(
    "test",
    [
        battery.test_the_contract_is_kept,
        battery.test_a_step_moves_every_parameter,
        battery.test_draws_of_the_model_are_valid_data,
        battery.test_the_graphical_model_can_be_drawn,
        pytest.param(battery.test_a_recorded_step_is_the_eager_step, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("kind", ROWS)
def test_what_holds_for_every_pair(test, kind) -> None:
    test(ROWS[kind])


def test_log_p_is_unknown_until_log_z_is_estimated_and_then_right() -> None:
    torch.manual_seed(0)
    pair, exact = (pv.pairs.boltzmann(BINARY, units=5, gradient=kind) for kind in ("persistent", "exact"))
    exact.model.load_state_dict(pair.model.state_dict(), strict=False)
    x = {"x": ROWS["persistent"].batch()["x"].float()}
    for ask in (pv.elbo, pv.log_evidence, pv.log_weights):
        with pytest.raises(PairError, match=r"log p\(x\) of a PersistentBoltzmann is known up to its normaliser log Z"):
            ask(pair, x)
    with normalized(pair) as log_z:
        found = pv.log_evidence(pair, x).mean
    assert found == pytest.approx(pv.log_evidence(exact, x).mean, abs=4 * log_z.stderr + 0.01)
    assert pair.model.density.log_z is None
    with normalized(exact) as nothing:
        assert nothing is None


def test_training_forgets_log_z(stripes) -> None:
    pair = pv.pairs.boltzmann(stripes.spec, units=8, gradient="persistent")
    with normalized(pair, temperatures=20):
        pv.elbo(pair, stripes.batch("test"))
        pair.train(True)
        pair.bound_model(stripes.batch("train", 10))
        pair.train(False)
        with pytest.raises(PairError, match="not estimated"):
            pv.elbo(pair, stripes.batch("test"))


def test_an_unnormalised_figure_is_never_shown_as_a_likelihood(stripes, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr("pyro_vae.report.report.draw_all", lambda *args: Drawn({}, {}))
    np.savez(tmp_path / "x.npz", x=stripes.batch("train")["x"].numpy())
    run = tmp_path / "run"
    told = [
        "train",
        "boltzmann",
        "--data",
        str(tmp_path / "x.npz"),
        "--units",
        "20",
        "--epochs",
        "2",
        "--run",
        str(run),
    ]
    assert main(told) == 0
    said = capsys.readouterr()
    assert "free energy of the chains minus that of the data" in said.err
    assert "ELBO" not in said.err
    assert "log Z = " in said.out
    assert "errs low, and log p(x) high" in said.out
    history = pv.runs.Run.open(run).history
    assert all(math.isnan(row["elbo"]) and math.isfinite(row["figure"]) for row in history)
    assert main(["list", "--runs", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["runs"][0]["elbo"] is None
    assert main(["evaluate", str(run), "--json", "--temperatures", "50"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["proposal"] == "annealed"
    assert figures["log_z"]["temperatures"] == 50
    assert figures["log_evidence_stderr"] == pytest.approx(figures["log_z"]["stderr"])
    assert main(["evaluate", str(run), "--temperatures", "0"]) == 2
    assert "--temperatures must be at least 1, got 0" in capsys.readouterr().err
    assert main(["draw", str(run), "curves"]) == 0
    assert main(["draw", str(run), "filters"]) == 2, "a table has no images"


def test_the_last_epoch_counts_and_patience_is_refused(stripes, fitted) -> None:
    moved = fitted.pair.model.density.moved.item()
    assert moved == fitted.steps, "the last epoch's chains have taken every step"
    pair = pv.pairs.boltzmann(stripes.spec, gradient="persistent")
    with pytest.raises(SettingsError, match="leave --patience out"):
        pv.fit(pair, stripes, epochs=2, patience=1)


def test_a_run_goes_on_to_the_bit(stripes, tmp_path) -> None:
    def fit(name, epochs, **settings):
        torch.manual_seed(0)
        pair = pv.pairs.boltzmann(stripes.spec, units=8, gradient="persistent")
        return pv.fit(pair, stripes, run=tmp_path / name, epochs=epochs, batch_size=100, compile="off", **settings).pair

    whole = fit("whole", 2).state_dict()
    fit("half", 1)
    half = fit("half", 2, resume=True).state_dict()
    assert any("chains" in name for name in whole)
    assert all(torch.equal(half[name], value) for name, value in whole.items())


def test_evaluation_agrees_with_the_sum_and_learns_stripes(stripes) -> None:
    torch.manual_seed(0)
    pair = pv.pairs.boltzmann(stripes.spec, units=8, gradient="persistent")
    pv.fit(pair, stripes, epochs=40, batch_size=100, lr=0.05, compile="off")
    figures = evaluate(pair, stripes, temperatures=200)
    exact = pv.pairs.boltzmann(stripes.spec, units=8)
    exact.model.load_state_dict(pair.model.state_dict(), strict=False)
    truth = evaluate(exact, stripes)
    assert truth.proposal == "exact"
    assert abs(figures.log_evidence - truth.log_evidence) < 4 * figures.log_evidence_stderr + 0.05
    assert -7 < truth.log_evidence < -4 * 0.55, "independent pixels reach 16 * -.611 = -9.8, the entropy is 2.44"


def test_a_wide_bracket_is_said_and_leaves_a_bound_from_above() -> None:
    torch.manual_seed(0)
    pair = pv.pairs.boltzmann(spec(support="binary"), units=12, gradient="persistent")
    with torch.no_grad():
        pair.model.density.weights.normal_(0, 3)
        pair.model.density.moved.fill_(1)
    with normalized(pair, temperatures=2) as rough:
        assert not rough.agrees
    with normalized(pair, temperatures=1000) as fine:
        assert fine.upper - fine.lower < rough.upper - rough.lower
    from pyro_vae.evidence import annealed_words

    assert annealed_words(-20.0, rough).startswith("<= -20.0 (log Z known to ")


def test_draws_of_untrained_chains_are_refused(stripes, fitted) -> None:
    pair = pv.pairs.boltzmann(stripes.spec, units=20)
    for ask in (
        lambda: generate(pair, stripes.batch("test", 3), draw=True),
        lambda: plots.samples(pair, stripes),
        lambda: plots.chains(pair, stripes),
    ):
        with pytest.raises(PairError, match="have taken no step of training, so they hold no draws from it") as refusal:
            ask()
        assert "\n" not in str(refusal.value)
    generate(pv.pairs.boltzmann(stripes.spec, units=5), stripes.batch("test", 3), draw=True)
    generate(fitted.pair, stripes.batch("test", 3), draw=True)


@pytest.mark.parametrize("what", ["filters", "chains", "bracket"])
def test_pictures(what, stripes, fitted, monkeypatch) -> None:
    monkeypatch.setattr("pyro_vae.plots.boltzmann.TEMPERATURES", (10, 30))
    plots.PICTURES[what](fitted.pair, stripes)


def test_pictures_of_what_is_exact_and_of_what_is_no_machine(stripes) -> None:
    plots.chains(pv.pairs.boltzmann(stripes.spec, units=5), stripes)
    with pytest.raises(plots.NotDrawable, match="has no Boltzmann machine"):
        plots.filters(pv.pairs.autoregressive(stripes.spec, hidden=[5]), stripes)


def test_codes_are_the_hidden_units_given_x(stripes, fitted) -> None:
    """By the sum over all states of h, of a machine that is small enough; the same of any other."""
    torch.manual_seed(0)
    pair = pv.pairs.boltzmann(stripes.spec, units=3)
    x = stripes.batch("test", 6)["x"]
    with torch.no_grad():
        pair.model.density.weights.mul_(6)  # it begins nearly idle
    energy, h = pair.model.density.energy, states_of(3)
    joint = (x @ energy.visible)[:, None] + h @ energy.hidden + x @ energy.weights @ h.T
    expected = (joint.softmax(-1) @ h).detach()
    torch.testing.assert_close(pair.encode(x), expected)
    assert (expected - 0.5).abs().max() > 0.2, "idle units test nothing"
    assert pair.encode(x, draw=True).unique().tolist() == [0, 1]
    arrays = encode(fitted.pair, stripes)
    assert arrays["x_test"].shape == (100, 20)
    assert kind_of_codes(fitted.pair, stripes.batch("test")) == "probabilities of hidden units given x"
    with pytest.raises(PairError, match="idle is for continuous codes, and these are the probabilities of hidden"):
        encode(fitted.pair, stripes, idle=True)
    with pytest.raises(PairError, match="no hidden units"):
        encode(pv.pairs.autoregressive(stripes.spec, hidden=[5]), stripes)


@pytest.mark.slow
def test_a_diagnosis_anneals_too(stripes, fitted) -> None:
    found = {v.check: v for v in pv.diagnose(fitted.pair, stripes).verdicts}
    assert "log Z annealed" in found["log p(x)"].advice


@pytest.mark.parametrize(
    ("about", "options", "said"),
    [
        (spec(), {}, "a Boltzmann machine has binary units, and x of test is real"),
        (BINARY, {"units": 20, "gradient": "exact"}, "sums over all states of 16 units, and can for up to 14"),
        (BINARY, {"units": 5, "chains": 3}, "chains 3 is for --gradient persistent, and here it is exact"),
        (BINARY, {"units": 20, "gradient": "divergence", "chains": 3}, "here it is divergence; leave --chains out"),
        (BINARY, {"units": 5, "gibbs": 3}, "gibbs 3 is for --gradient persistent or divergence, and here it is exact"),
        (BINARY, {"units": 0}, "units must be at least 1"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(about, options, said) -> None:
    with pytest.raises(PairError) as refusal:
        pv.pairs.boltzmann(about, **options)
    assert said in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.slow
def test_twelve_units_on_binarized_digits() -> None:
    data = pv.load_data("digits", binarize="dynamic")
    torch.manual_seed(0)
    pair = pv.pairs.boltzmann(data.spec, units=12)
    pv.fit(pair, data, epochs=100, batch_size=128, lr=1e-2)
    assert evaluate(pair, data).log_evidence > -23.31
