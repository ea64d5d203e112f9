"""``diagnose``: one verdict per line for any pair, one sentence where a check does not apply, and a self-contained report."""

import json
import math
from dataclasses import replace
from itertools import pairwise

import pyro
import pyro.distributions as dist
import pytest
import torch
from truths import damaged, linear, rand
from truths import data as draws_of

import pyro_vae as pv
from pyro_vae import cli, pairs
from pyro_vae.diagnostics import diagnosis as diagnostics
from pyro_vae.diagnostics.checks import CHECKS
from pyro_vae.diagnostics.datatree import to_datatree
from pyro_vae.diagnostics.diagnosis import BUDGETS, diagnose, expected_seconds
from pyro_vae.diagnostics.subject import Budget
from pyro_vae.evidence import evaluate
from pyro_vae.guides.linear import LinearGuide
from pyro_vae.models.linear import LinearModel
from pyro_vae.report import write_report

SMALL = Budget(data=60, draws=60, refined=8, steps=5, simulated=100, samples=120, temperatures=5, annealed=2)


@pytest.fixture(autouse=True)
def small_budget(monkeypatch):
    monkeypatch.setitem(BUDGETS, "quick", SMALL)


@pytest.fixture(scope="module")
def data() -> pv.Data:
    return pv.load_data("digits")


def verdicts(diagnosis) -> dict[str, str]:
    return {v.check: v.verdict for v in diagnosis.verdicts}


def reasons(diagnosis) -> dict[str, str]:
    return {v.check: v.advice for v in diagnosis.verdicts if v.verdict == "left out"}


def test_every_check_gives_a_line_and_json_holds_exactly_the_four_keys(data):
    pair = pairs.latent(data.spec, latent=3, hidden=[16])
    diagnosis = diagnose(pair, data)
    printed = json.loads(json.dumps(diagnosis.to_json()))
    assert all(set(line) == {"check", "value", "verdict", "advice"} for line in printed["verdicts"])
    assert {line["verdict"] for line in printed["verdicts"]} <= {"good", "fair", "bad", "note", "left out"}
    names = verdicts(diagnosis)
    assert {"log p(x)", "k-hat", "approximation gap", "encoder overfitting", "simulation-based calibration"} <= set(
        names
    )
    assert {"annealing", "prior predictive", "memorising", "Frechet distance", "probes", "active units of z"} <= set(
        names
    )
    assert reasons(diagnosis) == {"pixel calibration": "pixel calibration needs binary data, and these are not"}
    assert printed["num_data"] == 60
    assert all("\n" not in line["advice"] for line in printed["verdicts"])


def linear_data() -> tuple[LinearModel, dict[str, torch.Tensor]]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LinearModel(2, 5).double()
        torch.nn.init.normal_(model.weight)
        return model, {"x": model.marginal().sample((400,)).detach()}


def test_an_exact_pair_is_good_throughout_and_left_as_it_was(monkeypatch, unchanged_random_state):
    monkeypatch.setitem(BUDGETS, "quick", replace(SMALL, data=400, simulated=600, temperatures=0))
    model, batch = linear_data()
    pair = pv.Pair(model, LinearGuide(model))
    before = {name: tensor.clone() for name, tensor in pair.state_dict().items()}
    torch.manual_seed(20)
    found = verdicts(diagnose(pair, batch))
    assert all(torch.equal(before[name], tensor) for name, tensor in pair.state_dict().items())
    for check in (
        "log p(x)",
        "log p(x) - ELBO",
        "k-hat",
        "approximation gap",
        "amortization gap",
        "simulation-based calibration",
        "coverage (TARP)",
        "data-averaged posterior",
    ):
        assert found[check] == "good", check
    assert found["aggregate posterior"] == "good"
    assert found["prior predictive"] == "good"
    assert found["classifier two-sample test"] == "good"


def test_a_narrow_guide_and_a_wrong_model_are_told(monkeypatch):
    monkeypatch.setitem(BUDGETS, "quick", replace(SMALL, data=400, draws=200, simulated=600, steps=60, temperatures=0))
    model, batch = linear_data()

    def narrow(x):
        with pyro.plate("data", len(x)):
            exact = model.posterior(x)
            pyro.sample("z", dist.MultivariateNormal(exact.loc.detach(), scale_tril=0.4 * exact.scale_tril.detach()))

    found = verdicts(diagnose(pv.Pair(model, narrow), {"x": 3 * batch["x"]}))
    for check in ("k-hat", "simulation-based calibration", "coverage (TARP)", "prior predictive"):
        assert found[check] == "bad", check
    assert found["amortization gap"] != "good"
    assert found["classifier two-sample test"] != "good"


@pytest.mark.slow
def test_without_training_data_the_rest_is_computed():
    model, batch = linear_data()
    diagnosis = diagnose(pv.Pair(model, LinearGuide(model)), batch)
    assert "memorising and feature distances need training data" in reasons(diagnosis)["samples"]
    assert verdicts(diagnosis)["k-hat"] == "good"


