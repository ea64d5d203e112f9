"""A run folder opened from Python and from the command line, whoever wrote it."""

import json
import math
from datetime import date
from pathlib import Path

import numpy as np
import pytest
import torch

import pyro_vae as pv
from pyro_vae.cli import main
from pyro_vae.pairs import find
from pyro_vae.program import PairError
from pyro_vae.runs import RunError
from pyro_vae.runs.checkpoint import load as read_checkpoint
from pyro_vae.runs.command import argument_of

OWN = """
import pyro_vae as pv

def tiny(spec, latent=2):
    zoo = pv.pairs.latent(spec, latent=latent, hidden=[8])
    return pv.Pair(zoo.model, zoo.guide)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.py").write_text(OWN)
    return tmp_path


@pytest.fixture
def arrays(folder):
    x = torch.rand(80, 4, generator=torch.Generator().manual_seed(0)).numpy()
    np.savez(folder / "x.npz", x=x)
    return {"x": x}


def tiny(spec, latent=2):
    zoo = pv.pairs.latent(spec, latent=latent, hidden=[8])
    return pv.Pair(zoo.model, zoo.guide)


def said(capsys, *words):
    status = main(list(words))
    out = capsys.readouterr()
    return status, out.out, out.err


def test_what_fit_wrote_is_what_load_gives(arrays, folder):
    data = pv.load_data("x.npz")
    fitted = pv.fit(pv.pairs.latent(data.spec, latent=2, hidden=[8]), data, epochs=3, compile="off", run="r")
    loaded = pv.load("r")
    assert torch.equal(loaded.encode(), fitted.encode())
    assert (loaded.epochs, loaded.steps, loaded.history) == (fitted.epochs, fitted.steps, fitted.history)
    assert loaded.best == fitted.best == max(fitted.history, key=lambda row: row["elbo"])
    assert loaded.training == fitted.training
    assert 0 < loaded.seconds <= fitted.seconds
    assert not loaded.pair.training
    assert loaded.sample(3).shape == (3, 4)
    (folder / "x.npz").rename("moved.npz")
    with pytest.raises(RunError, match=r"are not at .* any more; say where they are with data="):
        pv.load("r")
    assert torch.equal(pv.load("r", data="moved.npz").encode(), fitted.encode())
    with pytest.raises(RunError, match="does not exist"):
        pv.load("nowhere")


def test_a_pair_of_ones_own_is_opened_by_what_builds_it(arrays, folder, capsys):
    data = pv.load_data(arrays)
    pair = tiny(data.spec)
    fitted = pv.fit(pair, data, epochs=1, compile="off", run="r")
    with pytest.raises(RunError, match="with a pair that the run cannot build; say what does, with build="):
        pv.load("r")
    with pytest.raises(RunError, match="with data from memory; say what they are, with data="):
        pv.load("r", build=tiny)
    for build, source in ((tiny, arrays), ("tiny.py:tiny", "x.npz"), (tiny, data)):
        assert torch.equal(pv.load("r", build=build, data=source).encode(), fitted.encode())
    with pytest.raises(PairError, match="the pair's has"):
        pv.load("r", build=lambda spec: tiny(spec, latent=3), data=data)
    status, _, message = said(capsys, "evaluate", "r")
    assert status == 2
    assert "--pair file.py:function" in message
    status, _, message = said(capsys, "evaluate", "r", "--pair", "tiny.py:tiny")
    assert status == 2
    assert "with --data and a .npz, .npy or folder" in message
    known = ("--pair", "tiny.py:tiny", "--data", "x.npz")
    status, out, _ = said(capsys, "evaluate", "r", *known, "--samples", "10", "--json")
    assert status == 0
    assert json.loads(out)["elbo"] == pytest.approx(pv.elbo(pair, data.batch("test"), num_samples=1).elbo, abs=2)


def test_a_trained_pair_is_saved_as_a_run(arrays, folder, capsys):
    data = pv.load_data("x.npz")
    fitted = pv.fit(pv.pairs.latent(data.spec, latent=2, hidden=[8]), data, epochs=1, compile="off")
    fitted.save("saved")
    assert torch.equal(pv.load("saved").encode(), fitted.encode())
    with pytest.raises(RunError, match="already holds a run"):
        fitted.save("saved")
    status, _, message = said(capsys, "draw", "saved", "curves", "--out", "curves.svg")
    assert status == 0, message
    fitted.pair.save("pair.ckpt")
    other = pv.pairs.latent(data.spec, latent=2, hidden=[8])
    other.load_state_dict(read_checkpoint(folder / "pair.ckpt")["parameters"])
    assert torch.equal(other.encode(data.batch("test")), fitted.encode())


def test_code_from_a_file_runs_only_if_it_is_named(arrays, folder):
    data = pv.load_data("x.npz")
    pv.fit(find("tiny.py:tiny")(data.spec, latent=3), data, epochs=1, compile="off", run="r")
    with pytest.raises(RunError, match=r"whose code would be run; allow it with build='tiny.py:tiny'"):
        pv.load("r")
    (folder / "other.py").write_text(OWN + "\n# other")
    with pytest.raises(RunError, match="is not the same code"):
        pv.load("r", build="other.py:tiny")
    assert pv.load("r", build="tiny.py:tiny").encode().shape == (8, 3)


def test_a_run_says_how_commands_open_it(folder):
    def argument(pair, data):
        return argument_of(Path("my runs"), {"pair": pair and {"name": pair}, "data": data and {"name": data}})

    assert argument("latent", "digits") == "'my runs'"
    assert argument(f"{folder}/tiny.py:tiny", "digits") == "'my runs' --pair tiny.py:tiny"
    assert argument("/elsewhere/tiny.py:tiny", "digits") == "'my runs' --pair /elsewhere/tiny.py:tiny"
    assert argument(None, None) == "'my runs' --pair FILE.py:FUNCTION --data FILE"


def test_a_run_knows_how_long_it_trained_however_often_it_stopped(arrays, folder):
    data = pv.load_data("x.npz")
    small = {"latent": 2, "hidden": [8]}
    first = pv.fit(pv.pairs.latent(data.spec, **small), data, epochs=2, compile="off", run="r")
    one = first.run.seconds
    again = pv.fit(pv.pairs.latent(data.spec, **small), data, epochs=4, compile="off", run="r", resume=True)
    assert one < again.run.seconds <= first.seconds + again.seconds
    assert pv.load("r").seconds == again.run.seconds
    pv.load("r").save("copy")
    assert pv.load("copy").seconds == again.run.seconds
    config = again.run.config
    for known in (None, 3, {"seconds": -1.0, "step": 4}, {"seconds": "long", "step": 4}, {"seconds": 1.0, "step": 1}):
        again.run.update({**config, "time": known})  # of an older version, damaged, or of an earlier step
        assert math.isnan(pv.load("r").seconds)
    assert pv.load("copy").run.machine == config["machine"]
    assert config["machine"] | {"threads": torch.get_num_threads(), "torch": torch.__version__} == config["machine"]
    assert date.fromisoformat(config["machine"]["date"])
    more = pv.fit(pv.pairs.latent(data.spec, **small), data, epochs=6, compile="off", run="r", resume=True)
    assert more.run.seconds is None, "what came before is not known"
