"""The report that every run has."""

import html
import re
import shlex
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

import pyro_vae as pv
from pyro_vae.cli import main
from pyro_vae.diagnostics import Diagnosis, diagnose
from pyro_vae.diagnostics.subject import Verdict
from pyro_vae.evidence import evaluate
from pyro_vae.plots import PICTURES, NotDrawable
from pyro_vae.report import show_evaluation
from pyro_vae.report.captions import EXAMINED, GOOD, answer, examined
from pyro_vae.report.report import PICTURES as DIAGNOSED
from pyro_vae.report.report import WITH_DATA, write_report, write_run_report
from pyro_vae.report.sections import command, draw_all, parts, summary
from pyro_vae.runs import Evaluation, Run, RunNote, keep_evaluation

OPTIONS = ["--latent", "2", "--hidden", "[8]", "--epochs", "1", "--compile", "off"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    assert main(["train", "latent", "--run", str(folder), *OPTIONS, "--json"]) == 0
    return Run.open(folder)


@pytest.fixture(scope="module")
def data():
    return pv.load_data("digits")


@pytest.fixture
def pair(run, data):
    pair = pv.pairs.latent(data.spec, latent=2, hidden=[8])
    pair.load_state_dict(run.load_best()["parameters"])
    return pair


@pytest.mark.slow
def test_the_report_names_what_was_trained_in_full(run, data, pair):
    text = html.unescape((run.folder / "report.html").read_text())
    assert "model.decoder: MLP 2-8-64, " in text
    assert "guide.encoder: MLP 64-8-4, Normal(2, scale='predicted')" in text
    assert re.search(r"1 epoch, 11 steps in \d+ s; the parameters of epoch 1", text)
    assert [line.partition(":")[0] for line in parts(pv.pairs.hierarchical(data.spec, hidden=[8]))]


def headings(text):
    return re.findall(r"<h2>(.*?)</h2>", text)


def test_training_leaves_one_file_with_everything_in_it(run, data, pair):
    text = (run.folder / "report.html").read_text()
    assert not re.search(r"(src|href)=['\"](?!data:)", text), "the page needs another file"
    assert headings(text) == [
        "What it reaches",
        "Can it be trusted?",
        "How training went",
        "The programs",
        "Pictures",
        "How to repeat it",
    ]
    assert html.escape(GOOD["reconstructions"]) in text
    assert text.index("Whether to believe q(z | x) is not examined yet.") < text.index("What it reaches")
    assert f"pyro-vae explore {run.folder}" in text
    assert "class LatentModel(PyroModule)" in text
    assert "class LatentGuide(PyroModule)" in text
    assert "1 epoch, 11 steps" in text
    assert data.spec.description in text
    assert f"{pv.elbo(pair, data.batch('test')).kl:.0f}." in text
    assert f"pyro-vae diagnose {run}" in text
    for picture in ("graph", "curves", "samples", "manifold", "traversal"):
        assert f"alt='{picture}'" in text
        assert (run.figures / f"{picture}.png").stat().st_size > 1000
    assert "alt='classes'" not in text
    assert "<b>classes</b>: the model reads no field y" in text
    assert f"thread{'' if torch.get_num_threads() == 1 else 's'}, torch {torch.__version__}, on 20" in text
    for name in ("torch", "pyro-ppl", "pyro_vae"):
        assert f"<td>{name}</td>" in text


@pytest.fixture(autouse=True)
def same_order_of_pictures():
    """What is taken out of a dictionary comes back at its end, and pages of help list the pictures."""
    before = dict(PICTURES)
    yield
    for name, draw in before.items():
        del PICTURES[name]
        PICTURES[name] = draw


@pytest.fixture
def one_picture(monkeypatch):
    """A report has all pictures that apply; here there is one."""
    for name in PICTURES.keys() - {"samples"}:
        monkeypatch.delitem(PICTURES, name)


def test_the_figures_are_those_of_evaluate(run, data, pair, one_picture):
    figures = evaluate(pair, data, num_samples=20)
    text = write_run_report(run, pair, data, figures).read_text()
    for key in ("elbo", "reconstruction", "kl"):
        assert f"<td class='number'>{getattr(figures, key):.2f}</td>" in text
    assert html.escape(f">= {figures.log_evidence:.1f} (too few draws for k-hat)") in text


def test_an_evaluation_is_told_with_what_it_is_of(run, data, pair, capsys):
    made = Evaluation(
        "log p(x) = <1>", "test", 180, "70 draws per datum", {"ELBO": "\\1"}, "pyro-vae evaluate run", "2026-11-27", 11
    )
    keep_evaluation(run.folder, made, {"elbo": 1.0})
    assert show_evaluation(run) == run.folder / "report.html"
    written = (run.folder / "report.html").read_text()
    assert (
        "on 2026-11-27: log p(x) = &lt;1&gt; nats per datum on the test split, with 70 draws per datum.</p>" in written
    )
    assert "<td>\\1</td>" in written
    assert headings(write_run_report(run, pair, data, evaluate(pair, data, num_samples=20)).read_text()) == headings(
        written
    )
    assert run.summary()["evaluation"]["outdated"] is False
    keep_evaluation(run.folder, made._replace(step=5), {})
    assert run.summary()["evaluation"]["outdated"] is True
    assert main(["list", "--runs", str(run.folder.parent)]) == 0
    assert "log p(x) = <1> (test, before its last steps)  latent on digits" in capsys.readouterr().out
    show_evaluation(run)
    assert "the run was trained further since, and this is of step 5 of 11" in (run.folder / "report.html").read_text()
    for damaged in ("", "[]", '{"elbo": 1.0}', '{"made": {"reached": 3}}', "[" * 100_000):
        (run.folder / "evaluation.json").write_text(damaged)
        with pytest.warns(RunNote, match=r"evaluation\.json cannot be read .*writes it anew"):
            assert run.summary()["evaluation"] is None
    (run.folder / "evaluation.json").unlink()
    show_evaluation(run)
    assert "on 2026-11-27:" not in (run.folder / "report.html").read_text()


@pytest.mark.slow
def test_a_diagnosis_becomes_part_of_the_same_report(run, data, pair):
    diagnosis = diagnose(pair, data)
    report = write_run_report(run, pair, data, evaluate(pair, data, num_samples=20), diagnosis)
    text = report.read_text()
    assert report == run.folder / "report.html"
    assert len(headings(text)) == 6
    assert "Not examined yet" not in text
    assert all(f"<td>{verdict.check}</td>" in text for verdict in diagnosis.verdicts)
    assert "alt='khat'" in text
    assert "alt='curves'" in text
    assert (run.figures / "diagnose-khat.png").is_file()


def test_a_picture_that_fails_costs_the_report_nothing_else(run, data, pair, monkeypatch):
    def broken(pair, data):
        raise RuntimeError("no such thing\nat all")

    def refused(pair, data):
        raise NotDrawable("it does not apply")

    for name in PICTURES.keys() - {"samples", "kl", "manifold"}:
        monkeypatch.delitem(PICTURES, name)
    monkeypatch.setitem(PICTURES, "samples", broken)
    monkeypatch.setitem(PICTURES, "kl", refused)
    drawn = draw_all(run, pair, data)
    assert drawn.left_out["samples"] == "could not be drawn for this pair (RuntimeError: no such thing)"
    assert drawn.left_out["kl"] == "it does not apply"
    assert "manifold" in drawn.pictures


def test_what_is_no_density_of_x_is_not_compared_with_pca(run, data, pair):
    figures = evaluate(pair, data, num_samples=20)
    assert "PCA, 2 components" in summary(run, pair, data, figures)["heads"]
    assert "PCA" not in str(summary(run, pair, data, replace(figures, rms_error=None)))


def test_kl_is_told_by_latent_site(run, data):
    spec = data.spec
    for pair, said in (
        (pv.pairs.hierarchical(spec, latent=[2, 2], hidden=[8]), r"KL by site: z2 \S+, z1 \S+ nats\."),
        (
            pv.pairs.structured(spec, latent=2, hidden=[8]),
            r"log p\(x_out \| x_in\)",
        ),  # its one latent site is the KL above
    ):
        assert re.match(said, summary(run, pair, data, evaluate(pair, data, num_samples=20))["remarks"][0])


def test_a_density_is_named_with_what_is_given(run, data, pair):
    spec = data.spec
    for other, said in (
        (pair, "log p(x)"),
        (pv.pairs.conditional(spec, latent=2, hidden=[8]), "log p(x | y)"),
        (pv.pairs.structured(spec, latent=2, hidden=[8]), "log p(x_out | x_in)"),
    ):
        shown = summary(run, other, data, evaluate(other, data, num_samples=20))
        assert said in [line[0] for line in shown["lines"]]
        text = str(shown)
        assert ("PCA, 2 components" in text) is (said == "log p(x)")
        assert text.count("may be positive") == 1


def test_words_of_others_are_escaped(tmp_path, one_picture):
    spec = pv.load_data({"x": torch.rand(60, 3)}).spec
    data = pv.load_data({"x": torch.rand(60, 3)})
    pair = pv.pairs.latent(spec, latent=2, hidden=[4])
    fitted = pv.fit(pair, data, epochs=1, compile="off", run=tmp_path / "<b>")
    text = write_run_report(fitted.run, pair, data, evaluate(pair, data, num_samples=20)).read_text()
    assert "/<b>" not in text
    assert "&lt;b&gt;" in text
    assert "Trained from Python" in text


def test_no_name_becomes_part_of_the_page(run, data, pair, tmp_path, monkeypatch):
    evil = "<script>alert('\"&')</script>"

    def refused(pair, data):
        raise NotDrawable(evil)

    for name in list(PICTURES):
        monkeypatch.delitem(PICTURES, name)
    monkeypatch.setitem(PICTURES, evil, refused)
    object.__setattr__(pair, "recipe", {"name": evil, "options": {evil: evil}})  # frozen
    subject = SimpleNamespace(found={}, data=None)
    diagnosis = Diagnosis([Verdict(evil, None, "left out", evil)], evil, evil, 1, 0.0, subject)
    pages = write_run_report(run, pair, data, evaluate(pair, data, num_samples=20), diagnosis).read_text()
    pages += write_report(diagnosis, tmp_path, title=evil).read_text()
    assert "<script" not in pages
    seen = html.unescape(pages)
    # title and heading of both; check, advice, budget and split of both; the pair's name and options; the picture
    assert seen.count(evil) >= 4 + 8 + 3 + 2
    assert seen.count("color:#6b6b6b") == 2


@pytest.mark.slow
def test_the_command_repeats_the_run(run, tmp_path, capsys):
    line = command(run.config)
    assert line == "pyro-vae train latent --data digits --latent 2 --hidden '[8]' --epochs 1 --compile off"
    assert main([*shlex.split(line)[1:], "--run", str(tmp_path / "again"), "--json"]) == 0
    assert Run.open(tmp_path / "again").history == run.history
    assert command({**run.config, "pair": None}) is None


def test_every_picture_has_a_sentence_that_says_what_good_looks_like():
    assert GOOD.keys() >= PICTURES.keys() - {"rate-distortion"}
    assert EXAMINED.keys() == {*DIAGNOSED, *WITH_DATA}


def test_a_diagnosis_is_in_the_captions_and_in_the_first_sentence(data, pair):
    figures = evaluate(pair, data, num_samples=30)
    checks = [
        Verdict("k-hat", 0.3, "bad", "30 % of test data have k-hat > 0.7; do something"),
        Verdict("probes", 1.0, "note", "fine"),
        Verdict("memorising", 0.0, "good", "none"),
    ]
    found = SimpleNamespace(verdicts=checks)
    assert examined("khat", found).endswith("Here: 30 % of test data have k-hat > 0.7.")
    assert examined("worst", found) == EXAMINED["worst"][0]
    said = answer(figures, None, found)
    assert said.startswith("log p(x) ")
    assert "nats per datum on the test split" in said
    assert said.endswith("Of the checks, 1 good, 1 bad: k-hat.")
    assert "against -3.25 for PCA" in answer(figures, {"log_evidence": -3.25}, None)