def test_a_pair_without_a_data_plate_says_so_and_goes_on():
    def model(x):
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(mu, 1.0).expand([2]).to_event(1), obs=x)

    def guide(x):
        pyro.sample("mu", dist.Normal(0.0, 1.0))

    diagnosis = diagnose(pv.Pair(model, guide), {"x": torch.zeros(30, 2)})
    assert "site 'mu' lies outside the plate 'data'" in reasons(diagnosis)["log p(x)"]
    assert "prior predictive" in verdicts(diagnosis)


def test_discrete_latents_leave_out_only_the_continuous_methods():
    def model(x):
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", dist.Bernoulli(0.5))
            pyro.sample("x", dist.Normal(c[..., None], 1.0).expand_by([]).expand((*c.shape, 2)).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("c", dist.Bernoulli(torch.sigmoid((2 * x - 1).sum(-1) / 2)))

    x = torch.randn(100, 2) + torch.bernoulli(torch.full((100, 1), 0.5))
    diagnosis = diagnose(pv.Pair(model, guide), {"x": x})
    left = reasons(diagnosis)
    assert "no reparameterised draws" in left["gaps"]
    assert "site 'c' is discrete" in left["aggregate posterior"]
    assert "site 'c' is discrete" in left["annealing"]
    assert verdicts(diagnosis)["simulation-based calibration"] == "good"
    assert math.isfinite(next(v.value for v in diagnosis.verdicts if v.check == "log p(x)"))


@pytest.mark.slow
def test_too_few_draws_leave_out_the_pareto_shape(monkeypatch):
    monkeypatch.setitem(BUDGETS, "quick", replace(SMALL, draws=10))
    model, batch = linear_data()
    diagnosis = diagnose(pv.Pair(model, LinearGuide(model)), batch)
    assert (
        reasons(diagnosis)["k-hat"] == "k-hat needs at least 25 draws per datum, and there are 10; use a larger budget"
    )


def test_a_model_that_cannot_be_simulated_leaves_out_what_needs_it():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("y", dist.Normal(z, 1.0), obs=x.sum(-1))

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x.sum(-1) / 2, 0.5**0.5))

    diagnosis = diagnose(pv.Pair(model, guide), {"x": torch.randn(50, 2)})
    for check in ("simulation-based calibration", "prior predictive", "samples", "annealing"):
        assert (
            "cannot be simulated: its observed site 'y' is no part of a field of the batch (x)"
            in reasons(diagnosis)[check]
        )
    assert verdicts(diagnosis)["k-hat"] == "good"


def test_a_wrong_budget_is_named():
    model, batch = linear_data()
    with pytest.raises(ValueError, match="budget must be one of quick, standard, thorough, got 'fast'"):
        diagnose(pv.Pair(model, LinearGuide(model)), batch, budget="fast")


@pytest.mark.slow
def test_progress_and_estimate(data):
    pair = pairs.linear(data.spec, latent=2)
    assert 0 < expected_seconds(pair, data) < expected_seconds(pair, data, "thorough")
    seen = []
    diagnose(pair, data, progress=lambda name, number, total: seen.append((name, number, total)))
    assert [name for name, _, _ in seen] == list(CHECKS)
    assert seen[-1][1:] == (len(CHECKS) - 1, len(CHECKS))


@pytest.mark.slow
def test_the_report_stands_alone(data, tmp_path):
    diagnosis = diagnose(pairs.latent(data.spec, latent=2, hidden=[8]), data)
    diagnosis.tree = to_datatree(diagnosis.subject.pair, data.batch("test", 3), num_samples=5)
    report = write_report(diagnosis, tmp_path, title="a <b> pair")
    text = report.read_text()
    assert "a &lt;b&gt; pair" in text
    assert text.count("<img") == len(list((tmp_path / "figures").iterdir())) >= 6
    assert "src='http" not in text
    assert "width=device-width" in text
    assert (tmp_path / "posterior.nc").stat().st_size > 1000


@pytest.mark.slow
def test_the_command_writes_a_table_or_json(tmp_path, capsys):
    run = str(tmp_path / "run")
    assert (
        cli.main(["train", "latent", "--epochs", "1", "--latent", "2", "--hidden", "[8]", "--run", run, "--json"]) == 0
    )
    capsys.readouterr()
    assert cli.main(["diagnose", run, "--json"]) == 0
    captured = capsys.readouterr()
    printed = json.loads(captured.out)
    assert {"verdicts", "budget", "report"} <= set(printed)
    assert "quick: about" in captured.err
    assert (tmp_path / "run" / "report.html").is_file()
    assert (tmp_path / "run" / "posterior.nc").is_file()
    assert cli.main(["diagnose", run, "--budget", "quik"]) == 2
    assert "did you mean quick" in capsys.readouterr().err


