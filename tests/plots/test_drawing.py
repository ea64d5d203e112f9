"""Pictures from the command line: `pyro-vae draw`."""

import json
import subprocess
import sys

import pytest

import pyro_vae as pv
from pyro_vae import plots
from pyro_vae.cli import main

OF_THIS_RUN = {
    *("samples", "reconstructions", "manifold", "scatter", "interpolation", "traversal", "attributes", "nats"),
    *("kl", "curves", "graph", "rate-distortion"),
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    data = pv.load_data("digits")
    for name, beta in (("one", 1.0), ("four", 4.0)):
        pair = pv.pairs.latent(data.spec, latent=2, hidden=[8])
        pv.fit(pair, data, run=folder / name, epochs=1, beta=beta, compile="off")
    return folder / "one"


def test_draw_every_picture_of_a_run(run, capsys, tmp_path):
    for what in plots.PICTURES:
        argv = ["draw", str(run), what, "--out", str(tmp_path / f"{what}.png"), "--json"]
        if what == "rate-distortion":
            argv += ["--others", f"[{run.parent / 'four'}]"]
        applies = what in OF_THIS_RUN
        assert main(argv) == (0 if applies else 2), what
        said = capsys.readouterr()
        if applies:
            assert json.loads(said.out) == {"figure": str(tmp_path / f"{what}.png")}
        else:
            assert said.err.startswith("pyro-vae: ")
            assert len(said.err.strip().splitlines()) == 1


def test_draw_takes_the_options_of_the_picture(run, capsys, tmp_path):
    out = str(tmp_path / "i.svg")
    assert main(["draw", str(run), "interpolation", "--first", "3", "--second", "8", "--out", out]) == 0
    assert main(["draw", str(run), "samples", "--first", "3"]) == 2
    assert "--first" in capsys.readouterr().err
    assert main(["draw", str(run), "interpolation", "--first", "99999"]) == 2
    assert "99999" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["draw", str(run), "traversal", "--help"])
    assert "--extent" in capsys.readouterr().out


def test_a_damaged_history_is_named(run, capsys):
    history = run / "history.csv"
    text = history.read_text()
    try:
        history.write_text(text.replace(text.splitlines()[1].split(",")[3], "many"))
        assert main(["draw", str(run), "curves"]) == 2
        assert "history.csv cannot be read" in capsys.readouterr().err
    finally:
        history.write_text(text)


@pytest.mark.slow
def test_pictures_need_no_display_and_no_pyplot():
    code = "import sys; import pyro_vae.plots.registry; assert 'matplotlib.pyplot' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
