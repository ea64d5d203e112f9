"""What figures are of, and how they are put into words: no pair is known by its name, and nothing doubtful stands beside a ±."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoNormal
from pyro.nn import PyroModule
from torch import nn

import pyro_vae as pv
from pyro_vae import pairs
from pyro_vae.cli import main
from pyro_vae.diagnostics import BUDGETS, Budget, diagnose, pixels
from pyro_vae.evidence.baselines import log_density, maximum_likelihood, pca_figures, reconstruction
from pyro_vae.evidence.estimate import elbo
from pyro_vae.evidence.evaluation import evaluate
from pyro_vae.evidence.figures import TOLERATED, baseline, evidence_words, remarks, rows
from pyro_vae.evidence.meaning import meaning_of
from pyro_vae.guides.linear import LinearGuide
from pyro_vae.models.linear import LinearModel
from pyro_vae.program import Pair, point_sites
from pyro_vae.runs import checkpoint

SMALL = Budget(data=60, draws=60, refined=8, steps=5, simulated=100, samples=120, temperatures=5, annealed=2)

DENSITY = '''
"""p(x), no latent variable"""
import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import nn

import pyro_vae as pv


class Model(PyroModule):
    def __init__(self, features):
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(features))

    def forward(self, x):
        with pyro.plate("data", len(x)):
            return pyro.sample("x", dist.Normal(self.loc, 0.5).to_event(1), obs=x)


def nothing(x):
    pass


def density(spec):
    return pv.Pair(Model(spec.features), nothing)
'''


@pytest.fixture(scope="module")
def data() -> pv.Data:
    return pv.load_data("digits")


@pytest.fixture
def small_budget(monkeypatch):
    monkeypatch.setitem(BUDGETS, "quick", SMALL)


class Mixture(PyroModule):
    """A component, drawn from a mass function, and its mean."""

    def __init__(self, features: int):
        super().__init__()
        self.loc = nn.Parameter(torch.arange(2.0)[:, None].expand(2, features).clone())

    def forward(self, x):
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.OneHotCategorical(torch.ones(2)))
            return pyro.sample("x", dist.Normal(k @ self.loc, 1.0).to_event(1), obs=x)


def nearest(x):
    with pyro.plate("data", len(x)):
        k = torch.nn.functional.one_hot((x.mean(-1) > 0.5).long(), 2).to(x)
        pyro.sample("k", dist.Delta(k, event_dim=1))


def summed(x):
    with pyro.plate("data", len(x)):
        probs = torch.full((len(x), 2), 0.5).to(x)
        pyro.sample("k", dist.OneHotCategorical(probs), infer={"enumerate": "parallel"})


def nothing(x):
    pass


# --- what figures are of ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (pairs.latent, "log p(x)"),
        (pairs.conditional, "log p(x | y)"),
        (pairs.attribute, "log p(x | y)"),
        (pairs.structured, "log p(x_out | x_in)"),
    ],
)
def test_a_density_is_named_after_what_is_observed_and_given(data, build, said):
    meaning = meaning_of(build(data.spec, latent=2, hidden=[8]), data.batch("test", 3))
    assert (meaning.evidence, meaning.bound, meaning.divergence) == (said, "ELBO", "KL")
    assert meaning.whole is (said == "log p(x)")


def test_the_names_are_those_of_the_sites_and_fields():
    def model(x, age):
        with pyro.plate("data", len(x)):
            u = pyro.sample("u", dist.Normal(age, 1.0).expand([len(x)]))
            lower = pyro.sample("lower", dist.Normal(x[:, 0] + u, 1.0), obs=x[:, 1])
            pyro.sample("height", dist.Normal(lower, 1.0), obs=age)

    def guide(x, age):
        with pyro.plate("data", len(x)):
            pyro.sample("u", dist.Delta(x[:, 0]))

    batch = {"x": torch.randn(4, 2), "age": torch.rand(4)}
    meaning = meaning_of(Pair(model, guide), batch)
    assert meaning.given == ("the rest of x", "the rest of age")
    assert meaning.bound == "log p(lower, height, u | the rest of x, the rest of age) at the point"


def test_a_mask_that_belongs_to_the_data_is_no_condition_but_forbids_pca():
    def model(x, mask):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            with pyro.poutine.mask(mask=mask):
                pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x, 1.0).to_event(1))

    batch = {"x": torch.randn(4, 2), "mask": torch.ones(4).bool()}
    meaning = meaning_of(Pair(model, guide), batch)
    assert (meaning.evidence, meaning.whole) == ("log p(x)", False)


def test_what_is_missing_is_named_after_x_and_is_no_condition():
    data = pv.load_data("sprinkler")
    for pair in (pairs.bayes_net(data.spec), pairs.mixture(data.spec, components=3, posterior="amortized")):
        meaning = meaning_of(pair, data.batch("test", 5))
        assert (meaning.evidence, meaning.given, meaning.whole) == ("log p(x where seen)", (), False)

    def model(x, seen):  # also depends on which are seen
        with pyro.plate("data", len(x)):
            fn = dist.Normal(seen.float(), 1.0).mask(seen).to_event(1)
            pyro.sample("x", fn, obs=x)

    meaning = meaning_of(Pair(model, lambda x: None), data.batch("test", 5))
    assert meaning.evidence == "log p(x | seen)"


def test_a_point_is_one_where_the_prior_is_a_density(data):
    batch = data.batch("test", 20)
    assert point_sites(pairs.autoencoder(data.spec, latent=2, hidden=[8]), batch) == ["z"]
    assert point_sites(pairs.latent(data.spec, latent=2, hidden=[8]), batch) == []
    meaning = meaning_of(Pair(Mixture(64), nearest), batch)
    assert (meaning.points, meaning.modes, meaning.bound) == ((), ("k",), "ELBO")


def test_a_guide_that_transforms_an_auxiliary_draw_is_no_point():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.LogNormal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            u = pyro.sample("u", dist.Normal(x, 1.0), infer={"is_auxiliary": True})
            pyro.sample("z", dist.Delta(u.exp(), log_density=-u))

    assert meaning_of(Pair(model, guide), {"x": torch.ones(3)}).points == ()
    automatic = AutoNormal(model)
    automatic(torch.ones(3))
    assert meaning_of(Pair(model, automatic), {"x": torch.ones(3)}).points == ()


# --- words --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [None, TOLERATED + 1e-6, 0.12, 1.0])
def test_what_cannot_be_believed_has_no_standard_error(share):
    said = evidence_words(42.23, 0.01, share, "refined")
    assert said.startswith(">= 42.2 (")
    assert "±" not in said
    assert share is None or f"k-hat above 0.7 for {100 * share:.0f} %" in said


def test_what_can_be_believed_has_one():
    assert evidence_words(42.23, 0.01, TOLERATED, "refined") == "42.23 ± 0.01"
    assert evidence_words(-3.0, 0.0, 0.0, "exact") == "-3.00 (exact)"


def test_table_and_remarks_follow_k_hat(data):
    pair = pairs.latent(data.spec, latent=2, hidden=[8])
    good = replace(evaluate(pair, data, num_samples=30), khat_share=0.0)
    bad = replace(good, khat_share=0.5)
    assert [row.doubtful for row in rows(good)] == [False] * 5
    assert [row.label for row in rows(bad) if row.doubtful] == ["log p(x)"]
    assert "±" in rows(good)[3].value
    assert not any("±" in row.value for row in rows(bad))
    assert remarks(bad)[0].startswith(
        f"log p(x) >= {bad.log_evidence:.1f} (k-hat above 0.7 for 50 %): 30 draws per datum"
    )


def test_too_few_draws_for_k_hat_certify_nothing(data):
    figures = evaluate(pairs.linear(data.spec, latent=2), data, num_samples=10)
    assert figures.khat_share is None
    assert figures.doubtful
    json.loads(json.dumps(figures.to_dict(), allow_nan=False))


# --- PCA ----------------------------------------------------------------------------------------------------------------


def test_pca_has_as_many_components_as_the_model_has_continuous_numbers():
    data = pv.load_data("digits", labels=100)
    assert "digits: 1,437 " in data.spec.description
    figures = evaluate(pairs.semi_supervised(data.spec, latent=3, hidden=[8]), data, num_samples=30)
    assert (figures.latent, figures.meaning.numbers) == (3, 3)
    assert baseline(figures, data) == pytest.approx(pca_figures(data, 3))


@pytest.mark.parametrize(
    "build",
    [pairs.conditional, pytest.param(pairs.attribute, marks=pytest.mark.slow), pairs.structured, pairs.autoencoder],
)
def test_pca_does_not_stand_beside_what_it_is_not_of(data, build):
    figures = evaluate(build(data.spec, latent=2, hidden=[8]), data, num_samples=30)
    assert baseline(figures, data) is None


def test_a_density_does_not_stand_beside_a_probability(data):
    pair = pairs.latent(data.spec, latent=2, hidden=[8], likelihood="categorical")
    figures = evaluate(pair, data, num_samples=30)
    assert baseline(figures, data) == {"rms_error": pca_figures(data, 2)["rms_error"]}
    assert "the probability of discrete ones" in " ".join(remarks(figures, baseline(figures, data)))


def test_probabilistic_pca_is_the_linear_pair_at_its_optimum(data):
    x = data.batch("train")["x"].double()
    fitted = maximum_likelihood(x, 5)
    assert log_density(x, fitted).mean().item() == pytest.approx(fitted.log_likelihood, abs=1e-8)
    model = LinearModel(5, 64).double().set_to(fitted)
    assert torch.allclose(log_density(x, fitted), model.marginal().log_prob(x))
    table = elbo(Pair(model, LinearGuide(model)), {"x": x[:200]}, num_samples=400)
    ours = reconstruction(x[:200], fitted).mean().item()
    # the spread of log p(x | z) is at most that of half a chi-square with 5 degrees of freedom
    assert ours == pytest.approx(table.reconstruction, abs=5 * math.sqrt(5 / 2) / math.sqrt(200 * 400))
    assert abs(ours - table.reconstruction) < 0.1 * table.kl


# --- points -------------------------------------------------------------------------------------------------------------


def test_a_point_is_not_certified_anywhere(data, small_budget):
    pair = pairs.autoencoder(data.spec, latent=2, hidden=[8])
    figures = evaluate(pair, data, num_samples=30)
    assert figures.log_evidence is figures.khat_share is figures.proposal is None
    assert [row.label for row in rows(figures)][:3] == ["log p(x, z) at the point", "  reconstruction", "  - log p(z)"]
    assert figures.to_dict()["names"]["elbo"] == "log p(x, z) at the point"
    lines = {verdict.check: verdict for verdict in diagnose(pair, data).verdicts}
    for check in ("log p(x)", "log p(x) - ELBO", "k-hat", "gaps", "aggregate posterior", "annealing"):
        assert lines[check].verdict == "left out", check
        assert "the guide is a point at 'z'" in lines[check].advice
    assert "ELBO" not in lines
    assert lines["log p(x, z) at the point"].value == pytest.approx(figures.elbo, abs=2)


@pytest.mark.slow
def test_a_point_on_a_mass_function_has_an_elbo(small_budget, data):
    pair = Pair(Mixture(64), nearest)
    figures = evaluate(pair, data, num_samples=30)
    assert rows(figures)[0].label == "ELBO"
    exact = evaluate(Pair(pair.model, summed), data, num_samples=30)
    assert exact.proposal == "exact"
    assert figures.elbo < exact.log_evidence
    lines = {verdict.check: verdict.verdict for verdict in diagnose(pair, data).verdicts}
    assert (lines["ELBO"], lines["log p(x)"]) == ("note", "left out")


def test_what_is_summed_over_is_exact(data):
    model = Mixture(64)
    x = data.batch("test")["x"]
    each = torch.stack([dist.Normal(loc, 1.0).to_event(1).log_prob(x) for loc in model.loc])
    figures = evaluate(Pair(model, summed), data, num_samples=30)
    assert figures.log_evidence == pytest.approx((each.logsumexp(0) - math.log(2)).mean().item(), rel=1e-6)
    assert figures.evidence == f"{figures.log_evidence:.2f} (exact)"


# --- no latent variable -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_density_alone_goes_through_every_command(tmp_path, monkeypatch, capsys, small_budget, data):
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(DENSITY)
    allowed = ["--pair", "mine.py:density"]
    assert main(["train", "mine.py:density", "--epochs", "1", "--compile", "off", "--run", "run"]) == 0
    captured = capsys.readouterr()
    assert "(exact)" in captured.out
    assert "validation log p(x)" in captured.err
    for absent in ("KL", "RMS", "±", "PCA", "ELBO"):
        assert absent not in captured.out, absent
    assert main(["evaluate", "run", *allowed, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["proposal"], found["log_evidence_stderr"], found["rms_error"]) == ("exact", 0.0, None)
    state = checkpoint.load(Path("run/best.ckpt"))["parameters"]
    (loc,) = state.values()
    right = dist.Normal(loc, 0.5).to_event(1).log_prob(data.batch("test")["x"]).mean().item()
    assert found["log_evidence"] == found["elbo"] == pytest.approx(right, rel=1e-6)
    assert main(["diagnose", "run", *allowed, "--json"]) == 0
    lines = {v["check"]: v for v in json.loads(capsys.readouterr().out)["verdicts"]}
    assert lines["log p(x)"]["verdict"] == "good"
    for check in ("log p(x) - ELBO", "gaps", "k-hat", "active units", "simulation-based calibration", "probes"):
        assert lines[check]["verdict"] == "left out"
        assert "could not be computed" not in lines[check]["advice"], check
    assert "alt='khat'" not in Path("run/report.html").read_text()
    assert main(["draw", "run", "samples", *allowed]) == 0
    assert main(["draw", "run", "reconstructions", *allowed]) == 2
    assert "no latent variable" in capsys.readouterr().err


class NoMean(dist.TorchDistribution):
    """Bits with these logits; says neither mean nor variance."""

    arg_constraints = {}  # noqa: RUF012
    support = dist.constraints.independent(dist.constraints.boolean, 1)

    def __init__(self, logits):
        self.bits = dist.Bernoulli(logits=logits)
        super().__init__(logits.shape[:-1], logits.shape[-1:])

    def log_prob(self, value):
        return self.bits.log_prob(value).sum(-1)

    def sample(self, sample_shape=()):
        return self.bits.sample(torch.Size(sample_shape))


@pytest.mark.parametrize(("said", "verdict"), [(1.0, "good"), (3.0, "bad")])
def test_pixels_are_calibrated_without_a_mean(said, verdict):
    """Of logits that are right, and of logits three times too sure."""
    logits = torch.linspace(-2, 2, 20).expand(3000, 20)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        x = torch.bernoulli(torch.sigmoid(logits))

    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", NoMean(said * logits[: len(x)]), obs=x)

    subject = diagnose(Pair(model, nothing), {"x": x[:2]}).subject
    subject.test = {"x": x}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        (line,) = pixels(subject)
    assert line.verdict == verdict, line.advice