@pytest.mark.slow
def test_the_figures_of_a_diagnosis_are_those_of_evaluate(data, monkeypatch):
    """Where all data of the split are examined, with the same draws."""
    monkeypatch.setitem(BUDGETS, "quick", replace(SMALL, data=10**6, temperatures=0))
    pair = pairs.latent(data.spec, latent=2, hidden=[8])
    ours, theirs = diagnose(pair, data).figures(), evaluate(pair, data, num_samples=SMALL.draws)
    for name in ("elbo", "log_evidence", "rms_error", "kl"):
        assert getattr(ours, name) == pytest.approx(getattr(theirs, name), rel=1e-3), name
    assert (ours.latent, ours.active_units, ours.num_data) == (2, theirs.active_units, theirs.num_data)
    assert (ours.khat_share, ours.proposal, ours.meaning) == (theirs.khat_share, theirs.proposal, theirs.meaning)


@pytest.mark.parametrize("count", [1, 49, 50, 77, 10**6])
def test_data_are_taken_from_all_over_a_split(data, count):
    batch, positions = data.subset("test", count)
    size = data.size("test")
    assert len(positions) == len(set(positions)) == len(batch["x"]) == min(count, size)
    whole = data.batch("test")
    assert all(torch.equal(batch[name], whole[name][positions]) for name in whole)
    if count == 77:
        assert max(b - a for a, b in pairwise([0, *positions, size])) <= size // 40


@pytest.mark.slow
def test_the_advice_names_the_part_of_the_guide_that_loses_most(monkeypatch):
    """Right family and wrong encoder; then the right encoder of too narrow a family."""
    monkeypatch.setitem(BUDGETS, "quick", replace(SMALL, data=100, draws=200, refined=20, steps=100, temperatures=0))
    model = linear()
    batch = draws_of(model, 100)

    def factorised(x):
        with pyro.plate("data", len(x)):
            exact = model.posterior(x)
            scale = exact.precision_matrix.diagonal(dim1=-2, dim2=-1).rsqrt()
            pyro.sample("z", dist.Normal(exact.loc.detach(), scale.detach()).to_event(1))

    def advice(pair):
        return next(v.advice for v in diagnose(pair, batch).verdicts if v.check == "k-hat")

    assert "the encoder is the larger part of it" in advice(damaged(model, "scale 0.3"))
    assert "the family is the larger part of it" in advice(pv.Pair(model, factorised))


@pytest.mark.slow
def test_a_guide_far_from_the_posterior_comes_before_the_prior(monkeypatch):
    monkeypatch.setitem(BUDGETS, "quick", replace(SMALL, data=200, draws=200, refined=20, steps=100, temperatures=0))
    model = linear()
    batch = draws_of(model, 200)

    def advice(pair, x):
        return next(v.advice for v in diagnose(pair, {"x": x}).verdicts if v.check == "aggregate posterior")

    def astray(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.full((2,), 3.0).double(), 0.3).expand([len(x), 2]).to_event(1))

    assert "train for longer before changing the prior" in advice(pv.Pair(model, astray), batch["x"])
    assert "try a learned prior" in advice(damaged(model, "none"), 3 * batch["x"])


@pytest.mark.slow
def test_codes_of_more_information_than_the_data_can_show_are_judged_by_a_classifier(monkeypatch):
    """Posteriors so narrow that every datum is told from every other: I(x; z) is at its limit, and says nothing more."""
    monkeypatch.setitem(BUDGETS, "quick", replace(SMALL, data=400, temperatures=0))
    with torch.random.fork_rng():
        model = LinearModel(4, 12).double()
    with torch.no_grad():
        model.weight.copy_(2 * rand(12, 4))
        model.log_scale.fill_(-4.0)
    x = draws_of(model, 400)["x"]
    pair = pv.Pair(model, LinearGuide(model))
    line = {v.check: v for v in diagnose(pair, {"x": x}).verdicts}["aggregate posterior"]
    assert line.verdict == "good"
    assert "a classifier tells codes of test data from draws of the prior" in line.advice
    assert verdicts(diagnose(pair, {"x": 3 * x}))["aggregate posterior"] == "bad"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_another_device_gives_the_same_verdicts(data):
    pair = pairs.latent(data.spec, latent=2, hidden=[16])
    here = diagnose(pair, data)
    there = diagnose(pair.to("cuda"), data)
    assert verdicts(there).keys() == verdicts(here).keys()
    assert reasons(there).keys() == reasons(here).keys()
    for check in ("ELBO", "log p(x)"):
        ours, theirs = (next(v.value for v in d.verdicts if v.check == check) for d in (here, there))
        assert ours == pytest.approx(theirs, abs=1.0)  # other draws


def test_budgets_grow():
    real = [diagnostics.BUDGETS[name] for name in ("standard", "thorough")]
    assert real[0].draws < real[1].draws
