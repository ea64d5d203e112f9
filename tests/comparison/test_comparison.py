"""Runs side by side: what is comparable is, what is not is refused by name, and no figure is more than it is."""

import json
import math
from dataclasses import replace

import numpy as np
import pyro
import pytest
import torch
from pyro.infer import Trace_ELBO

import pyro_vae as pv
from pyro_vae.cli import main
from pyro_vae.comparison import judged, remarks, sections, yardstick
from pyro_vae.comparison.density import density_of
from pyro_vae.comparison.entries import entry_of
from pyro_vae.comparison.words import seconds
from pyro_vae.data import DataError
from pyro_vae.distributions import LogZ
from pyro_vae.evidence import evaluate
from pyro_vae.program import Figure
from pyro_vae.report import write_comparison

QUICK = {"epochs": 2, "compile": "off", "progress": False}


def arrays(*, count: int = 900, seed: int = 0, labels: bool = True, grey: bool = False) -> dict[str, np.ndarray]:
    """Three patterns of 36 pixels, each pixel flipped now and then."""
    rng = np.random.default_rng(seed)
    y = np.arange(count) % 3
    on = 0.1 + 0.8 * (np.arange(36)[None] // 12 == y[:, None])
    x = on + 0.05 * rng.normal(size=on.shape) if grey else rng.random(on.shape) < on
    return {"x": x.astype(np.float32), **({"y": y} if labels else {})}


def fitted(data, pair="latent", *, run=None, seed=0, **options):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        built = pv.pairs.find(pair)(data.spec, **options)
    return pv.fit(built, data, run=run, **QUICK)


@pytest.fixture(autouse=True)
def quickly_taught(monkeypatch):
    """The patterns are learned at once."""
    monkeypatch.setattr("pyro_vae.diagnostics.judge.STEPS", 100)


@pytest.fixture(scope="module")
def data():
    return pv.load_data(arrays())


@pytest.fixture(scope="module")
def runs(data):
    latent = fitted(data, latent=2, hidden=[8])
    return latent, fitted(data, "autoregressive", hidden=[16])


@pytest.fixture(scope="module")
def comparison(runs):
    return pv.compare(*runs, names=["a", "b"], num_samples=100)


def test_every_kind_of_figure_has_its_column(comparison, runs, data):
    exact = comparison["b"].density
    assert (exact.kind, exact.stderr) == ("exact", 0.0)
    figures = evaluate(runs[1].pair, data)
    assert exact.value == pytest.approx(figures.log_evidence)
    assert exact.words == f"log p(x) = {exact.value:.2f} (exact)"
    assert exact.bits_per_dimension == pytest.approx(-exact.value / 36 / math.log(2))
    weighted = comparison["a"].density
    assert weighted.kind == "importance-weighted"
    assert weighted.khat_share is not None
    codes = comparison["a"].representation
    assert (codes.size, codes.latent) == (2, 2)
    assert 0 <= codes.active_units <= 2
    assert comparison["b"].representation is None
    assert comparison["b"].left_out["representation"] == "no codes"
    for row, run in zip(comparison.rows, runs, strict=True):
        assert row.cost.train == run.seconds
        assert 0 < row.cost.sample < 1
        assert 0 < row.cost.score < 10


def test_real_data_stand_beside_as_if_they_were_samples(comparison):
    real = comparison["validation data"].sampling
    assert real.samples == comparison.samples == 90
    assert abs(real.two_sample - 0.5) < 4 * real.two_sample_stderr
    assert abs(real.copies - 0.5) < 4 * real.copies_stderr
    assert real.coverage > real.coverage_expected - 0.1
    assert (real.classes, real.num_classes, real.missed, real.memorised) == (3, 3, (), False)
    assert comparison["x"].representation.linear > 0.9
    assert comparison["PCA 2"].representation.size == 2


def test_damaged_samples_are_told():
    data = pv.load_data(arrays(count=2000))
    against = yardstick(data, "test")
    train = data.batch("train")
    copied = judged(train["x"][: against.wanted], against)
    assert copied.memorised
    one = judged(train["x"][train["y"] == 1][: against.wanted], against)
    assert (one.classes, one.missed) == (1, (0, 2))
    assert one.coverage < 0.5
    assert one.two_sample > 0.6
    real = judged(data.batch("valid")["x"], against)
    assert one.frechet > 10 * real.frechet
    assert not real.memorised


def test_figures_that_are_no_likelihood_are_never_shown_as_one(runs, data):
    figures = evaluate(runs[0].pair, data, num_samples=100)
    sure = density_of(replace(figures, khat_share=0.01), 36)
    assert (sure.lower, sure.upper, sure.bits[0]) == (sure.value, sure.value, "0")
    doubtful = density_of(replace(figures, khat_share=0.12), 36)
    assert doubtful.words == f"log p(x) >= {figures.log_evidence:.1f} (k-hat above 0.7 for 12 %)"
    assert (doubtful.upper, doubtful.stderr) == (None, None)
    assert doubtful.bits.startswith("<= ")
    none = replace(figures, log_evidence=None)
    mode = density_of(replace(none, meaning=replace(figures.meaning, modes=("z",))), 36)
    assert (mode.kind, mode.value, mode.bits[:3]) == ("ELBO", figures.elbo, "<= ")
    assert mode.words == f"log p(x) >= {figures.elbo:.1f} (ELBO)"
    for change in ({"points": ("z",)}, {"shared": ("z",)}, {"normalised": False}):
        found = density_of(replace(none, meaning=replace(figures.meaning, **change)), 36)
        assert (found.kind, found.value, found.bits_per_dimension, found.words, found.bits) == (
            "none",
            None,
            None,
            "none",
            "-",
        )
        assert found.why
    grey = density_of(replace(figures, meaning=replace(figures.meaning, is_density=True)), 36)
    assert grey.bits == "-"
    given = density_of(replace(figures, meaning=replace(figures.meaning, whole=False, given=("y",))), 36)
    assert given.words.startswith("log p(x | y) ")
    assert given.bits == "-"


def test_a_bracket_of_log_z_is_one_of_log_p(runs, data):
    figures = evaluate(runs[1].pair, data)
    weights = torch.zeros(10, dtype=torch.float64)
    value = figures.log_evidence
    for gap, words in ((0.2, f"= {value:.2f} ± 0.00"), (3.0, f"<= {value:.1f} (log Z known to 3.0 nats)")):
        found = density_of(replace(figures, proposal="annealed", log_z=LogZ(weights, weights + gap, 100, True)), 36)
        assert (found.kind, found.words) == ("annealed", f"log p(x) {words}")
        assert (found.lower, found.upper) == (pytest.approx(value - gap), value)
        assert found.bits.startswith(">= ") == (words[:2] == "<=")
    alone = density_of(replace(figures, proposal="annealed", log_z=LogZ(weights, None, 100, False)), 36)
    assert (alone.lower, alone.bits[:3]) == (None, ">= ")
    assert alone.words.endswith("(log Z from below only)")


class Divergence(Trace_ELBO):
    """An objective of models that draw and have no density."""

    needs = frozenset()
    figure = Figure("JSD bound", "divergence")


def test_a_model_without_a_density_has_none_by_name(runs, data):
    latent = runs[0].pair
    other = replace(runs[0], pair=pv.Pair(latent.model, latent.guide, objective=Divergence()))
    row = pv.compare(runs[1], other, names=["a", "gan"], num_samples=10)["gan"]
    assert (row.density.kind, row.density.value, row.density.words) == ("none", None, "none")
    assert "known by its draws alone, and gives x no density" in row.left_out["density"]
    assert "; its own figure is the JSD bound -" in row.left_out["density"]
    assert row.cost.score is None
    assert row.sampling is not None


@pytest.mark.parametrize(
    ("others", "options", "said"),
    [
        (arrays(seed=1), {}, "hold other data in their splits"),
        (arrays(), {"seed": 1}, "cut with another seed"),
        (arrays(), {"test": 0.2}, "train split and b"),
        (arrays(grey=True), {}, "takes x as"),
    ],
)
def test_other_data_are_refused_by_name(runs, others, options, said):
    other = replace(runs[1], data=pv.load_data(others, **options))
    with pytest.raises(DataError, match=said) as refusal:
        pv.compare(runs[0], other, names=["a", "b"])
    assert "a " in str(refusal.value)
    assert "b " in str(refusal.value)


def test_other_names_binarizations_and_kinds_are_refused():
    static, dynamic, grey = (pv.load_data("digits", binarize=mode) for mode in ("static", "dynamic", "gray"))
    one = entry_of(fitted(static, latent=2, hidden=[4]))
    run = fitted(grey, latent=2, hidden=[4])
    with pytest.raises(DataError, match="a binarizes once and b binarizes anew each epoch"):
        pv.compare(run_of(run, one, static), run_of(run, one, dynamic), names=["a", "b"])
    with pytest.raises(DataError, match="binarizes once and b takes values as they are"):
        pv.compare(run_of(run, one, static), run, names=["a", "b"])
    with pytest.raises(DataError, match="trained on arrays"):
        pv.compare(run, run_of(run, one, pv.load_data(arrays())))
    mass = fitted(grey, latent=2, hidden=[4], likelihood="discretized-logistic")
    with pytest.raises(DataError, match="a gives x a density of real values and b a probability"):
        pv.compare(run, mass, names=["a", "b"])


def run_of(run, entry, data):
    return replace(run, pair=entry.pair, data=data)


@pytest.mark.slow
def test_hidden_labels_do_not_make_other_data(runs):
    few = pv.load_data(arrays(), labels=30)
    half = fitted(few, "semi_supervised", latent=2, hidden=[8])
    table = pv.compare(half, runs[1], names=["half", "whole"], num_samples=10)
    assert table.left_out == {}
    assert table["half"].representation.linear is None or table["half"].representation.linear > 0.3
    both = pv.compare(half, half, names=["a", "b"], num_samples=10)
    assert both.left_out["Frechet distance"] == both.left_out["probes"] == "some labels are hidden"


def test_without_labels_the_columns_of_classes_are_left_out_by_name():
    data = pv.load_data(arrays(labels=False))
    one = fitted(data, latent=2, hidden=[8])
    table = pv.compare(one, one, num_samples=10)
    assert [row.name for row in table.rows] == ["latent 1", "latent 2"]
    assert set(table.left_out) == {"Frechet distance", "classes covered", "probes"}
    row = table.rows[0]
    assert (row.sampling.frechet, row.sampling.classes, row.representation.linear) == (None, None, None)
    assert table["validation data"].sampling.coverage > 0.85
    assert "No classes covered: the data have no labels." in remarks(table)


@pytest.mark.slow
def test_hidden_units_and_words_are_codes(data):
    rbm, words = fitted(data, "boltzmann", units=5), fitted(data, "quantized", codes=4, places=3, hidden=[8])
    table = pv.compare(rbm, words, num_samples=10)
    units, word = (row.representation for row in table.rows)
    assert (units.kind, units.size) == ("probabilities of hidden units given x", 5)
    assert (word.kind, word.size) == ("words of a codebook, one-hot", 12)
    assert word.active_units is None
    assert table.rows[1].density.kind == "ELBO"


def test_a_pair_in_double_precision_stays_so(data, runs):
    mixture = pv.em(pv.pairs.mixture(data.spec, components=3), data, 3, precision="64", progress=False)
    row = pv.compare(mixture, runs[1], num_samples=10)["mixture"]
    assert row.density.kind == "exact"
    assert row.representation.kind == "probabilities of classes"
    assert {tensor.dtype for tensor in mixture.pair.state_dict().values()} == {torch.float64}


def test_a_model_that_cannot_draw_leaves_the_others_their_row(data, runs):
    class Undrawable(pyro.distributions.Bernoulli):
        def sample(self, *_):
            raise RuntimeError("no draws\nhere")

    class Own(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.logits = torch.nn.Parameter(torch.zeros(36))

        def forward(self, x):
            with pyro.plate("data", len(x)):
                pyro.sample("x", Undrawable(logits=self.logits).to_event(1), obs=x)

    own = replace(runs[0], pair=pv.Pair(Own(), lambda x: None))
    table = pv.compare(own, runs[1], names=["own", "made"], num_samples=10)
    assert table["own"].sampling is None
    assert table["own"].left_out["sampling"] == "could not be computed (RuntimeError: no draws)"
    assert table["own"].density.kind == "exact"
    assert table["made"].sampling is not None


def test_without_validation_data_there_is_no_row_of_real_data(runs):
    data = pv.load_data(arrays(), valid=0, test=90)
    run = replace(runs[1], data=data)
    table = pv.compare(run, run, num_samples=10)
    assert table.references == []
    assert "No row of real data: there are no validation data that could stand for samples." in remarks(table)
    assert table.rows[0].sampling.samples == 90


def test_codes_that_are_told_the_label_are_not_asked_for_it(data, runs):
    told = fitted(data, "conditional", latent=2, hidden=[8])
    row = pv.compare(told, runs[1], num_samples=10)["conditional"]
    assert row.representation is None
    assert "is given the label" in row.left_out["representation"]
    assert row.density.quantity == "log p(x | y)"
    assert row.density.bits_per_dimension is None
    assert row.sampling.samples == 90


def test_what_is_no_run_is_refused(runs, data):
    with pytest.raises(ValueError, match="two runs or more, and got 1"):
        pv.compare(runs[0])
    with pytest.raises(TypeError, match="got a Pair; a pair alone does not say what data"):
        pv.compare(runs[0], runs[0].pair)
    for names, said in ((["a"], "1 names for 2 runs"), (["a", "a"], "same name")):
        with pytest.raises(ValueError, match=said):
            pv.compare(*runs, names=names)
    with pytest.raises(ValueError, match="draws must be at least 1, got 0"):
        pv.compare(*runs, draws=0)
    few = pv.compare(*runs, draws=5, num_samples=10)
    assert few.samples is None
    assert "at least 40 are needed" in few.left_out["sampling"]
    assert "Sampling" not in [section.title for section in sections(few)]


def test_the_tables_say_what_the_figures_are(comparison):
    text = str(comparison)
    density, sampling, codes, cost = sections(comparison)
    assert [line[0] for line in density.lines] == [line[0] for line in cost.lines] == ["a", "b"]
    assert [line[0] for line in sampling.lines] == ["a", "b", "validation data"]
    assert [line[0] for line in codes.lines] == ["a", "b", "x", "PCA 2"]
    assert all(len(line) == len(part.heads) for part in (density, sampling, codes, cost) for line in part.lines)
    assert comparison["b"].density.words in text
    assert "b: no codes." in text
    with pytest.raises(KeyError, match="no row 'c'"):
        comparison["c"]
    assert [seconds(value) for value in (None, 12.34, 0.0123)] == ["-", "12.3 s", "12.3 ms"]


def test_the_page_needs_no_other_file(comparison, tmp_path):
    page = write_comparison(comparison, tmp_path / "new" / "page.html").read_text()
    assert page.count("data:image/png;base64,") == 2
    assert "http" not in page.replace("http-equiv", "")
    assert "<h2>Representation</h2>" in page
    plain = json.loads(json.dumps(comparison.to_dict()))
    assert [row["name"] for row in plain["rows"]] == ["a", "b"]
    assert plain["rows"][1]["density"]["value"] == comparison["b"].density.value
    assert plain["rows"][0]["sampling"]["chance"] == 0.5


@pytest.mark.slow
def test_the_command_line_prints_writes_and_refuses(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    np.savez("x.npz", **arrays())
    data = pv.load_data("x.npz")
    one = fitted(data, latent=2, hidden=[8], run="runs/one")
    fitted(data, "autoregressive", hidden=[8], run="runs/two")
    assert main(["compare", "runs/one", "runs/two/", "--samples", "10", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in found["rows"]] == ["one", "two"]
    assert found["rows"][0]["cost"]["train"] == one.run.seconds <= one.seconds
    assert found["report"] == "comparison.html"
    assert (tmp_path / "comparison.html").exists()
    assert main(["compare", "runs/one", "runs/two", "--samples", "10", "--draws", "5", "--out", "other.html"]) == 0
    said = capsys.readouterr()
    assert "(exact)" in said.out
    assert "at least 40 are needed" in " ".join(said.out.split())
    assert said.out.rstrip().endswith("report: other.html")
    for words, wanted in (
        (["runs/one"], "two runs or more, and got 1"),
        (["runs/one", "runs/none"], "does not exist"),
        (["runs/one", "runs/two", "--draws", "0"], "--draws must be at least 1"),
        (["runs/one", "runs/two", "--samples", "0"], "--samples must be at least 1"),
        (["runs/one", "runs/two", "--out", "a.pdf"], "must end in .html"),
    ):
        assert main(["compare", *words]) == 2
        assert wanted in capsys.readouterr().err
