"""A split that is empty is used as it can be, or refused by name, by everything that reads one."""

import numpy as np
import pytest
from tables import some

import pyro_vae as pv
from pyro_vae.cli import main
from pyro_vae.data import DataError
from pyro_vae.plots import PICTURES
from pyro_vae.report.sections import Drawn
from pyro_vae.training import Silent

EMPTY = [("test",), ("valid",), ("test", "valid")]
EXPECTED = {("test",): "valid", ("valid",): "test", ("test", "valid"): "train"}


def load(empty, n=40):
    x = np.random.default_rng(0).integers(0, 17, (n, 8, 8)).astype("u1")
    y = np.arange(n) % 2
    return pv.load_data({"x": x, "y": y}, levels=17, binarize="static", **dict.fromkeys(empty, 0))


def pair_of(data):
    return pv.pairs.latent(data.spec, latent=2, hidden=[8])


@pytest.mark.parametrize("empty", EMPTY, ids=" ".join)
def test_the_default_split_is_one_that_has_data(empty):
    data = load(empty)
    assert data.choose() == EXPECTED[empty]
    for split in empty:
        with pytest.raises(DataError, match=f"The {split} split of arrays is empty: choose {EXPECTED[empty]}"):
            data.choose(split)


@pytest.mark.parametrize("empty", EMPTY, ids=" ".join)
def test_figures_and_diagnoses_read_it(empty):
    data = load(empty)
    pair = pair_of(data)
    assert pv.fit(pair, data, epochs=1, compile="off", progress=Silent()).epochs == 1
    figures = pv.evidence.evaluate(pair, data, num_samples=20)
    assert figures.split == EXPECTED[empty]
    assert figures.num_data == data.size(EXPECTED[empty])
    assert pv.evidence.baseline(figures, data) is not None
    assert pv.diagnostics.expected_seconds(pair, data) > 0
    with pytest.raises(DataError, match="is empty"):
        pv.evidence.evaluate(pair, data, split=empty[0], num_samples=20)
    codes = pv.posterior.encode(pair, data, idle=True)
    assert all(f"x_{split}" not in codes for split in empty)
    assert len(codes["x_train"]) == data.size("train")


CHAINS = ("noising", "denoising", "few-steps", "nats-per-level")
OF = {  # what a picture applies to, where that is not `latent`
    "levels": (pv.pairs.hierarchical, {"latent": [3, 2], "hidden": [8]}),
    "classes": (pv.pairs.conditional, {"latent": 2, "hidden": [8]}),
    "analogies": (pv.pairs.conditional, {"latent": 2, "hidden": [8]}),
    "completions": (pv.pairs.autoregressive, {"hidden": [8]}),
    "growth": (pv.pairs.autoregressive, {"hidden": [8]}),
    "codebook": (pv.pairs.quantized, {"codes": 3, "places": 2, "size": 2, "hidden": [8]}),
    "code-map": (pv.pairs.quantized, {"codes": 3, "places": 2, "size": 2, "hidden": [8]}),
    **dict.fromkeys(("rolls", "states"), (pv.pairs.markov, {"latent": 2, "hidden": 8})),
    **dict.fromkeys(("beside", "critic"), (pv.pairs.adversarial, {"latent": 2, "hidden": [8]})),
    "through-noise": (pv.pairs.reversible, {"hidden": [8]}),
    "components": (pv.pairs.mixture, {"components": 3}),
    "frames": (pv.pairs.mixture, {"components": 3}),
    **{chain: (pv.pairs.diffusion, {"steps": 12, "width": 8}) for chain in CHAINS},
}
NO_DATA = ("curves", "steps", "rate-distortion", "graph", "tables")
OF_MACHINES = ("filters", "chains", "bracket")  # see tests/pairs/test_boltzmann.py: they need binary data


@pytest.mark.parametrize("name", some([name for name in PICTURES if name not in (*NO_DATA, *OF_MACHINES)], 3))
def test_pictures_are_of_it(name):
    data = load(("test",))
    if name in ("rolls", "states"):
        rng = np.random.default_rng(0)
        fields = {"x": rng.normal(size=(40, 5, 2)), "state": rng.normal(size=(40, 10)), "lengths": np.full(40, 4)}
        data = pv.load_data(fields, test=0)
    build, options = OF.get(name, (pv.pairs.latent, {"latent": 2, "hidden": [8]}))
    assert PICTURES[name](build(data.spec, **options), data).axes


def test_from_the_first_command_to_the_last(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pyro_vae.report.report.draw_all", lambda *args: Drawn({}, {}))
    np.savez("d.npz", x=np.random.default_rng(0).random((60, 6)).astype("f4"))
    small = ["--hidden", "[8]", "--latent", "2", "--compile", "off", "--run", "run"]
    assert main(["train", "latent", *small, "--epochs", "1", "--data", "d.npz", "--test", "0"]) == 0
    assert main(["resume", "run", "--epochs", "2"]) == 0
    capsys.readouterr()
    assert main(["evaluate", "run", "--samples", "10"]) == 0
    assert "valid split, 6 data" in capsys.readouterr().out
    assert main(["evaluate", "run", "--samples", "10", "--split", "test"]) == 2
    assert "The test split of d is empty: choose valid" in capsys.readouterr().err
    assert main(["diagnose", "run", "--split", "test"]) == 2
    assert main(["encode", "run", "--idle", "true"]) == 0
    assert main(["draw", "run", "reconstructions", "--split", "test"]) == 2
