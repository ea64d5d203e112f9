"""The command line as its users and their scripts meet it."""

import contextlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from pyro_vae.cli.commands import COMMANDS, main
from pyro_vae.runs import checkpoint

QUICK = ["--epochs", "2", "--latent", "3", "--hidden", "[16]", "--compile", "off"]

OWN_PAIR = '''
"""p(x, z) = Normal(z; 0, I) Normal(x; W z, 1)"""
import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import nn

import pyro_vae as pv


class Model(PyroModule):
    def __init__(self, features, latent):
        super().__init__()
        self.latent = latent
        self.decode = nn.Linear(latent, features)

    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(self.latent), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decode(z), 0.3).to_event(1), obs=x)


class Guide(PyroModule):
    def __init__(self, features, latent):
        super().__init__()
        self.encode = nn.Linear(features, 2 * latent)

    def forward(self, x):
        loc, log_scale = self.encode(x).chunk(2, -1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


def mine(spec, latent: int = 2) -> pv.Pair:
    """A pair of my own.

    Args:
        latent: size of z.
    """
    return pv.Pair(Model(spec.features, latent), Guide(spec.features, latent))


def not_a_pair(spec):
    return 3
'''


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Train once; return the folder and what --json printed."""
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as printed:
        patch.chdir(folder := tmp_path_factory.mktemp("trained"))
        assert main(["train", "--run", "run", "--json", *QUICK]) == 0
    return folder / "run", json.loads(printed.getvalue())


@pytest.fixture
def run(trained, tmp_path):
    return shutil.copytree(trained[0], tmp_path / "run")


def result(capsys) -> dict:
    """What --json printed: one object and nothing else."""
    return json.loads(capsys.readouterr().out)


def refusal(capsys, *argv: str, status: int = 2) -> str:
    assert main(list(argv)) == status
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.strip().splitlines()
    assert len(lines) == 1, captured.err
    assert lines[0].startswith("pyro-vae: ")
    assert "Traceback" not in captured.err
    return lines[0]


def test_list_names_pairs_and_data(capsys):
    assert main(["list", "--json"]) == 0
    found = result(capsys)
    assert {"latent", "linear"} <= found["pairs"].keys()
    assert {"digits", "mnist", "fashion_mnist", "cifar10"} <= found["data"].keys()
    assert all(isinstance(line, str) and line for group in found.values() for line in group.values())
    assert main(["list"]) == 0
    assert "latent" in capsys.readouterr().out


def test_check_passes_a_sound_pair_and_names_a_problem(capsys):
    assert main(["check", "latent", "--json"]) == 0
    assert result(capsys) == {"ok": True, "problems": []}
    assert main(["check", "latent", "--likelihood", "bernoulli", "--json"]) == 1
    found = result(capsys)
    assert not found["ok"]
    assert found["problems"][0]["site"] == "x"
    assert "Bernoulli" in found["problems"][0]["problem"]
    assert "--binarize dynamic" in found["problems"][0]["change"]


def test_train_prints_its_figures_and_leaves_a_run_folder(trained, run):
    _, found = trained
    assert found.keys() == {
        *("run", "epochs", "steps", "seconds", "compiled"),
        *(
            "elbo",
            "reconstruction",
            "kl",
            "log_evidence",
            "log_evidence_stderr",
            "khat_share",
            "proposal",
            "codes",
            "own",
        ),
    }
    assert 0 <= found["khat_share"] <= 1
    assert found["run"] == "run"
    assert found["epochs"] == 2
    assert found["steps"] == 22
    assert not found["compiled"]
    assert found["elbo"] == pytest.approx(found["reconstruction"] - found["kl"])
    assert found["log_evidence"] > found["elbo"]
    names = {"config.yaml", "last.ckpt", "best.ckpt", "history.csv", "figures"}
    assert names <= set(os.listdir("run"))
    assert {"samples.png", "reconstructions.png"} <= set(os.listdir("run/figures"))
    assert (run / "history.csv").read_text().count("\n") == 3


@pytest.mark.slow
def test_train_shows_a_table_beside_pca_and_numbers_its_folders(capsys):
    assert main(["train", *QUICK]) == 0
    shown = capsys.readouterr().out
    for words in ("ELBO", "reconstruction", "KL", "log p(x)", "PCA, 3 components", "nats per datum", "may be positive"):
        assert words in shown
    assert main(["train", *QUICK]) == 0
    assert sorted(os.listdir("runs")) == ["latent-digits", "latent-digits-2"]


@pytest.mark.slow
def test_resume_goes_on_and_equals_a_run_that_never_stopped(capsys, run):
    assert main(["resume", str(run), "--epochs", "4", "--json"]) == 0
    resumed = result(capsys)
    assert main(["train", "--run", "whole", "--json", *QUICK, "--epochs", "4"]) == 0
    whole = result(capsys)
    for key in ("epochs", "elbo", "reconstruction", "kl", "log_evidence", "log_evidence_stderr"):
        assert resumed[key] == whole[key]
    mine, theirs = (checkpoint.load(Path(f) / "last.ckpt")["parameters"] for f in (run, "whole"))
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)
    assert "at least 4, got 3" in refusal(capsys, "resume", str(run), "--epochs", "3")


def test_evaluate_has_the_figures_by_site(capsys, run):
    assert main(["evaluate", str(run), "--samples", "200", "--json"]) == 0
    found = result(capsys)
    assert found["split"] == "test"
    assert found["samples"] == 200
    assert found["num_data"] == 180
    assert found["sites"].keys() == {"z", "x"}
    assert sum(found["sites"].values()) == pytest.approx(found["elbo"])
    assert 0 < found["log_evidence_stderr"] < 1
    assert 1 <= found["ess"] <= 200
    assert 0 <= found["active_units"] <= 3
    kept = json.loads((run / "evaluation.json").read_text())
    made = kept.pop("made")
    assert kept == found
    assert made["command"] == f"pyro-vae evaluate {run} --samples 200 --json"
    assert made["reached"].startswith("log p(x) ")
    assert made["table"]["ELBO"] == f"{found['elbo']:.2f}"
    assert main(["evaluate", str(run), "--samples", "10", "--split", "valid"]) == 0
    told = capsys.readouterr()
    assert "valid split" in told.out
    assert "evaluation.json and" in told.err
    report = (run / "report.html").read_text()
    assert (
        f"--samples 10 --split valid</code> on {made['date']}: valid split, 180 data, 10 draws per datum.</p>" in report
    )
    assert "--samples 200" not in report  # the latest stands in its place
    assert report.count("<!-- /evaluation -->") == 2
    assert main(["list", "--runs", str(run.parent)]) == 0
    assert re.search(r"  log p\(x\) >= -?[\d.]+ \(valid\)  latent on digits", capsys.readouterr().out)


@pytest.mark.parametrize("suffix", ["png", *(pytest.param(other, marks=pytest.mark.slow) for other in ("svg", "pdf"))])
def test_draw_writes_the_picture_that_is_asked_for(capsys, run, suffix):
    for what in ("samples", "reconstructions"):
        assert main(["draw", str(run), what, "--out", f"new/{what}.{suffix}"]) == 0
        assert Path(f"new/{what}.{suffix}").stat().st_size > 2000
    capsys.readouterr()
    assert "must end in .png" in refusal(capsys, "draw", str(run), "samples", "--out", "x.bmp")


@pytest.mark.slow
def test_a_pair_of_ones_own_trains_from_the_command_line(capsys, tmp_path):
    Path("my_pair.py").write_text(OWN_PAIR)
    name = "my_pair.py:mine"
    assert main(["check", name, "--json"]) == 0
    assert result(capsys)["ok"]
    options = ["--latent", "3", "--epochs", "2", "--compile", "off"]
    assert main(["train", name, *options, "--run", "own", "--json"]) == 0
    assert result(capsys)["log_evidence"] < 0
    report = Path("own/report.html").read_text()
    for command in ("draw own --pair my_pair.py:mine samples", "diagnose own --pair my_pair.py:mine"):
        assert f"<code>pyro-vae {command}</code>" in report
    said = refusal(capsys, "evaluate", "own", "--json")
    assert "allow it with --pair my_pair.py:mine" in said
    assert main(["evaluate", "own", "--pair", name, "--samples", "20", "--json"]) == 0
    assert result(capsys)["sites"].keys() == {"z", "x"}
    assert main(["resume", "own", "--pair", name, "--epochs", "3", "--json"]) == 0
    assert result(capsys)["epochs"] == 3
    assert main(["draw", "own", "samples", "--pair", name]) == 0


def test_help_shows_the_options_of_the_pair(capsys):
    assert main(["--help"]) == 0
    assert "pyro-vae COMMAND" in capsys.readouterr().out
    for command in COMMANDS:
        with pytest.raises(SystemExit) as stop:
            main([command, "--help"])
        assert stop.value.code == 0
        assert "--json" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["train", "linear", "--help"])
    shown = capsys.readouterr().out
    assert "--noise" in shown
    assert "--covariance" not in shown
    assert "--batch-size" in shown
    assert "--batch_size" not in shown


LIGHT = [
    ["--help"],
    ["list"],
    *([name, "--help"] for name in COMMANDS),
    ["train", "flow", "--help"],
    ["draw", "runs/a", "samples", "--help"],
    ["train", "--bach-size", "3"],
    ["train", "--epochs", "2.5"],
    ["trian"],
]


def test_help_and_a_wrong_command_load_nothing_heavy():
    code = f"""
