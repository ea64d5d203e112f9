"""Data and pairs that move or change between training and what follows it."""

import os
import shutil

import numpy as np
import pytest
import torch
import yaml
from tables import only

import pyro_vae as pv
from pyro_vae import pairs
from pyro_vae.cli import main
from pyro_vae.posterior import latent_vectors
from pyro_vae.report.sections import Drawn
from pyro_vae.runs import Run, RunError

pytestmark = pytest.mark.filterwarnings("always::pyro_vae.runs.RunNote")  # as the command line shows them

PAIR = """
import pyro, torch
import pyro.distributions as dist
from torch import nn
import pyro_vae as pv
from nets import decoder


def build(spec):
    dec, enc = decoder(spec.features), nn.Linear(spec.features, 2)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.full((2,), 0.0), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(dec(z), 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(enc(x), 1.0).to_event(1))

    return pv.Pair(model, guide)
"""
NETS = """
import torch


def decoder(features):
    return torch.nn.Linear(2, features)
"""


def save(path, x):
    np.savez(path, x=x)


X = np.random.default_rng(0).random((60, 6)).astype("f4")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with two runs: of a ready-made pair, and of a user's own."""
    folder = tmp_path_factory.mktemp("home")
    save(folder / "d.npz", X)
    (folder / "sub").mkdir()
    (folder / "sub" / "my.py").write_text(PAIR)
    (folder / "sub" / "nets.py").write_text(NETS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pyro_vae.report.report.draw_all", lambda *args: Drawn({}, {}))
        patch.chdir(folder / "sub")
        quick = ["--epochs", "1", "--compile", "off", "--data", "../d.npz"]
        assert main(["train", "latent", "--hidden", "[8]", "--latent", "2", *quick, "--run", "run"]) == 0
        assert main(["train", "my.py:build", *quick, "--run", "own"]) == 0
    return folder


@pytest.fixture
def here(home, tmp_path, monkeypatch):
    shutil.copytree(home, tmp_path / "home")
    monkeypatch.setattr("pyro_vae.report.report.draw_all", lambda *args: Drawn({}, {}))
    for name in ("run", "own"):  # of the copy
        path = tmp_path / "home" / "sub" / name / "config.yaml"
        path.write_text(path.read_text().replace(str(home), str(tmp_path / "home")))
    monkeypatch.chdir(tmp_path / "home")
    return tmp_path / "home"


def config(path):
    return yaml.safe_load((path / "config.yaml").read_text())


def tell(capsys, status, *words):
    """Run a command; return what it says on stderr."""
    assert main(words) == status
    return capsys.readouterr().err


def test_what_is_stored(home):
    stored = config(home / "sub" / "own")
    assert stored["pair"]["name"] == f"{home}/sub/my.py:build"
    assert all(len(stored["fingerprints"][what]) == 32 for what in ("pair", "data"))
    assert config(home / "sub" / "run")["fingerprints"]["pair"] is None


CHANGED = {
    "reversed": X[::-1] * 0.5,
    "fewer": X[:50],
    "one value": np.where(np.arange(360).reshape(60, 6) == 7, 0.5, X),
}


@pytest.mark.parametrize("change", only(CHANGED, ["one value"]))
def test_changed_data_are_not_trained_on_and_named_elsewhere(here, capsys, change):
    assert "note" not in tell(capsys, 0, "evaluate", "sub/run", "--samples", "5")
    save("d.npz", CHANGED[change])
    before = (here / "sub" / "run" / "config.yaml").read_text()
    assert "other data" in tell(capsys, 2, "resume", "sub/run", "--epochs", "2")
    assert (here / "sub" / "run" / "config.yaml").read_text() == before
    for words in (["evaluate", "sub/run", "--samples", "5"], ["encode", "sub/run", "--idle", "true"]):
        assert "other data" in tell(capsys, 0, *words)


def test_the_way_round_is_the_one_that_is_named(here, capsys):
    save("d.npz", X[:50])
    stored = config(here / "sub" / "run")
    del stored["fingerprints"]["data"]
    (here / "sub" / "run" / "config.yaml").write_text(yaml.safe_dump(stored))
    assert "other data" not in tell(capsys, 0, "resume", "sub/run", "--epochs", "2")


def test_moved_data_are_found_where_one_says(here, capsys):
    shutil.move("d.npz", "moved.npz")
    said = tell(capsys, 2, "evaluate", "sub/run")
    assert "d.npz any more; say where they are with --data" in said
    assert "note" not in tell(capsys, 0, "evaluate", "sub/run", "--samples", "5", "--data", "moved.npz")
    assert tell(capsys, 0, "draw", "sub/run", "reconstructions", "--data", "moved.npz") == ""
    assert "note" not in tell(capsys, 0, "resume", "sub/run", "--epochs", "2", "--data", "moved.npz")
    assert config(here / "sub" / "run")["data"]["name"] == str(here / "moved.npz")
    said = tell(capsys, 0, "evaluate", "sub/run", "--samples", "5")
    assert said == "kept in sub/run/evaluation.json and sub/run/report.html\n"


def test_other_data_in_place_of_moved_ones(here, capsys):
    save("other.npz", X[::-1])
    assert "other data" in tell(capsys, 2, "resume", "sub/run", "--epochs", "2", "--data", "other.npz")
    assert "other data" in tell(capsys, 0, "evaluate", "sub/run", "--samples", "5", "--data", "other.npz")


def test_a_pair_is_known_by_its_file_from_any_folder(here, capsys, monkeypatch):
    quick = ["evaluate", "sub/own", "--samples", "5", "--pair"]
    assert "allow it with --pair" in tell(capsys, 2, *quick[:-1])
    assert "note" not in tell(capsys, 0, *quick, "sub/my.py:build")
    assert "note" not in tell(capsys, 0, *quick, f"{here}/sub/../sub/my.py:build")
    (here / "link").symlink_to(here / "sub")
    assert "note" not in tell(capsys, 0, *quick, "link/my.py:build")
    monkeypatch.chdir(here / "sub")
    assert "note" not in tell(capsys, 0, "evaluate", "own", "--samples", "5", "--pair", "my.py:build")


def test_another_file_of_the_same_name_does_not_run(here, capsys):
    (here / "other").mkdir()
    (here / "other" / "my.py").write_text("raise SystemExit('it ran')")
    said = tell(capsys, 2, "evaluate", "sub/own", "--pair", "other/my.py:build")
    assert "is not the same code" in said
    assert "is not the same code" in tell(capsys, 2, "evaluate", "sub/own", "--pair", "sub/my.py:other")


def test_a_moved_pair_is_known_by_its_content(here, capsys):
    shutil.copytree("sub", "new", ignore=shutil.ignore_patterns("run", "own"))
    (here / "sub" / "my.py").unlink()
    assert "note" not in tell(capsys, 0, "evaluate", "sub/own", "--samples", "5", "--pair", "new/my.py:build")


def test_a_changed_pair_is_named(here, capsys):
    (here / "sub" / "my.py").write_text(PAIR.replace("0.0", "5.0"))
    for command in (["evaluate", "sub/own", "--samples", "5"], ["resume", "sub/own", "--epochs", "2"]):
        assert "has changed since" in tell(capsys, 0, *command, "--pair", "sub/my.py:build")


def test_a_changed_file_beside_a_pair_is_named(here, capsys):
    (here / "sub" / "nets.py").write_text(f"{NETS}  # changed")
    said = tell(capsys, 0, "evaluate", "sub/own", "--samples", "5", "--pair", "sub/my.py:build")
    assert "or of a file beside it that it imports, has changed since" in said


def test_files_that_a_pairs_file_imports_are_part_of_it(tmp_path):
    files = {
        "mine.py": "import os, nets\ndef build(spec):\n    from pack import deep\n",
        "nets.py": "import more",
        "more.py": "import nets  # a circle",
        "pack/__init__.py": "",
        "pack/deep.py": "from . import deeper",
        "pack/deeper.py": "WIDTH = 3",
        "os.py": "A = 1",
        "other.py": "B = 1",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    name = f"{tmp_path}/mine.py:build"
    known = pairs.source_of(name)
    shutil.copytree(tmp_path, tmp_path / "moved")
    assert pairs.source_of(f"{tmp_path}/moved/mine.py:build") == known
    for changed in files:
        (tmp_path / changed).write_text(files[changed] + "\n# changed")
        assert (pairs.source_of(name) == known) == (changed in ("os.py", "other.py")), changed
        (tmp_path / changed).write_text(files[changed])
    (tmp_path / "nets.py").unlink()
    os.mkfifo(tmp_path / "nets.py")
    assert pairs.source_of(name) not in (None, known)  # and does not wait for the pipe


def test_the_neighbours_of_two_files_do_not_mix(here, tmp_path):
    for name, width in (("one", 3), ("two", 5)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "pairs_of_mine.py").write_text(
            "import pyro_vae as pv, parts\nfrom pack.deep import WIDTH\n"
            "def build(spec):\n    import late\n    assert late.WIDTH == parts.WIDTH == WIDTH\n"
            "    return pv.pairs.latent(spec, latent=late.WIDTH, hidden=[4])\n"
        )
        (tmp_path / name / "pack").mkdir()
        (tmp_path / name / "pack" / "__init__.py").write_text("")
        for part in ("parts", "late", "pack/deep"):
            (tmp_path / name / f"{part}.py").write_text(f"WIDTH = {width}")
    data = pv.load_data({"x": torch.rand(20, 4)})
    found = {name: pv.pairs.find(f"{tmp_path}/{name}/pairs_of_mine.py:build") for name in ("one", "two")}
    for _ in range(2):
        sizes = {name: latent_vectors(build(data.spec), data.batch("train", 2)) for name, build in found.items()}
        assert sizes == {"one": {"z": 3}, "two": {"z": 5}}


def test_in_python_other_data_are_refused_too(tmp_path):
    def pair_of(data):
        torch.manual_seed(0)
        return pv.pairs.latent(data.spec, latent=2, hidden=[4])

    data, other = pv.load_data({"x": X}), pv.load_data({"x": X[::-1].copy()})
    pv.fit(pair_of(data), data, epochs=1, compile="off", run=tmp_path / "run")
    with pytest.raises(RunError, match="other data than arrays"):
        pv.fit(pair_of(data), other, epochs=2, compile="off", run=tmp_path / "run", resume=True)
    assert not Run.open(tmp_path / "run").locked
    assert pv.fit(pair_of(data), data, epochs=2, compile="off", run=tmp_path / "run", resume=True).epochs == 2


def test_fingerprints_are_of_contents_alone(tmp_path):
    y = np.arange(60) % 3
    save(tmp_path / "a.npz", X)
    known = pv.load_data({"x": X, "y": y}).fingerprint
    assert pv.load_data({"x": np.asfortranarray(X), "y": y.astype("i2")}).fingerprint == known
    assert pv.load_data({"x": X, "y": y[::-1]}).fingerprint != known
    assert pv.load_data({"x": X, "y": y}, valid=3).fingerprint != known
    assert pv.load_data({"x": X, "y": y}, seed=1).fingerprint != known
    assert pv.load_data(tmp_path / "a.npz").fingerprint == pv.load_data({"x": X}).fingerprint


def test_of_large_fields_a_sample_is_read(monkeypatch):
    monkeypatch.setattr("pyro_vae.data.fingerprint.MAX_BYTES", 240)
    known = pv.load_data({"x": X}).fingerprint
    assert pv.load_data({"x": X[::-1]}).fingerprint != known
