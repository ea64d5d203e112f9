"""Settings that cannot be are refused by name, before anything is written, and leave the pair as it was."""

import re
import shutil

import numpy as np
import pytest
import torch
import yaml
from tables import only

import pyro_vae as pv
from pyro_vae.cli import main
from pyro_vae.runs import RunError
from pyro_vae.training import NonFinite, SettingsError, devices, distributed

TRAIN = ["train", "latent", "--hidden", "[8]", "--latent", "2", "--epochs", "1", "--compile", "off", "--run", "run"]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with data and a run, which is never written to."""
    folder = tmp_path_factory.mktemp("home")
    np.savez(folder / "d.npz", x=np.random.default_rng(0).random((60, 6)).astype("f4"))
    data = pv.load_data(folder / "d.npz")
    pv.fit(pv.pairs.latent(data.spec, latent=2, hidden=[8]), data, epochs=1, compile="off", run=folder / "run")
    return folder


@pytest.fixture
def here(home, tmp_path, monkeypatch):
    shutil.copytree(home, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(capsys, *words):
    """Run a command that must be refused; return the one sentence."""
    assert main(words) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("pyro-vae: ")]
    assert len(lines) == 1, lines
    return lines[0]


SEEDS = ["-1", str(2**63), str(2**64), str(2**70), "1.5"]


@pytest.mark.parametrize("seed", SEEDS)
def test_seeds_in_every_command(here, capsys, seed):
    shutil.move("run", "trained")
    for words in (
        [*TRAIN, "--data", "d.npz"],
        ["diagnose", "trained"],
        ["encode", "trained"],
        ["draw", "trained", "samples"],
        ["draw", "trained", "kl"],
    ):
        assert "seed" in refused(capsys, *words, "--seed", seed)
    assert not (here / "run").exists()
    assert not (here / "trained" / "figures").exists()


@pytest.mark.parametrize(
    "device", only(["meta", "hpu", "xla", "mps", "nonsense", "cuda:99", ""], ["meta", "hpu", "nonsense", "cuda:99", ""])
)
def test_devices_that_are_not_there(here, capsys, device):
    if device == "mps" and torch.backends.mps.is_available():
        pytest.skip("this machine has it")
    shutil.rmtree("run")
    said = refused(capsys, *TRAIN, "--data", "d.npz", "--device", device)
    assert "device" in said
    assert len(said) < 250
    assert not (here / "run").exists()


def test_far_too_many_devices_are_not_started(here, capsys, monkeypatch):
    monkeypatch.setattr(distributed, "_start", lambda *args: pytest.fail("processes were started"))
    shutil.move("run", "trained")
    assert "100000" in refused(capsys, *TRAIN, "--data", "d.npz", "--devices", "100000")
    assert not (here / "run").exists()
    stored = yaml.safe_load((here / "trained" / "config.yaml").read_text())
    stored["training"]["devices"] = 10**6
    (here / "trained" / "config.yaml").write_text(yaml.safe_dump(stored))
    assert "1000000" in refused(capsys, "resume", "trained", "--epochs", "2")


STORED = [{"seed": 2**64}, {"seed": -1}, {"device": "meta"}, {"device": "hpu"}, {"epochs": "three"}, {"lr": []}]


@pytest.mark.parametrize("change", STORED)
def test_config_yaml_with_settings_that_cannot_be(here, capsys, change):
    stored = yaml.safe_load((here / "run" / "config.yaml").read_text())
    stored["training"] |= change
    (here / "run" / "config.yaml").write_text(yaml.safe_dump(stored))
    assert next(iter(change)) in refused(capsys, "resume", "run", "--epochs", "2")


@pytest.mark.parametrize("name", ["", "a" * 300])
def test_names_that_no_folder_can_have(here, capsys, name):
    for words in (["resume", name], ["evaluate", name], ["encode", name], ["draw", name, "samples"]):
        refused(capsys, *words)
    for option in ("--run", "--data"):
        refused(capsys, *TRAIN[:-2], *(["--data", "d.npz"] if option == "--run" else []), option, name)
    if name:
        refused(capsys, "draw", "run", "graph", "--out", f"{name}.png")


HISTORIES = [
    "epoch,elbo\n1," + "1" * 200_000 + "\n",
    "epoch,elbo\n1," + '"' + "x" * 10**6,
    "epoch\n1,2,3\n",
    "\0\0",
    "epoch,elbo\n1,nan\n",
]


@pytest.mark.parametrize("content", HISTORIES)
def test_a_history_that_is_none(here, capsys, content):
    (here / "run" / "history.csv").write_text(content)
    assert main(["list", "--runs", "."]) == 0
    capsys.readouterr()
    assert main(["draw", "run", "curves"]) == 2
    assert re.search("history.csv cannot be read|the history is empty", capsys.readouterr().err)


KINDS = [
    {"epochs": float("nan")}, {"epochs": 1.5}, {"epochs": "3"}, {"epochs": True}, {"seed": 1.5}, {"seed": -1},
    {"seed": 2**64}, {"lr": "x"}, {"lr": float("inf")}, {"precision": 16}, {"devices": 0}, {"batch_size": [8]},
    {"device": "meta"}, {"device": 0}, {"patience": 0}, {"save_every": -1.0}, {"device": "hpu"}, {"devices": 10**6},
]  # fmt: skip


@pytest.mark.parametrize("settings", KINDS, ids=str)
def test_settings_of_the_wrong_kind_in_python(here, settings):
    data = pv.load_data("d.npz")
    with pytest.raises(SettingsError, match=next(iter(settings))):
        pv.fit(pv.pairs.latent(data.spec, latent=2, hidden=[8]), data, run="new", **settings)
    assert not (here / "new").exists()


class Boom(Exception):
    pass


def types(pair):
    return {name: (tensor.dtype, tensor.device) for name, tensor in pair.state_dict().items()}


def pairs(data):
    torch.manual_seed(0)
    return pv.pairs.latent(data.spec, latent=2, hidden=[8], likelihood="normal")


def test_a_fit_that_fails_leaves_the_nets_in_their_float_type(home, tmp_path):
    data = pv.load_data({"x": torch.randn(60, 6)})
    pair = pairs(data)
    pair.model.register_buffer("running", torch.zeros(3))
    before, values = types(pair), {name: tensor.clone() for name, tensor in pair.state_dict().items()}
    with pytest.raises(RunError):
        pv.fit(pair, data, precision="64", epochs=1, compile="off", run=home / "d.npz")
    assert types(pair) == before
    assert all(torch.equal(values[name], tensor) for name, tensor in pair.state_dict().items())
    with pytest.raises(NonFinite):
        pv.fit(pair, data, precision="64", epochs=1, compile="off", lr=1e308)
    assert types(pair) == before
    assert pv.fit(pair, data, epochs=1, compile="off").epochs == 1


def test_a_pair_that_is_refused_in_another_precision_is_as_it_was(tmp_path):
    """Programs with float32 constants of their own cannot run in float64."""
    data = pv.load_data({"x": torch.randn(60, 6)})
    pair = pairs(data)

    def fail(module, args):
        if next(module.parameters()).dtype is torch.float64:
            raise RuntimeError("expected Float but found Double")

    pair.model.decoder.register_forward_pre_hook(fail)
    before = types(pair)
    with pytest.raises(pv.PairError, match="expected Float"):
        pv.fit(pair, data, precision="64", epochs=1, run=tmp_path / "run")
    assert types(pair) == before
    assert not (tmp_path / "run").exists()


OWN = """
import pyro, torch
import pyro.distributions as dist
import pyro_vae as pv
def mine(spec):
    dec, enc = torch.nn.Linear(2, spec.features), torch.nn.Linear(spec.features, 2)
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            if x.dtype == torch.float64:
                raise TypeError("float32 alone")
            pyro.sample("x", dist.Normal(dec(z), 1.0).to_event(1), obs=x)
    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(enc(x), 1.0).to_event(1))
    return pv.Pair(model, guide)
"""


def test_a_refusal_on_the_command_line_leaves_the_name_free(here, capsys):
    (here / "own.py").write_text(OWN)
    words = ["train", "own.py:mine", "--epochs", "1", "--compile", "off", "--data", "d.npz", "--run", "new"]
    refused(capsys, *words, "--precision", "64")
    assert not (here / "new").exists()


def test_devices_by_name():
    assert devices._named("cpu") == torch.device("cpu")