import contextlib, sys
from pyro_vae.cli import main
for argv in {LIGHT!r}:
    with contextlib.suppress(SystemExit):
        main(argv)
    assert not {{"torch", "pyro", "matplotlib"}} & sys.modules.keys(), argv
"""
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


# --- bad input ----------------------------------------------------------------------------------------------------------


BAD = [
    (["trian"], "there is no command 'trian'; did you mean train?"),
    (["train", "--hidden", "200", "100"], "'100' is no pair; several numbers of one option are joined by commas"),
    (["train", "--dat", "digits"], "--dat could match --data, --data-dir"),
    (["train", "latnt"], "there is no pair 'latnt'; did you mean latent?"),
    (["train", "--data", "minst"], "mnist"),
    (["train", "--latnt", "3"], "there is no option --latnt; did you mean --latent?"),
    (["train", "--latent", "many"], "latent"),
    (["train", "--latent", "0"], "latent"),
    (["train", "--epochs", "0"], "epochs must be at least 1, got 0"),
    (["train", "--lr", "-1"], "lr must be a finite number above 0"),
    (["train", "--schedule", "linear"], "schedule"),
    (["train", "--binarize", "black"], "binarize must be one of gray, static, dynamic; got 'black'"),
    (["train", "--likelihood", "bernoulli"], "--binarize dynamic"),
    (["train", "--net", "cnn"], "net"),
    (["train", "--activation", "swoosh"], "activation"),
    (["train", "--data", "missing.npz"], "missing.npz"),
    (["train", "--data", "minst", "--data-dir", "."], "did you mean 'mnist'?"),
    (["train", "--data", "nan.npz"], "nan"),
    (["train", "--data", "empty.npz"], "empty"),
    (["train", "--data", "uneven.npz"], "uneven"),
    (["train", "--data", "torn.npz"], "torn.npz"),
    (["train", "--data", "mnist", "--data-dir", "torn"], "torn"),
    (["train", "--run", "file"], "file is a file"),
    (["train", "--run", "full"], "holds other files"),
    (["train", "nowhere.py:mine"], "there is no file nowhere.py"),
    (["train", "broken.py:mine"], "broken.py cannot be loaded"),
    (["train", "my_pair.py:absent"], "has no function 'absent'"),
    (["train", "my_pair.py:not_a_pair"], "returned int, not a Pair"),
    (["train", "needs_y.py:mine", "--data", "table.npz"], "needs the field 'y'"),
    (["evaluate", "nowhere"], "nowhere does not exist"),
    (["evaluate", "full"], "full holds no run"),
    (["resume", "nowhere"], "nowhere does not exist"),
    (["evaluate", "nowhere", "--proposal", "guid"], "there is no proposal 'guid'; did you mean guide?"),
    (["draw", "nowhere", "samples"], "nowhere does not exist"),
    (["draw", "nowhere", "sample"], "did you mean samples?"),
]


@pytest.fixture
def bad_files(tmp_path):
    Path("my_pair.py").write_text(OWN_PAIR)
    Path("needs_y.py").write_text(
        OWN_PAIR.replace("def forward(self, x):\n        with", "def forward(self, x, y):\n        with")
    )
    Path("broken.py").write_text("import nothing_of_this_name\n")
    Path("file").write_text("")
    Path("full").mkdir()
    Path("full/notes.txt").write_text("")
    x = np.random.default_rng(0).normal(size=(50, 4))
    np.savez("table.npz", x=x)
    np.savez("empty.npz", x=x[:0])
    np.savez("uneven.npz", x=x, y=np.zeros(49, np.int64))
    x[3, 2] = np.nan
    np.savez("nan.npz", x=x)
    Path("torn.npz").write_bytes(Path("table.npz").read_bytes()[:300])
    raw = Path("torn/MNIST/raw")
    raw.mkdir(parents=True)
    for name in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        (raw / f"{name}-ubyte").write_bytes(b"\x00\x00\x08\x03\x00\x00")


@pytest.mark.parametrize(("argv", "said"), BAD, ids=lambda v: "_".join(v) if isinstance(v, list) else "")
def test_bad_input_gets_one_clear_sentence(capsys, bad_files, argv, said):
    before = set(os.listdir("."))
    assert said in refusal(capsys, *argv)
    assert set(os.listdir(".")) - {"__pycache__"} == before, "something was half written"


def test_a_used_run_folder_is_refused_and_left_as_it_was(capsys, run):
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    said = refusal(capsys, "train", "--run", str(run), *QUICK)
    assert "already holds a run" in said
    assert "pyro-vae resume" in said
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_unwritable_folder_is_refused(capsys):
    Path("locked").mkdir(mode=0o500)
    assert "cannot write to locked/run" in refusal(capsys, "train", "--run", "locked/run", *QUICK)


def test_a_folder_below_a_file_is_refused(capsys):
    Path("file").write_text("")
    assert "cannot write to file/run" in refusal(capsys, "train", "--run", "file/run", *QUICK)


def test_a_damaged_checkpoint_is_named(capsys, run):
    best = run / "best.ckpt"
    content = best.read_bytes()
    best.write_bytes(content[:100] + bytes([content[100] ^ 1]) + content[101:])
    assert "best.ckpt is damaged" in refusal(capsys, "evaluate", str(run))
    best.write_bytes(content[:-3])
    assert "best.ckpt is not a complete checkpoint" in refusal(capsys, "evaluate", str(run))
    best.unlink()
    assert "best.ckpt does not exist" in refusal(capsys, "evaluate", str(run))


def test_a_run_of_another_version_is_named(capsys, run):
    config = run / "config.yaml"
    text = config.read_text()
    config.write_text(text.replace("format: 1", "format: 99"))
    assert "has format 99" in refusal(capsys, "evaluate", str(run))
    config.write_text("][")
    assert "config.yaml cannot be read" in refusal(capsys, "evaluate", str(run))
    config.write_text("a: 1")
    assert "does not describe a run" in refusal(capsys, "evaluate", str(run))
    config.write_text(text.replace("latent: 3", "latent: 4"))
    assert "stored parameter" in refusal(capsys, "evaluate", str(run))


@pytest.mark.slow
def test_a_damaged_last_checkpoint_falls_back_to_the_one_before(capsys, run):
    assert main(["resume", str(run), "--epochs", "3", "--json"]) == 0
    capsys.readouterr()
    (run / "last.ckpt").write_bytes(b"torn")
    assert main(["resume", str(run), "--epochs", "4", "--json"]) == 0
    captured = capsys.readouterr()
    assert "going on from the checkpoint before it" in captured.err
    resumed = json.loads(captured.out)
    assert main(["train", "--run", "whole", "--json", *QUICK, "--epochs", "4"]) == 0
    assert result(capsys)["elbo"] == resumed["elbo"]
