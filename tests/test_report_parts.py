"""The part of a report that every run has."""

import re
import shlex

import pytest

import pyro_vae as pv
from pyro_vae.cli import main
from pyro_vae.evaluation import evaluate
from pyro_vae.report_parts import command, write_run_report
from pyro_vae.runs import Run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    argv = [
        "train",
        "latent",
        "--run",
        str(folder),
        "--latent",
        "2",
        "--hidden",
        "[8]",
        "--epochs",
        "1",
        "--compile",
        "off",
    ]
    assert main([*argv, "--json"]) == 0
    return Run.open(folder)


def test_the_report_is_one_file_with_everything_in_it(run):
    data = pv.load_data("digits")
    pair = pv.pairs.latent(data.spec, latent=2, hidden=[8]).train(False)
    pair.load_state_dict(run.load_best()["parameters"])
    figures = evaluate(pair, data, num_samples=20)
    text = write_run_report(run, pair, data, figures).read_text()
    assert not re.search(r"(src|href)=['\"](?!data:)", text), "the page needs another file"
    assert "class LatentModel(PyroModule)" in text
    assert "class LatentGuide(PyroModule)" in text
    assert f"{figures['elbo']:.2f}" in text
    assert "1 epochs, 11 steps" in text
    for picture in ("graph", "curves", "samples", "manifold", "traversal"):
        assert f"alt='{picture}'" in text
    assert "alt='classes'" not in text  # does not apply
    assert text.index("alt='graph'") < text.index("alt='samples'")


def test_the_command_repeats_the_run(run, tmp_path, capsys):
    line = command(run.config)
    assert line == "pyro-vae train latent --data digits --latent 2 --hidden '[8]' --epochs 1 --compile off"
    assert main([*shlex.split(line)[1:], "--run", str(tmp_path / "again"), "--json"]) == 0
    assert Run.open(tmp_path / "again").history == run.history
    assert command({**run.config, "pair": None}) is None
