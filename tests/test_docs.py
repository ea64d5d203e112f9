"""What the documentation says can be done: its code runs, its commands work, and no module is missing from the reference."""

import importlib
import json
import re
import runpy
import sys
from pathlib import Path
from unittest.mock import MagicMock

import pytest
import torch

import pyro_vae as pv
from pyro_vae.cli import main
from pyro_vae.plots import PICTURES

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"


def code_of(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)


@pytest.fixture
def ink(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = code_of("howto/new-pair.md")[0]
    assert code.startswith("# ink.py")
    (tmp_path / "ink.py").write_text(code)
    return code


def test_a_new_pair_takes_less_than_60_lines(ink):
    assert len(ink.splitlines()) < 60


@pytest.mark.slow
def test_everything_works_on_a_new_pair(ink, capsys):
    def run(*words):
        status = main([*words, "--json"])
        said = capsys.readouterr()
        assert status == 0, said.err
        return json.loads(said.out)

    told = re.findall(r"^    pyro-vae (.*)$", (DOCS / "howto/new-pair.md").read_text(), re.MULTILINE)
    quick = {
        "train": ["--epochs", "1", "--compile", "off"],
        "resume": ["--epochs", "2"],
        "evaluate": ["--samples", "50"],
    }
    said = {
        line.split()[0]: run(*line.replace("--epochs 150", "").split(), *quick.get(line.split()[0], []))
        for line in told
    }
    assert said.keys() == {"check", "train", "resume", "evaluate", "diagnose", "draw"}
    assert said["check"] == {"ok": True, "problems": []}
    assert (said["train"]["epochs"], said["resume"]["epochs"]) == (1, 2)
    assert set(said["evaluate"]["sites"]) == {"z", "s", "x"}
    known = ["runs/ink-digits", "--pair", "ink.py:ink"]
    verdicts = said["diagnose"]["verdicts"]
    assert {"k-hat", "approximation gap", "simulation-based calibration"} <= {verdict["check"] for verdict in verdicts}
    report = Path("runs/ink-digits/report.html").read_text()
    assert "class InkModel(PyroModule)" in report
    assert re.search(r"pyro-vae train \S*ink\.py:ink", report)
    drawn = set()
    for what in PICTURES:
        status = main(["draw", *known, what])
        said = capsys.readouterr()
        if status == 0:
            drawn.add(what)
        else:
            assert (status, said.err[:10]) == (2, "pyro-vae: "), what
    assert drawn >= {"samples", "reconstructions", "scatter", "interpolation", "traversal", "curves", "kl", "graph"}
    assert main(["evaluate", "runs/ink-digits"]) == 2  # its code runs only when the command line names it
    assert "--pair ink.py:ink" in capsys.readouterr().err


def test_a_new_head_makes_a_decoder(tmp_path):
    head, decoder = code_of("howto/new-conditional.md")
    names = {"data": pv.load_data("digits")}
    exec(head + decoder, names)
    found = names["decoder"](torch.zeros(3, 5, 10))
    assert found.batch_shape == (3, 5)
    assert found.event_shape == (64,)
    assert torch.allclose(found.mean[0, 0], names["data"].spec.mean, atol=0.2)


def test_the_start_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (code,) = code_of("index.md")
    names: dict = {}
    exec(code.replace("epochs=50", "epochs=1").replace("num_samples=5000", "num_samples=20"), names)
    assert Path("samples.png").is_file()
    assert names["evidence"].mean_stderr > 0


def test_a_trained_pair_is_used_as_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = pv.load_data("digits")
    torch.manual_seed(0)
    pair = pv.pairs.latent(data.spec, latent=8, hidden=[16])
    pv.fit(pair, data, epochs=1, compile="off", run="runs/latent-digits")
    names: dict = {}
    for code in code_of("howto/use-a-trained-pair.md"):
        exec(code.replace("range(5)", "range(1)").replace("num_samples=500", "num_samples=20"), names)
    assert pv.load("runs/mine").encode(names["x"]).equal(names["z"])
    assert torch.allclose(names["exported"].module()(names["z"]), names["fitted"].decode(names["z"]), atol=1e-6)


def test_training_is_set_up_as_told():
    names: dict = {}
    for code in code_of("howto/set-up-training.md"):
        small = code.replace("epochs=20", "epochs=1, compile='off'").replace("latent=8", "latent=2, hidden=[8]")
        exec(small.replace("latent=size", "latent=size, hidden=[8]"), names)
    assert names["fitted"].training.accumulate == 4
    assert set(names["reached"]) == {2, 5, 10, 20}


def test_a_table_is_used_as_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    (code,) = code_of("howto/own-data.md")
    exec(code.replace("epochs=200", "epochs=1, compile='off'").replace("num_samples=500", "num_samples=5"), names)
    assert names["data"].spec.feature_names[0] == "alcohol"
    assert Path("wine.png").is_file()


@pytest.mark.slow
def test_runs_are_compared_as_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = pv.load_data("digits", binarize="static")
    for name, pair in (("latent", "latent"), ("made", "autoregressive")):
        built = pv.pairs.find(pair)(data.spec, hidden=[8])
        pv.fit(built, data, epochs=1, compile="off", run=f"runs/{name}", progress=False)
    (code,) = code_of("howto/compare-runs.md")
    exec(code.replace('"runs/made")', '"runs/made", num_samples=10)'), {})
    assert Path("comparison.html").is_file()


def test_training_is_logged_as_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    board, weights = MagicMock(), MagicMock()
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", board)
    monkeypatch.setitem(sys.modules, "wandb", weights)
    names: dict = {}
    for code in code_of("howto/log-training.md"):
        exec(code.replace("epochs=5", "epochs=2, compile='off'").replace("latent=8", "latent=2, hidden=[8]"), names)
    written = board.SummaryWriter.return_value
    assert [call.args[2] for call in written.add_scalar.call_args_list if call.args[0] == "elbo"] == [1, 2]
    assert written.add_images.call_args.args[1].shape == (16, 1, 8, 8)
    rows = [call.args[0] for call in weights.init.return_value.log.call_args_list]
    assert [row["epoch"] for row in rows] == [1, 2]


def test_the_reference_holds_every_module():
    pages = "".join(page.read_text() for page in (DOCS / "api").glob("*.md"))
    named = set(re.findall(r"^::: pyro_vae\.(\S+)", pages, re.MULTILINE))
    inside = [
        path.relative_to(ROOT / "pyro_vae").with_suffix("")
        for path in (*ROOT.glob("pyro_vae/*.py"), *ROOT.glob("pyro_vae/*/*.py"))
    ]
    modules = {".".join(path.parts) for path in inside if path.name not in ("__init__", "__main__")}
    assert named == modules


def test_every_picture_is_explained():
    text = (DOCS / "pictures.md").read_text()
    assert set(re.findall(r"^\| `([\w-]+)` \|", text, re.MULTILINE)) == set(PICTURES)


def test_every_notebook_is_listed():
    listed = re.findall(
        r"^\| \[`(\d\d_\w+)`\]\(notebooks/\1\.md\) \|", (DOCS / "notebooks.md").read_text(), re.MULTILINE
    )
    assert listed == sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))


def test_every_notebook_is_a_page_with_its_outputs():
    hooks = runpy.run_path(str(DOCS / "hooks.py"))
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        page = hooks["page_of"](path)
        outputs = [o for cell in json.loads(path.read_text())["cells"] for o in cell.get("outputs", [])]
        pictures = sum("image/png" in output.get("data", {}) for output in outputs)
        assert page.startswith("# ")
        assert not re.search(r"\]\(\w+\.ipynb\)", page), "a link between notebooks leads to no page"
        assert page.count('<img alt="output" src="data:image/png;base64,') == pictures
        assert page.count("```") % 2 == 0


def test_the_overview_names_everything_that_the_package_offers():
    listed = re.findall(r"^\| \[`pv\.(\w+)`\]\[pyro_vae\.([\w.]+)\] \|", (DOCS / "api/index.md").read_text(), re.M)
    assert sorted(name for name, _ in listed) == sorted(pv.__all__)
    for name, place in listed:
        module, _, attribute = place.rpartition(".")
        assert getattr(importlib.import_module(f"pyro_vae.{module}"), attribute) is getattr(pv, name)
